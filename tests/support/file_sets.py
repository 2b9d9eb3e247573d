"""Tiny copies of published data sets of image files, in the layout of the real ones.

Each image has one colour, which says its split (red) and its class (green).
"""

import dataclasses
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from torchvision.datasets import Flowers102

from hpo.training import file_sets, shapes
from hpo.training.sources import LabelledSTL10
from tests.support.data_sets import md5
from tests.support.images import random_images

SPLIT_RED = {"train": 40, "valid": 120, "test": 200}
# Images of each class by split.
COUNTS = {
    "flowers102": {"train": 2, "valid": 1, "test": 2},
    "oxford_pets": {"train": 5, "test": 2},
    "food101": {"train": 4, "test": 2},
    "eurosat": {"train": 6},
    "dtd": {"train": 3, "valid": 2, "test": 1},
    "imagenette": {"train": 5, "valid": 2},
}
CLASSES = {
    "flowers102": tuple(Flowers102.classes),
    "oxford_pets": ("Abyssinian", "American Bulldog", "Beagle"),
    "food101": ("apple_pie", "baby_back_ribs", "waffles"),
    "eurosat": ("AnnualCrop", "Forest", "SeaLake"),
    "dtd": ("banded", "dotted", "zigzagged"),
    "imagenette": ("tench", "English springer", "church"),
}
WNIDS = ("n01440764", "n02102040", "n03028079")
# What each archive holds, in the data folder.
ARCHIVED = {
    "flowers-102/102flowers.tgz": "flowers-102/jpg",
    "oxford-iiit-pet/images.tar.gz": "oxford-iiit-pet/images",
    "oxford-iiit-pet/annotations.tar.gz": "oxford-iiit-pet/annotations",
    "food-101.tar.gz": "food-101",
    "eurosat/EuroSAT.zip": "eurosat/2750",
    "dtd/dtd-r1.0.1.tar.gz": "dtd/dtd",
    "imagenette2.tgz": "imagenette2",
}


