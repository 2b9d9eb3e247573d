"""Small networks for the recorded studies: an epoch on small pictures takes a fraction of a second.

Each function takes the number of classes and returns a network for images_NCHW with three channels.
"""

from torch import nn


def two_convolutions(num_classes: int) -> nn.Module:
    """Return a network like LeNet (LeCun et al. 1998), with ReLU and max-pooling."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
        *(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, num_classes)),
    )


def four_convolutions(num_classes: int) -> nn.Module:
    """Return a network of four convolutions with batch normalisation and a global average."""
    layers: list[nn.Module] = []
    for channels, out, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, num_classes)
    )


def perceptron(num_classes: int) -> nn.Module:
    """Return a perceptron with two hidden layers, on pictures averaged to 8 x 8 pixels."""
    return nn.Sequential(
        *(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, num_classes)),
    )
