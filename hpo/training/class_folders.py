"""The user's own images: class folders, or folders of splits with class folders in them."""

import contextlib
import re
from pathlib import Path

import numpy as np

from hpo import errors
from hpo.errors import quote_value
from hpo.training import image_files
from hpo.training.data_facts import SplitName
from hpo.training.sources import Source, SourceSplit

# Names of folders that are splits, in lower case, and the split that each is.
SPLIT_FOLDERS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Names that look like a part of a data set too, but not like which one.
_PART_NAME = re.compile(
    r"(fold|split)[ _-]?\d+|seg[ _-]?(train|test|pred|val)"
    r"|(train|test|val|valid|validation)(ing)?[ _-]?(set|images|data|\d+)"
)
_LAYOUT = (
    "want one folder per class with its images, or folders train, valid and test with class folders in each"
)


def list_folder(folder_path: str) -> Source:
    """List the user's images in class folders, or in train, valid and test folders with class folders.

    No image is decoded. The classes are those of train, sorted by name; a class may lack its folder in
    valid or test. Hidden files and folders are skipped. The folders of splits may have any of the names
    ``SPLIT_FOLDERS``, in upper or lower case.

    Args:
        folder_path: The PATH of ``folder:PATH``; ``~`` is expanded.

    Raises:
        MissingImages: If there is no such folder.
        DataError: If it has fewer than two classes, a class folder without images, a class that train
            lacks, other folders beside train, valid and test, or folders that look like splits or folds but
            are not laid out so; if it, or a folder in it, cannot be read.
    """
    try:
        return _list_class_folders(_existing_folder(folder_path))
    except OSError as cause:
        place = quote_value(cause.filename) if cause.filename else "the folder"
        raise errors.DataError(
            f"train.dataset: {quote_value(f'folder:{folder_path}')}: {place}: {cause.strerror or cause}; "
            "its images must be readable for the user who runs hpo"
        ) from cause


class MissingImages(errors.DataError):
    """There is no folder or list of that name, on this machine."""


def _existing_folder(folder_path: str) -> Path:
    where = f"train.dataset: {quote_value(f'folder:{folder_path}')}"
    try:
        path = Path(folder_path).expanduser()
    except RuntimeError as error:  # "~name", and no user has that name
        user = quote_value(folder_path.split("/")[0])
        raise errors.DataError(f"{where}: there is no user {user}; give the folder's path") from error
    if not folder_path or not path.is_dir():
        raise MissingImages(
            f"{where}: there is no such folder{_suggest_beside(folder_path)} give the path of yours in the "
            "study file, or with --set train.dataset=folder:PATH"
        )
    return path


def _suggest_beside(folder_path: str) -> str:
    """Return a hint at a folder with a similar name beside a missing one; a semicolon if there is none."""
    head, slash, name = folder_path.rstrip("/").rpartition("/")
    with contextlib.suppress(OSError):
        beside = [each.name for each in _visible_subfolders(Path(f"{head}{slash}").expanduser())]
        if near := errors.most_similar(name, beside):
            return f"; did you mean {quote_value(f'folder:{head}{slash}{near}')}?"
    return ";"


def _list_class_folders(path: Path) -> Source:
    parts = _split_folders(path)
    base = parts["train"] if parts else path
    classes = tuple(sub.name for sub in _visible_subfolders(base))
    if len(classes) < 2:
        found = f"one class folder only, '{classes[0]}'" if classes else "no class folders"
        raise errors.DataError(f"{base}: {found}; want two or more, each with the images of one class")
    _refuse_hidden_splits(base)
    splits = {name: _list_split(part, classes) for name, part in parts.items()}
    train = splits["train"] if parts else _list_split(base, classes)
    return Source(classes=classes, train=train, valid=splits.get("valid"), test=splits.get("test"))


def _split_folders(path: Path) -> dict[SplitName, Path]:
    """Return the folders of splits by the split's name; empty if ``path`` contains class folders."""
    folders = _visible_subfolders(path)
    named = [(SPLIT_FOLDERS[sub.name.lower()], sub) for sub in folders if sub.name.lower() in SPLIT_FOLDERS]
    # A class may be called "train" too; then the folder contains images, not folders.
    nested = [split for split, sub in named if _visible_subfolders(sub)]
    if not nested:
        return {}
    if "train" not in nested:
        raise errors.DataError(f"{path}: class folders in {' and '.join(nested)}, but none in train")
    if others := [sub.name for sub in folders if sub.name.lower() not in SPLIT_FOLDERS]:
        raise errors.DataError(f"{path}: unexpected '{others[0]}' beside train; allowed there: valid, test")
    parts = dict(named)
    if len(parts) < len(named):
        names = ", ".join(sub.name for _, sub in named)
        raise errors.DataError(f"{path}: two folders for one split among {names}; keep one of each")
    return parts


def _refuse_hidden_splits(base: Path) -> None:
    """Refuse class folders that are splits or folds instead: accuracy would mean nothing."""
    folders = _visible_subfolders(base)
    names = {sub.name.lower() for sub in folders}
    unlikely = {name for name in names if name in SPLIT_FOLDERS or _PART_NAME.fullmatch(name)}
    if names & {"valid", "invalid"} == {"valid", "invalid"}:
        unlikely -= {"valid"}
    if unlikely != {"train"} and unlikely:
        first = next(sub.name for sub in folders if sub.name.lower() in unlikely)
        raise errors.DataError(
            f"{base}: '{first}' is named like a part of a data set, not a class; {_LAYOUT}"
        )
    inner = {frozenset(each.name for each in _visible_subfolders(sub)) for sub in folders}
    if len(inner) == 1 and len(common := sorted(inner.pop())) > 1:
        both = f"'{folders[0].name}' and '{folders[1].name}'"
        shown = ", ".join(common[:3]) + (", ..." if len(common) > 3 else "")
        raise errors.DataError(f"{base}: {both} hold the same folders ({shown}); {_LAYOUT}")


def _visible_subfolders(path: Path) -> list[Path]:
    """Return the subfolders, sorted, also linked ones; a dead link that names no image is refused."""
    visible = [sub for sub in path.iterdir() if not sub.name.startswith(".")]
    for sub in visible:
        if sub.suffix.lower() not in image_files.IMAGE_SUFFIXES and sub.is_symlink() and not sub.exists():
            raise errors.DataError(
                f"{sub}: a link to a folder or file that does not exist; repair or remove it"
            )
    return sorted(sub for sub in visible if sub.is_dir())


def _list_split(path: Path, classes: tuple[str, ...]) -> SourceSplit:
    """List the image files of a split, ordered by class, then by path; decode none."""
    found: list[tuple[Path, int]] = []
    ignored: list[Path] = []
    for folder in _visible_subfolders(path):
        if folder.name not in classes:
            raise errors.DataError(
                f"{folder}: no such class in train, only {errors.join_names(classes, 20)}"
            )
        files, others = image_files.list_images(folder)
        ignored += others
        if not files:
            raise errors.DataError(
                f"{folder}: no images in it; supported are {' '.join(image_files.IMAGE_SUFFIXES)}"
            )
        found += [(file, classes.index(folder.name)) for file in files]
    if not found:
        raise errors.DataError(f"{path}: no class folders; put some in or remove it")
    labels = np.array([label for _, label in found], dtype=np.int64)
    return SourceSplit(images=tuple(file for file, _ in found), labels=labels, ignored_files=tuple(ignored))
