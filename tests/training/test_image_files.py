"""Reading image files: formats, modes, orientation, folders, IDX files."""

import contextlib
import gzip
import io
import struct
import subprocess
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from hpo.training import image_files
from hpo.training.image_files import Reading
from tests.support.images import random_images


def read_square(file: Path, **reading: Any) -> np.ndarray:
    return image_files.read_image(file, Reading(size=8, **reading)).pixels


@pytest.mark.parametrize(("width", "height"), [(50, 80), (80, 50), (40, 40), (41, 333), (32, 32), (9, 20)])
def test_reading_resizes_the_shorter_side_and_cuts_out_the_middle_as_torchvision_does(
    tmp_path, width, height
):
    image = Image.fromarray(random_images(height, width, 3))
    image.save(tmp_path / "a.png")
    reference = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(32, torchvision.transforms.InterpolationMode.BILINEAR),
            torchvision.transforms.CenterCrop(32),
        ]
    )
    expected = np.asarray(reference(image)).transpose(2, 0, 1)
    assert np.array_equal(image_files.read_image(tmp_path / "a.png", Reading(size=32)).pixels, expected)


def test_a_photograph_is_rotated_by_its_exif_orientation(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255  # white at the top, before the rotation
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    rotated = image_files.read_image(tmp_path / "a.jpg", Reading(size=32)).pixels
    assert rotated[:, :, 17:].min() > 200
    assert rotated[:, :, :15].max() < 50


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_images_of_every_mode_are_converted_to_rgb(tmp_path, mode):
    suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 40), 128 * 256 + 7, np.uint16))
    else:
        image = Image.new("RGB", (40, 40), (128, 128, 128)).convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    pixels = image_files.read_image(tmp_path / f"a.{suffix}", Reading(size=16)).pixels
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.uint8
    if mode != "1":  # dithered into black and white
        assert abs(pixels.astype(int) - 128).max() <= 3


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.new("P", (8, 8))
    image.putpalette([10, 20, 30] * 4)
    image.save(tmp_path / "a.png", transparency=bytes([10, 200, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = image_files.read_image(tmp_path / "a.png", Reading(size=8, transparency="drop"))
        assert picture.pixels[:, 0, 0].tolist() == [10, 20, 30]


def test_the_first_frame_of_an_animation_is_used(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = image_files.read_image(tmp_path / "a.gif", Reading(size=8))
    assert picture.pixels[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "gif", "tiff"])
def test_a_broken_image_of_any_format_raises_value_error(tmp_path, suffix):
    whole = io.BytesIO()
    Image.fromarray(random_images(64, 64, 3)).save(whole, {"jpg": "jpeg"}.get(suffix, suffix))
    for content in (b"", b"not an image", whole.getvalue()[: len(whole.getvalue()) // 2]):
        (tmp_path / f"a.{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=r"\w"):
            image_files.read_image(tmp_path / f"a.{suffix}", Reading(size=16))


def test_images_are_found_at_any_depth_except_hidden_ones(tmp_path):
    for name in (
        "b.PNG",
        "a.jpeg",
        "sub/c.webp",
        ".hidden.png",
        ".thumbs/d.png",
        "notes.txt",
        "e.png/f.gif",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, others = image_files.list_images(tmp_path)
    names = [str(file.relative_to(tmp_path)) for file in found]
    assert names == ["a.jpeg", "b.PNG", "e.png/f.gif", "sub/c.webp"]
    assert others == [tmp_path / "notes.txt"]


def test_linked_folders_are_followed_once_and_dead_links_are_listed(tmp_path):
    folder, elsewhere = tmp_path / "cat", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "a.png").touch()
    (folder / "sub/b.png").touch()
    for name, target in (
        ("link", elsewhere),
        ("again", elsewhere),
        ("loop", folder),
        ("same", folder / "sub"),
    ):
        (folder / name).symlink_to(target)
    (folder / "dead.png").symlink_to(tmp_path / "gone.png")
    found, others = image_files.list_images(folder)
    assert [str(file.relative_to(folder)) for file in found] == ["again/a.png", "dead.png", "sub/b.png"]
    assert others == []
    with pytest.raises(ValueError, match="a link to a file that does not exist"):
        image_files.read_image(folder / "dead.png", Reading(size=8))


@pytest.mark.parametrize("format_name", ["PPM", "TGA", "ICO", "DDS", "EPS"])
def test_formats_that_are_not_documented_are_refused_whatever_the_suffix(
    tmp_path, format_name, monkeypatch
):
    def refuse(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)  # PIL would run Ghostscript for EPS
    Image.fromarray(random_images(32, 32, 3)).save(tmp_path / "a", format_name)
    assert format_name != "EPS" or (tmp_path / "a").read_bytes().startswith(b"%!PS-Adobe")
    (tmp_path / "a").rename(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="none of the formats PNG, JPEG, BMP, WEBP, GIF, TIFF"):
        image_files.read_image(tmp_path / "a.jpg", Reading(size=16))


@pytest.mark.parametrize(
    ("dtype", "scale", "message"),
    [
        (np.float32, 1.0, "floating-point grey"),
        (np.int32, 1, "32-bit or signed"),
        (np.uint16, 15, "at most 4080"),
    ],
)
def test_grey_of_which_the_white_is_not_known_is_refused_by_name(tmp_path, dtype, scale, message):
    grey = np.arange(256 + 17)[17:].reshape(16, 16).astype(dtype) * scale
    Image.fromarray(grey.astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=message):
        image_files.read_image(tmp_path / "a.tif", Reading(size=8))


def write_tiff(file: Path, values: bytes, layout: dict[int, int]) -> None:
    """Write a grey TIFF of 16 by 16 pixels, whose other tags are given."""
    tags = sorted(({256: 16, 257: 16, 259: 1, 262: 1, 277: 1} | layout).items())
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(values)) + values
    file.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))


def test_signed_16_bit_grey_is_refused(tmp_path):
    layout = {258: 16, 273: 8, 278: 16, 279: 512, 339: 2}
    write_tiff(tmp_path / "a.tif", struct.pack("<256h", *range(-128, 128)), layout)
    with pytest.raises(ValueError, match="32-bit or signed grey"):
        image_files.read_image(tmp_path / "a.tif", Reading(size=8))


def test_black_16_bit_grey_is_an_image_like_any_other(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "a.png")
    assert image_files.read_image(tmp_path / "a.png", Reading(size=8)).pixels.max() == 0


@pytest.mark.parametrize(
    ("mode", "colour", "transparent"),
    [
        ("RGBA", (1, 2, 3, 254), True),
        ("RGBA", (1, 2, 3, 255), False),
        ("LA", (9, 0), True),
        ("RGB", "red", False),
    ],
)
def test_an_image_says_whether_transparency_is_dropped(tmp_path, mode, colour, transparent):
    Image.new(mode, (16, 40), colour).save(tmp_path / "a.png")
    picture = image_files.read_image(tmp_path / "a.png", Reading(size=8, transparency="drop"))
    assert picture.is_transparent is transparent
    assert picture.is_half_cropped
    Image.new("RGB", (16, 32)).save(tmp_path / "b.png")
    assert not image_files.read_image(tmp_path / "b.png", Reading(size=8)).is_half_cropped


def save_transparent(kind: str, file: Path) -> tuple[list[int], list[int]]:
    """Write an image, and return the colour and alpha of each of its pixels but for the resize."""
    if kind in ("RGBA", "LA"):
        Image.new(kind, (40, 40), (100, 50, 200, 51) if kind == "RGBA" else (100, 51)).save(file)
        return ([100, 50, 200] if kind == "RGBA" else [100] * 3), [51]
    if kind == "grey":
        Image.new("L", (40, 40), 100).save(file, transparency=100)
        return [100] * 3, [0]
    image = Image.new("P", (40, 40))
    image.putpalette([100, 50, 200] * 4)
    image.save(file, transparency=bytes([51]) if kind == "palette" else 0)
    return [100, 50, 200], [51 if kind == "palette" else 0]


@pytest.mark.parametrize("kind", ["RGBA", "LA", "grey", "palette", "gif"])
@pytest.mark.parametrize(("transparency", "behind"), [("white", 255), ("black", 0), ("drop", None)])
def test_transparent_pixels_get_the_colour_behind_them(tmp_path, kind, transparency, behind):
    file = tmp_path / ("a.gif" if kind == "gif" else "a.png")
    colour, (alpha,) = save_transparent(kind, file)
    picture = image_files.read_image(file, Reading(size=8, transparency=transparency))
    expected = [
        each if behind is None else (each * alpha + behind * (255 - alpha)) / 255 for each in colour
    ]
    assert np.abs(picture.pixels - np.reshape(expected, (3, 1, 1))).max() <= 1
    assert picture.is_transparent is (behind is None)


@pytest.mark.parametrize(("width", "height"), [(50, 80), (80, 50), (40, 40), (41, 333), (9, 20), (300, 5)])
@pytest.mark.parametrize(("transparency", "fill"), [("white", 255), ("black", 0), ("drop", 0)])
def test_padding_keeps_the_whole_image_in_the_middle(tmp_path, width, height, transparency, fill):
    image = Image.fromarray(random_images(height, width, 3))
    image.save(tmp_path / "a.png")
    reading = Reading(size=32, resize="pad", transparency=transparency)
    picture = image_files.read_image(tmp_path / "a.png", reading)
    scale = 32 / max(width, height)
    inner = [max(1, round(side * scale)) for side in (width, height)]
    left, top = (round((32 - side) / 2) for side in inner)
    expected = np.full((32, 32, 3), fill, np.uint8)
    resized = np.asarray(image.resize(inner, Image.Resampling.BILINEAR))
    expected[top : top + inner[1], left : left + inner[0]] = resized
    assert np.array_equal(picture.pixels, expected.transpose(2, 0, 1))
    assert not picture.is_half_cropped


def test_squashing_stretches_both_sides_as_torchvision_does(tmp_path):
    image = Image.fromarray(random_images(333, 41, 3))
    image.save(tmp_path / "a.png")
    picture = image_files.read_image(tmp_path / "a.png", Reading(size=32, resize="squash"))
    expected = torchvision.transforms.Resize((32, 32))(image)
    assert np.array_equal(picture.pixels, np.asarray(expected).transpose(2, 0, 1))
    assert not picture.is_half_cropped


def test_an_image_of_which_padding_leaves_nothing_is_refused(tmp_path):
    Image.new("RGB", (400, 1)).save(tmp_path / "a.png")
    for resize in ("crop", "squash"):
        assert (
            image_files.read_image(tmp_path / "a.png", Reading(size=32, resize=resize)).pixels.shape[1]
            == 32
        )
    with pytest.raises(ValueError, match="400 x 1 pixels: nothing is left of the shorter side"):
        image_files.read_image(tmp_path / "a.png", Reading(size=32, resize="pad"))


def test_no_warning_of_pil_reaches_the_user_or_refuses_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # 1024 pixels: PIL warns when it opens the file
    Image.fromarray(random_images(32, 32, 3)).save(tmp_path / "a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_files.read_image(tmp_path / "a.jpg", Reading(size=8)).pixels.shape == (3, 8, 8)


def test_a_larger_image_is_refused_with_its_size_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (20_000, 50)).save(tmp_path / "a.png")
    assert read_square(tmp_path / "a.png", max_pixels=1_000_000).shape == (3, 8, 8)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(image_files.ImageTooLarge) as refused:
        read_square(tmp_path / "a.png", max_pixels=999_999)
    assert str(refused.value) == "20,000 x 50 pixels, more than the 999,999 of max_pixels"


def test_a_tiff_whose_tiles_are_too_large_is_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", bytes(256), {258: 8, 322: 4096, 323: 4096, 324: 8, 325: 256})
    with pytest.raises(image_files.ImageTooLarge, match="tiles of 4,096 x 4,096 pixels"):
        read_square(tmp_path / "a.tif", max_pixels=1_000_000)


def test_max_pixels_takes_the_place_of_pils_own_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 1024 pixels: PIL refuses to open the file
    Image.fromarray(random_images(32, 32, 3)).save(tmp_path / "a.webp")
    assert read_square(tmp_path / "a.webp").shape == (3, 8, 8)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("compressed", [False, True])
def test_an_idx_file_is_read_compressed_or_not(tmp_path, compressed):
    expected = random_images(5, 3, 2)
    content = struct.pack(">4I", 0x803, *expected.shape) + expected.tobytes()
    if compressed:
        (tmp_path / "x-ubyte.gz").write_bytes(gzip.compress(content))
    else:
        (tmp_path / "x-ubyte").write_bytes(content)
    assert np.array_equal(image_files.read_idx(tmp_path / "x-ubyte", dimensions=3), expected)


def test_an_incomplete_idx_file_raises_value_error(tmp_path):
    content = struct.pack(">2I", 0x801, 10) + bytes(10)
    packed = gzip.compress(content)
    for broken in (
        b"",
        content[:6],
        content[:-1],
        content + b"x",
        b"\0" + content,
        packed[:-4],
        packed[:9],
    ):
        (tmp_path / "x-ubyte").write_bytes(broken)
        with pytest.raises(ValueError, match="x-ubyte"):
            image_files.read_idx(tmp_path / "x-ubyte", dimensions=1)
    with pytest.raises(FileNotFoundError):
        image_files.read_idx(tmp_path / "y-ubyte", dimensions=1)


@pytest.mark.parametrize(("large_pixels", "meet"), [(10_000, True), (100, False)])
def test_large_images_are_decoded_one_after_another(tmp_path, monkeypatch, large_pixels, meet):
    Image.new("RGB", (20, 20)).save(tmp_path / "image.png")
    barrier, met = threading.Barrier(2), []
    resize = Image.Image.resize

    def resize_together(*args, **options):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(barrier.wait(60 if meet else 0.05))
        return resize(*args, **options)

    monkeypatch.setattr(image_files, "LARGE_PIXELS", large_pixels)
    monkeypatch.setattr(Image.Image, "resize", resize_together)
    with image_files.without_pil_limits(), ThreadPoolExecutor(2) as pool:
        reading = image_files.Reading(size=8)
        list(pool.map(image_files.decode_image, [tmp_path / "image.png"] * 2, [reading] * 2))
    assert len(met) == (2 if meet else 0)