def green(label: int, classes: int) -> int:
    """Return the green of the images of a class."""
    return label * (240 // classes)


def draw(file: Path, split: str, color: int, number: int) -> None:
    """Write an image of one colour; the first one is a GIF by any name, as in oxford_pets."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (12 + number % 3, 10), (SPLIT_RED[split], color, 7))
    image.save(file, "GIF" if number == 0 else "JPEG", quality=98, subsampling=0)


def write_file_set(name: str, root: Path, monkeypatch) -> None:
    """Write a copy of a data set as it is after unpacking, and make it the whole of what was published."""
    counts, classes = COUNTS[name], CLASSES[name]
    cells = [
        (split, label)
        for split, count in counts.items()
        for label in range(len(classes))
        for _ in range(count)
    ]
    listed = [(split, label, number) for number, (split, label) in enumerate(cells)]
    _WRITERS[name](root, listed, classes, monkeypatch)
    sizes = {split: len(classes) * counts.get(split, 0) for split in SPLIT_RED}
    known = dataclasses.replace(shapes.KNOWN_SHAPES[name], classes=len(classes), **sizes)
    monkeypatch.setitem(shapes.KNOWN_SHAPES, name, known)


def pack_file_set(name: str, root: Path, monkeypatch) -> None:
    """Replace a copy by its archives, which pass for the published ones."""
    archives = []
    for archive in file_sets.FILE_SETS[name].archives:
        file = root / archive.path
        if archive.is_packed:
            content = root / ARCHIVED[archive.path]
            if file.suffix == ".zip":
                with zipfile.ZipFile(file, "w") as packed:
                    for each in sorted(content.rglob("*")):
                        packed.write(each, each.relative_to(content.parent))
            else:
                with tarfile.open(file, "w:gz") as packed:
                    packed.add(content, content.name)
            shutil.rmtree(content)
        archives.append(dataclasses.replace(archive, md5=md5(file)))
    changed = dataclasses.replace(file_sets.FILE_SETS[name], archives=tuple(archives))
    monkeypatch.setitem(file_sets.FILE_SETS, name, changed)


def _write_flowers(root, listed, classes, monkeypatch):
    base = root / "flowers-102"
    labels, ids = [], {"train": [], "valid": [], "test": []}
    for number, (split, label, _) in enumerate(reversed(listed), 1):
        draw(base / f"jpg/image_{number:05d}.jpg", split, green(label, len(classes)), number)
        labels.append(label + 1)
        ids[split].append(number)
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    named = {"trnid": ids["train"], "valid": ids["valid"], "tstid": ids["test"]}
    scipy.io.savemat(base / "setid.mat", {key: np.array([each], np.uint16) for key, each in named.items()})
    known = Flowers102._file_dict
    files = {key: (known[key][0], md5(base / known[key][0])) for key in ("label", "setid")}
    monkeypatch.setattr(Flowers102, "_file_dict", {"image": known["image"], **files})


def _write_pets(root, listed, classes, monkeypatch):
    base = root / "oxford-iiit-pet"
    lines = {"train": [], "test": []}
    for split, label, number in listed:
        # Cats begin with a capital letter, dogs do not.
        stem = ("Abyssinian", "american_bulldog", "beagle")[label]
        draw(base / f"images/{stem}_{number}.jpg", split, green(label, len(classes)), number)
        lines[split].append(f"{stem}_{number} {label + 1} {1 if label == 0 else 2} 1\n")
    (base / "images/Abyssinian_100.mat").write_bytes(b"the real archive has six of these")
    (base / "annotations/trimaps").mkdir(parents=True)
    for split, name in (("train", "trainval"), ("test", "test")):
        (base / f"annotations/{name}.txt").write_text("".join(sorted(lines[split])))


def _write_food(root, listed, classes, monkeypatch):
    base = root / "food-101"
    meta = {"train": {}, "test": {}}
    for split, label, number in listed:
        path = f"{classes[label]}/{1000 + number}"
        draw(base / f"images/{path}.jpg", split, green(label, len(classes)), number)
        meta[split].setdefault(classes[label], []).append(path)
    (base / "meta").mkdir()
    (base / "meta/classes.txt").write_text("".join(f"{each}\n" for each in classes))
    for split, each in meta.items():
        (base / f"meta/{split}.json").write_text(json.dumps(each))


def _write_eurosat(root, listed, classes, monkeypatch):
    for split, label, number in listed:
        draw(
            root / f"eurosat/2750/{classes[label]}/{classes[label]}_{number}.jpg",
            split,
            green(label, len(classes)),
            number,
        )


def _write_dtd(root, listed, classes, monkeypatch):
    base = root / "dtd/dtd"
    lines = {"train": [], "valid": [], "test": []}
    for split, label, number in listed:
        path = f"{classes[label]}/{classes[label]}_{number:04}.jpg"
        draw(base / "images" / path, split, green(label, len(classes)), number)
        lines[split].append(f"{path}\n")
    (base / "labels").mkdir()
    for split, name in (("train", "train"), ("valid", "val"), ("test", "test")):
        (base / f"labels/{name}1.txt").write_text("".join(sorted(lines[split])))
        (base / f"labels/{name}2.txt").write_text("another partition\n")


def _write_imagenette(root, listed, classes, monkeypatch):
    base = root / "imagenette2"
    for split, label, number in listed:
        part = "train" if split == "train" else "val"
        draw(
            base / part / WNIDS[label] / f"{WNIDS[label]}_{number}.JPEG",
            split,
            green(label, len(classes)),
            number,
        )
    (base / "noisy_imagenette.csv").write_text("path,noisy_labels_0\n")


_WRITERS = {
    "flowers102": _write_flowers,
    "oxford_pets": _write_pets,
    "food101": _write_food,
    "eurosat": _write_eurosat,
    "dtd": _write_dtd,
    "imagenette": _write_imagenette,
}


def write_stl10(root: Path, monkeypatch) -> dict[str, np.ndarray]:
    """Write STL-10 without its unlabelled images; return the pixels of its splits [N, C, H, W]."""
    base, pixels = root / "stl10_binary", {}
    base.mkdir(parents=True)
    for split, count in (("train", 40), ("test", 20)):
        pixels[split] = random_images(count, 3, 96, 96, seed=count)
        pixels[split].transpose(0, 1, 3, 2).tofile(base / f"{split}_X.bin")  # by column
        np.array([n % 10 + 1 for n in range(count)], np.uint8).tofile(base / f"{split}_y.bin")
        sums = [[name, md5(base / name)] for name in (f"{split}_X.bin", f"{split}_y.bin")]
        monkeypatch.setattr(LabelledSTL10, f"{split}_list", sums)
    return pixels
