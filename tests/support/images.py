"""Random images, as arrays and in files."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_idx(folder, train_labels, test_labels=(0, 1, 2), compressed=True, seed=0):
    """Write the four files of an MNIST-like set of 28 by 28 pixels, and return the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = []
    for part, labels in (("train", train_labels), ("t10k", test_labels)):
        images = random_images(len(labels), 28, 28, seed=(seed, len(splits)))
        splits.append(images)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
            content = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()
            file = folder / (f"{part}-{kind}-ubyte" + ".gz" * compressed)
            file.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    return splits[0]


def write_images(folder, counts, seed=0):
    """Write class folders with the given numbers of PNG files, of different sizes."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(
                random_images(20 + number % 5, 24 - number % 3, 3, seed=(seed, label, number))
            )
            image.save(folder / name / f"{number:03}.png")


def draw_shape(kind: int, size: tuple[int, int], seed: int) -> Image.Image:
    """Draw a bright circle, square or triangle on a dark background."""
    rng = np.random.default_rng((kind, seed))
    image = Image.new("RGB", size, tuple(rng.integers(0, 60, 3).tolist()))
    draw, (x, y), side = ImageDraw.Draw(image), (size[0] // 2, size[1] // 2), min(size) // 3
    box, color = (x - side, y - side, x + side, y + side), tuple(rng.integers(150, 256, 3).tolist())
    if kind == 0:
        draw.ellipse(box, fill=color)
    elif kind == 1:
        draw.rectangle(box, fill=color)
    else:
        draw.polygon([(x, y - side), (x - side, y + side), (x + side, y + side)], fill=color)
    return image


def draw_images(folder: Path, names: tuple[str, ...], count: int) -> None:
    """Draw a folder of class folders, with images of different sizes, formats and modes."""
    kinds = (("jpg", "RGB"), ("png", "L"), ("png", "RGBA"), ("gif", "P"), ("JPG", "RGB"), ("webp", "RGB"))
    for kind, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            suffix, mode = kinds[number % len(kinds)]
            image = draw_shape(kind, (40 + 7 * number % 50, 40 + 11 * number % 60), number)
            image.convert(mode).save(folder / name / f"pic {number}.{suffix}")
