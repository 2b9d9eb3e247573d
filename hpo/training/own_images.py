"""The user's own images, whichever way they are named: ``folder:PATH`` or ``list:FILE.csv``."""

import hashlib
import os
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


def describe_images(dataset: str) -> str:
    """Return which images a folder or list has, as one short line, without reading an image.

    Args:
        dataset: As for ``list_images``.

    Returns:
        The number of images by split, the number of classes, and a hash of all paths from the folder, or
        from that of the list. It also depends on the labels that a list gives.

    Raises:
        DataError: As ``list_images``.
    """
    kind, _, place = dataset.partition(":")
    source = list_images(dataset)
    root = Path(place).expanduser() if kind == "folder" else Path(place).expanduser().parent
    names, counts = hashlib.sha256(), list[str]()
    for name, split in (("train", source.train), ("valid", source.valid), ("test", source.test)):
        if split is None:
            continue
        counts.append(f"{name} {len(split.files)}")
        for file, label in zip(split.files, split.labels, strict=True):
            path = os.path.relpath(file, root)
            told = f"{name}/{path}" if kind == "folder" else f"{name}/{path}={source.classes[label]}"
            names.update(f"{told}\n".encode(errors="surrogateescape"))
    return f"{', '.join(counts)} images, {len(source.classes)} classes, names {names.hexdigest()[:8]}"
