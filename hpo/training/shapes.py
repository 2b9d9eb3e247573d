"""The sizes of the data sets that hpo knows by name, which need not be read to be known."""

from dataclasses import dataclass

from hpo.training.config import Config, FinalConfig

# Training images, test images (0: they are held out from the others), pixels, channels and classes.
KNOWN_SHAPES = {
    "cifar10": (50_000, 10_000, 32, 3, 10),
    "cifar100": (50_000, 10_000, 32, 3, 100),
    "svhn": (73_257, 26_032, 32, 3, 10),
    "mnist": (60_000, 10_000, 28, 1, 10),
    "fashion_mnist": (60_000, 10_000, 28, 1, 10),
    "digits": (1_797, 0, 8, 1, 10),
}


@dataclass(frozen=True, kw_only=True)
class DatasetShape:
    """The size of a data set as a trial uses it."""

    train: int  # images
    selection: int  # images that trials are measured on
    pixels: int  # side of an image
    channels: int
    classes: int


def known_shape(config: Config) -> DatasetShape | None:
    """Return the size of what ``datasets.load_dataset`` would return; None for a folder of images.

    Args:
        config: The trial's settings.
    """
    if config.dataset not in KNOWN_SHAPES:
        return None
    total, test, pixels, channels, classes = KNOWN_SHAPES[config.dataset]
    held_out = max(1, round(config.valid_fraction * total))
    if not test:
        test, total = held_out, total - held_out
    train = total if config.selection == "test" else total - held_out
    limit = min(config.limit or train, train)

    def limited(images: int) -> int:
        return max(round(images * limit / train), min(classes, images, limit))

    return DatasetShape(
        train=limit + limited(held_out) if isinstance(config, FinalConfig) else limit,
        selection=limited(held_out if config.selection == "valid" else test),
        pixels=pixels,
        channels=channels,
        classes=classes,
    )
