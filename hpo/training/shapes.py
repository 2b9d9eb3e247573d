"""The sizes of the data sets that hpo knows by name, which need not be read to be known."""

from dataclasses import dataclass

from hpo.training.config import Config, FinalConfig


@dataclass(frozen=True, kw_only=True)
class KnownShape:
    """The size of a data set as it is published; a split without images is held out from ``train``."""

    train: int  # images
    valid: int = 0
    test: int = 0
    pixels: int | None  # side of an image; None: files of any size
    channels: int = 3
    classes: int = 10

    @property
    def images(self) -> int:
        """The number of images in all splits."""
        return self.train + self.valid + self.test


KNOWN_SHAPES = {
    "cifar10": KnownShape(train=50_000, test=10_000, pixels=32),
    "cifar100": KnownShape(train=50_000, test=10_000, pixels=32, classes=100),
    "svhn": KnownShape(train=73_257, test=26_032, pixels=32),
    "stl10": KnownShape(train=5_000, test=8_000, pixels=96),
    "mnist": KnownShape(train=60_000, test=10_000, pixels=28, channels=1),
    "fashion_mnist": KnownShape(train=60_000, test=10_000, pixels=28, channels=1),
    "digits": KnownShape(train=1_797, pixels=8, channels=1),
    "flowers102": KnownShape(train=1_020, valid=1_020, test=6_149, pixels=None, classes=102),
    "oxford_pets": KnownShape(train=3_680, test=3_669, pixels=None, classes=37),
    "food101": KnownShape(train=75_750, test=25_250, pixels=None, classes=101),
    "eurosat": KnownShape(train=27_000, pixels=None),
    "dtd": KnownShape(train=1_880, valid=1_880, test=1_880, pixels=None, classes=47),
    "imagenette": KnownShape(train=9_469, valid=3_925, pixels=None),
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
    """Return the size of what ``datasets.load_dataset`` would return; None for the user's own images.

    Args:
        config: The trial's settings.
    """
    if (known := KNOWN_SHAPES.get(config.dataset)) is None:
        return None
    held_out = max(1, round(config.valid_fraction * known.train))
    test, valid, train = known.test or held_out, known.valid or held_out, known.train
    if not known.test:
        train -= held_out
    if not known.valid and config.selection != "test":
        train -= held_out
    limit = min(config.limit or train, train)

    def limited(images: int) -> int:
        return max(round(images * limit / train), min(known.classes, images, limit))

    return DatasetShape(
        train=limit + limited(valid) if isinstance(config, FinalConfig) else limit,
        selection=limited(valid if config.selection == "valid" else test),
        pixels=known.pixels or config.image_size,
        channels=known.channels,
        classes=known.classes,
    )
