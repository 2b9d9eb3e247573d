"""What a report says about a study's images, made from the data set.

Shape suffixes: N images, C channels, H rows, W columns, K classes.
"""

import base64
import io
import math

import torch
from PIL import Image
from torch import Tensor

from hpo.errors import escape_surrogates
from hpo.training import augmentation, transforms
from hpo.training.config import Config, reads_files
from hpo.training.data_facts import DataFacts, Sample
from hpo.training.datasets import Dataset
from hpo.training.presets import preset_of
from hpo.training.seeds import derive_seed

MAX_SAMPLES = 40  # of all classes together
MAX_CLASS_SAMPLES = 6
MAX_SIDE_PIXELS = 96  # of a sample: so all of them have at most about a megabyte


def describe_images(dataset: Dataset, config: Config) -> DataFacts:
    """Return how many images each class has by split, and sample pictures as the model sees them.

    A sample is a training image, augmented and resized as in training. It is then shrunk to
    ``MAX_SIDE_PIXELS`` if it is larger.

    Args:
        dataset: The images, on any device.
        config: The settings of a trial. Only its seed and those that decide on pixels matter.
    """
    labels_N, images_NCHW = _draw_samples(dataset, config)
    return DataFacts(
        classes=tuple(map(escape_surrogates, dataset.classes)),
        images={name: tuple(counts_K.tolist()) for name, counts_K in dataset.count_images().items()},
        selection=dataset.selection_name,
        available=dataset.available,
        skipped=len(dataset.skipped),
        image_size=config.image_size,
        **config.model_dump(include={"augmentation", "auto_augment", "random_erasing"}),
        **(config.model_dump(include={"resize", "transparency"}) if reads_files(config.dataset) else {}),
        samples=tuple(
            Sample(label=label, png=base64.b64encode(_to_png(image_CHW)))
            for label, image_CHW in zip(labels_N.tolist(), images_NCHW, strict=True)
        ),
    )


def _draw_samples(dataset: Dataset, config: Config) -> tuple[Tensor, Tensor]:
    """Return labels and pixels of the samples; the latter are uint8 [N, C, S, S] on the CPU."""
    chosen_N = _choose_samples(dataset.train.labels.cpu(), len(dataset.classes))
    device = dataset.train.labels.device
    images_NCHW, labels_N = (each.cpu() for each in dataset.train.batch(chosen_N.to(device)))
    generator = torch.Generator().manual_seed(derive_seed(config.seed, 1))
    augmented = augmentation.augment(images_NCHW, config, generator)
    resized = transforms.resize(augmented, config.image_size, preset_of(config).interpolation)
    return labels_N, transforms.resize(resized, min(config.image_size, MAX_SIDE_PIXELS))


def _choose_samples(labels_N: Tensor, classes: int) -> Tensor:
    """Return indices of images by class: evenly spaced in the split, since neighbours may be similar.

    Of more than ``MAX_SAMPLES`` classes, only every second, third and so on is chosen.
    """
    per_class = min(MAX_CLASS_SAMPLES, max(1, MAX_SAMPLES // classes))
    chosen = []
    for label in range(0, classes, math.ceil(classes / MAX_SAMPLES)):
        own = (labels_N == label).nonzero()[:, 0]
        count = min(per_class, len(own))
        chosen.append(own[torch.arange(count) * len(own) // max(count, 1)])
    return torch.cat(chosen)


def _to_png(image_CHW: Tensor) -> bytes:
    grey_or_rgb = image_CHW[0] if len(image_CHW) == 1 else image_CHW.permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(grey_or_rgb.numpy()).save(file, "PNG")
    return file.getvalue()
