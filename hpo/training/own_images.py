"""The user's own images, whichever way they are named: ``folder:PATH`` or ``list:FILE.csv``."""

from pathlib import Path

from hpo.training import class_folders, image_list
from hpo.training.sources import Source


def list_images(dataset: str) -> Source:
    """List the user's images; no image is read.

    Args:
        dataset: A data set for which ``config.has_own_images`` is true.

    Raises:
        MissingImages: If there is no such folder or list.
        DataError: If it is not as ``class_folders`` or ``image_list`` allows.
    """
    kind, _, path = dataset.partition(":")
    return class_folders.list_folder(path) if kind == "folder" else image_list.list_images(path)


def root_of(dataset: str) -> Path:
    """Return the folder that the paths of images begin at: that of the classes, or that of the list."""
    kind, _, place = dataset.partition(":")
    return Path(place).expanduser() if kind == "folder" else Path(place).expanduser().parent
