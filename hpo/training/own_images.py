"""The user's own images, however they are named: a folder, a list, or a set of the Hugging Face hub."""

from pathlib import Path

from hpo.training import class_folders, hub_sets, image_list
from hpo.training.folder_scan import Progress
from hpo.training.sources import Source


def list_images(
    dataset: str, root: Path, progress: Progress | None = None, *, makes_copy: bool = True
) -> Source:
    """List the user's images; no image is read.

    Args:
        dataset: A data set for which ``config.has_own_images`` is true.
        root: The data folder, in which the copies of the hub's sets are.
        progress: Is called now and then while a copy is made.
        makes_copy: Whether to make the copy of a hub's set if there is none.

    Raises:
        MissingImages: If there is no such folder or list, or no copy.
        DataError: If it is not as ``class_folders``, ``image_list`` or ``hub_sets`` allows.
    """
    kind, _, place = dataset.partition(":")
    if kind == "hf":
        return hub_sets.list_images(place, root, progress, makes_copy=makes_copy)
    return class_folders.list_folder(place) if kind == "folder" else image_list.list_images(place)


def root_of(dataset: str, root: Path) -> Path:
    """Return the folder that the paths of images begin at: that of the classes, the list or the copy."""
    kind, _, place = dataset.partition(":")
    if kind == "hf":
        return hub_sets.copy_folder(place, root)
    return Path(place).expanduser() if kind == "folder" else Path(place).expanduser().parent


def has_class_in_path(dataset: str) -> bool:
    """Return whether the path of an image tells its class; in a list only the list does."""
    return not dataset.startswith("list:")
