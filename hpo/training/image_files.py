"""Image files: found in folders, and read as the pixels that a model gets.

Shape suffix: S side length of a square image.
"""

import contextlib
import gzip
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from hpo.training.config import MAX_PIXELS, Config, Resize, Transparency
from hpo.training.presets import Interpolation, preset_of

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# The only decoders that a file reaches, whatever its name. PIL has more; one of them starts Ghostscript.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
# How many times wider than image_size an image is from which random parts are cut out and enlarged. Of two
# photographs of 640 x 427 pixels, such parts kept 66 % of the mean difference between neighbouring pixels
# with 1, 71 % with 8/7, 81 % with 3/2 and 88 % with 2, compared with parts of the photographs themselves.
# The images then take 1, 1.31, 2.25 and 4 times the memory.
TRAINING_SCALE = 1.5
# Images with more pixels are decoded in one thread. They take 4 to 8 bytes per pixel, and the C library
# keeps that for each thread that had it: for as many threads as cores, that may be all of the memory.
LARGE_PIXELS = 2**25  # more than most cameras' photographs have
_large_images = ThreadPoolExecutor(1)  # its thread starts with the first of them
GREY_ADVICE = "save it as 8-bit or 16-bit unsigned grey that uses the whole range"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the content of a file becomes a square of pixels."""

    size: int  # side of the square
    resize: Resize = "crop"
    transparency: Transparency = "white"  # what lies behind transparent pixels; drop: their hidden colour
    max_pixels: int = MAX_PIXELS  # a larger image is not decoded
    interpolation: Interpolation = "bilinear"  # PIL's filter

    @property
    def filter(self) -> Image.Resampling:
        """The filter, as PIL calls it."""
        return Image.Resampling[self.interpolation.upper()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image as a model gets it, and what was lost on the way."""

    pixels: NDArray[np.uint8]  # [3, S, S]
    is_transparent: bool  # parts were transparent; now they have the colour that was hidden there
    is_half_cropped: bool  # the centre crop cut off more than half of it


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the files in a folder and all folders below it, without hidden files and folders.

    Linked folders are followed, each folder once. A link to a file that does not exist is listed.

    Returns:
        The files with a suffix of ``IMAGE_SUFFIXES``, in any case, and the other files, both sorted.

    Raises:
        OSError: If a folder cannot be listed.
    """
    found = sorted(_files_below(folder))
    images = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
    return images, [file for file in found if file.suffix.lower() not in IMAGE_SUFFIXES]


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; what is reached through links comes last, in the links' order."""
    folders, links, seen = [folder], list[Path](), set[str]()
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        for entry in sorted(os.scandir(place), key=lambda each: each.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(place / entry.name)
            elif entry.is_file() or entry.is_symlink():  # else a socket or a device; the link may be dead
                yield place / entry.name


def reading_of(config: Config) -> Reading:
    """Return how the files of a folder are read; trials with other weights may read them differently."""
    return Reading(
        size=config.image_size,
        resize=config.resize,
        transparency=config.transparency,
        max_pixels=config.max_pixels,
        interpolation=preset_of(config).interpolation,
    )


def readings_of(config: Config) -> tuple[Reading, Reading]:
    """Return how files are read that a model trains on, and those that it is measured on.

    The former are larger if random parts are cut out of them and enlarged.
    """
    reading = reading_of(config)
    if config.augmentation != "resized_crop":
        return reading, reading
    return replace(reading, size=round(TRAINING_SCALE * reading.size)), reading


class ImageTooLarge(ValueError):
    """An image has more pixels than it may have."""


@contextlib.contextmanager
def without_pil_limits() -> Iterator[None]:
    """Suspend PIL's warnings and its limit on pixels within the block; ours is ``max_pixels``.

    Both are settings of the whole process, so only one thread may enter at a time.
    """
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # also about odd metadata, which pixels do not depend on
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _as_value_error(file: Path) -> Iterator[None]:
    """Turn whatever PIL raises for a file into a ValueError with a reason."""
    try:
        yield
    except (MemoryError, ImageTooLarge):
        raise
    except UnidentifiedImageError as cause:
        raise ValueError(f"none of the formats {', '.join(IMAGE_FORMATS)}") from cause
    except FileNotFoundError as cause:
        raise ValueError("a link to a file that does not exist" if file.is_symlink() else "gone") from cause
    except Exception as cause:  # PIL's decoders raise nearly any exception for a damaged file
        raise ValueError(str(cause)) from cause


def _check_size(image: Image.Image, max_pixels: int) -> None:
    """Refuse an image that is too large to decode, or whose tiles are: they are decoded whole."""
    tile: tuple[Any, Any] = (None, None)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = (image.tag_v2.get(TiffImagePlugin.TILEWIDTH), image.tag_v2.get(TiffImagePlugin.TILELENGTH))
    for what, (width, height) in (("", image.size), ("tiles of ", tile)):
        if isinstance(width, int) and isinstance(height, int) and width * height > max_pixels:
            raise ImageTooLarge(
                f"{what}{width:,} x {height:,} pixels, more than the {max_pixels:,} of max_pixels"
            )


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its image before it is decoded."""

    format: str
    mode: str  # PIL's name
    width: int  # before it is turned upright
    height: int
    nbytes: int  # of the file
    has_alpha: bool  # an alpha channel or a transparent colour; the image may be opaque all the same
    is_animated: bool  # or has several pages


def read_header(file: Path, max_pixels: int) -> Header:
    """Read the header of an image. The caller enters ``without_pil_limits``; then any thread may read.

    Raises:
        ImageTooLarge: If it has more than ``max_pixels``.
        ValueError: If the header shows that ``read_image`` cannot read the file.
    """
    with _as_value_error(file), Image.open(file, formats=IMAGE_FORMATS) as opened:
        _check_size(opened, max_pixels)
        _check_grey(opened.mode)
        is_animated = False
        with contextlib.suppress(Exception):  # a damaged second picture does not matter
            is_animated = bool(getattr(opened, "is_animated", False))
        palette = opened.palette
        return Header(
            format=str(opened.format),
            mode=opened.mode,
            width=opened.width,
            height=opened.height,
            nbytes=file.stat().st_size,
            has_alpha="A" in opened.mode
            or "transparency" in opened.info
            or (palette is not None and palette.mode.endswith("A")),
            is_animated=is_animated,
        )


def read_image(file: Path, reading: Reading) -> Picture:
    """Read an image upright (by its EXIF data), as red, green and blue, and make it a square.

    With ``crop`` the shorter side is resized to the square's side, and the centre is cut out. With ``pad``
    the longer side is, and black or the colour behind transparent pixels fills the rest. With ``squash``
    both sides are. One of PIL's filters resizes. 16-bit grey is cut to its high byte.

    Args:
        file: PNG, JPEG, BMP, WebP, GIF (the first frame) or TIFF, of any mode but grey in 32 bits, signed
            or floating-point grey, and grey that uses at most 12 of 16 bits.
        reading: The square, what happens to transparency, and how many pixels the file may have.

    Raises:
        ImageTooLarge: If it has more pixels. This is seen from its header, before it is decoded.
        ValueError: If the file is no image, is damaged, cannot be opened, has another mode, or is so long
            that nothing is left of its shorter side when it is padded.
    """
    with without_pil_limits():
        return decode_image(file, reading)


def convert_image(image: Image.Image, reading: Reading) -> Picture:
    """Make an image that is in memory, or open, a square as ``read_image`` does; it stays as it is.

    Args:
        image: An image of PIL's, of any mode that ``read_image`` reads.
        reading: The square, what happens to transparency, and how many pixels the image may have.

    Raises:
        ImageTooLarge: If it has more pixels.
        ValueError: As ``read_image`` raises it.
    """
    with without_pil_limits(), _as_value_error(Path(str(getattr(image, "filename", "")))):
        _check_size(image, reading.max_pixels)
        return _to_picture(ImageOps.exif_transpose(image), reading)


def decode_image(file: Path, reading: Reading) -> Picture:
    """Read an image as ``read_image`` does, in any thread; the caller enters ``without_pil_limits``.

    Images with more than ``LARGE_PIXELS`` are decoded one after another.
    """
    with _as_value_error(file), Image.open(file, formats=IMAGE_FORMATS) as opened:
        _check_size(opened, reading.max_pixels)
        if opened.width * opened.height > LARGE_PIXELS:
            return _large_images.submit(_to_picture, opened, reading).result()
        return _to_picture(opened, reading)


def _to_picture(opened: Image.Image, reading: Reading) -> Picture:
    image, is_transparent = _to_upright_rgb(opened, reading)
    return Picture(
        pixels=np.array(_to_square(image, reading)).transpose(2, 0, 1),
        is_transparent=is_transparent,
        is_half_cropped=reading.resize == "crop" and max(image.size) > 2 * min(image.size),
    )


def read_idx(file: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file, the format of MNIST's images and labels.

    The format: a magic number (0x800 for bytes, plus the number of dimensions) and the size of each
    dimension, each as four bytes in big-endian order; then the bytes.

    Args:
        file: Path without ``.gz``; if it does not exist, the file with ``.gz`` added is read.
        dimensions: Expected number of dimensions.

    Returns:
        uint8, with the shape that the file states.

    Raises:
        FileNotFoundError: If neither file exists.
        ValueError: If it is not an IDX file of bytes with these dimensions, or has another size.
        OSError: If it cannot be read.
    """
    raw = (file if file.is_file() else file.with_name(f"{file.name}.gz")).read_bytes()
    try:
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
        magic, *shape = struct.unpack_from(f">I{dimensions}I", raw)
    except (OSError, EOFError, struct.error, zlib.error) as cause:
        raise ValueError(f"{file.name}: {cause}") from cause
    if magic != 0x800 + dimensions or len(raw) != 4 + 4 * dimensions + math.prod(shape):
        raise ValueError(f"{file.name}: its header and its size disagree")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def padding_color(transparency: Transparency) -> str:
    """Return the color beside a padded image."""
    return "black" if transparency == "drop" else transparency


def _to_square(image: Image.Image, reading: Reading) -> Image.Image:
    size, short = reading.size, min(image.size)
    if reading.resize == "squash":
        return image.resize((size, size), reading.filter)
    if reading.resize == "pad":
        if round(short / max(image.size) * size) == 0:
            raise ValueError(
                f"{image.width} x {image.height} pixels: nothing is left of the shorter side when "
                f"the longer one has {size}"
            )
        color = padding_color(reading.transparency)
        return ImageOps.pad(image, (size, size), reading.filter, color)
    width, height = (size * side // short for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = image.resize((width, height), reading.filter)
    return scaled.crop((left, top, left + size, top + size))


def _to_upright_rgb(image: Image.Image, reading: Reading) -> tuple[Image.Image, bool]:
    """Return an image as RGB, and whether the hidden colour of transparent parts is seen now."""
    ImageOps.exif_transpose(image, in_place=True)  # it loads the pixels, and copies none of them
    if image.mode == "F" or image.mode.startswith("I"):
        image = _reduce_grey(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB"), False
    with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
    if reading.transparency == "drop":
        return image.convert("RGB"), with_alpha.getchannel("A").getextrema()[0] != 255
    # The same bytes as Image.alpha_composite, with half of the time and a copy less in memory.
    behind = Image.new("RGB", image.size, reading.transparency)
    behind.paste(with_alpha, mask=with_alpha)
    return behind, False


def _check_grey(mode: str) -> None:
    """Refuse grey of which it is not known which value is white."""
    if mode == "F" or (mode.startswith("I") and not mode.startswith("I;16")):
        kind = "floating-point" if mode == "F" else "32-bit or signed"
        raise ValueError(f"{kind} grey, of which it is not known what is white; {GREY_ADVICE}")


def _reduce_grey(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as its high byte; PIL clips it at 255, which turns most photographs white.

    Raises:
        ValueError: If it is not known which value is white: such an image would become blank.
    """
    _check_grey(image.mode)
    grey = np.asarray(image)
    if 0 < grey.max() < 4096:
        raise ValueError(f"16-bit grey with values of at most {grey.max()}, so almost black; {GREY_ADVICE}")
    return Image.fromarray((grey >> 8).astype(np.uint8))
