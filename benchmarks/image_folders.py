"""Write class folders of real images that can be had without a download, to compare studies on.

- clipart: links to six categories of Debian's openclipart-png, whose pictures are transparent PNGs
- fashion_mnist: PNGs of Fashion-MNIST, which Debian's dataset-fashion-mnist installs; 28 px, grey
- digits: PNGs of scikit-learn's digits; 8 px, grey

    python -m benchmarks.image_folders fashion_mnist ./fashion --images 2000
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from hpo.training import sources

CLIPART = Path("/usr/share/openclipart/png")
CATEGORIES = ("animals", "buildings", "food", "people", "plants", "transportation")


def link_clipart(folder: Path, images: int) -> None:
    """Link to the categories; all of their images are used."""
    for name in CATEGORIES:
        (folder / name).symlink_to(CLIPART / name)


def write_source(folder: Path, source: sources.Source, images: int) -> None:
    """Write the first training images of a data set that ships pixels, as PNGs in class folders."""
    pixels = source.train.images
    assert isinstance(pixels, torch.Tensor)
    for index, (image_CHW, label) in enumerate(zip(pixels[:images], source.train.labels, strict=False)):
        path = folder / source.classes[label].replace("/", "-") / f"{index:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image_CHW[0].numpy()).save(path)


def main() -> None:
    """Write the folder."""
    writers: dict[str, Callable[[Path, int], None]] = {
        "clipart": link_clipart,
        "fashion_mnist": lambda folder, images: write_source(
            folder, sources.read_published("fashion_mnist", folder.parent), images
        ),
        "digits": lambda folder, images: write_source(folder, sources.read_digits(), images),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=writers)
    parser.add_argument("folder", type=Path, help="is created")
    parser.add_argument("--images", type=int, default=2000, help="at most; not of clipart")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    writers[args.kind](args.folder, args.images)


if __name__ == "__main__":
    main()
