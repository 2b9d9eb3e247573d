import gzip
import io
import struct
import subprocess
import warnings

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from hpo.training import transforms

SIZES = [
    ((8, 8), 32),
    ((8, 8), 224),
    ((32, 32), 224),
    ((32, 32), 64),
    ((28, 28), 64),
    ((28, 28), 32),
    ((224, 224), 32),
    ((224, 224), 96),
    ((100, 100), 99),
    ((99, 99), 100),
    ((64, 64), 64),
    ((37, 53), 64),
    ((53, 37), 64),
    ((64, 30), 64),
    ((30, 64), 64),
    ((1, 1), 5),
    ((5, 1), 3),
    ((500, 333), 7),
    ((300, 40), 224),
    ((40, 300), 224),
    ((230, 227), 224),
    ((231, 227), 224),
]


def pil_resize(image_CHW, size):
    mode = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    resized = np.asarray(Image.fromarray(mode).resize((size, size), Image.Resampling.BILINEAR))
    return resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)


def assert_equals_pil(images_NCHW, size):
    found = transforms.resize(torch.from_numpy(images_NCHW), size).numpy()
    expected = np.stack([pil_resize(image, size) for image in images_NCHW])
    assert np.array_equal(found, expected), f"{(found != expected).mean():.2%} of the pixels differ"


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def counting_images(count, channels, side):
    """Return images whose pixels are numbered from 1 on, so that a crop shows its position."""
    numbers_11HW = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, 1, side, side)
    return numbers_11HW.expand(count, channels, side, side).contiguous()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("sides", "size"), SIZES)
def test_resize_equals_pil_in_every_byte(sides, size, channels):
    assert_equals_pil(random_images(4, channels, *sides), size)


@pytest.mark.parametrize(("side", "size"), [(32, 224), (28, 224), (8, 32), (32, 64), (64, 32), (224, 32)])
def test_resize_rounds_ties_as_pil_does(side, size):
    # Equal steps between few levels put many results half way between two of them.
    rows, columns = np.indices((side, side))
    checkers = [255 * ((rows // step + columns // step) % 2) for step in (1, 2, 3, 4)]
    stripes = [
        255 * (rows % 2),
        255 * (columns % 2),
        rows % 2,
        columns % 2,
        (rows + columns) % 2,
        254 + rows % 2,
    ]
    patterns = np.stack([*checkers, *stripes]).astype(np.uint8)[:, None]
    assert_equals_pil(patterns, size)
    assert_equals_pil(
        np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (8, 3, side, side)), size
    )


def test_resize_keeps_white_white_and_black_black():
    for level in (0, 255):
        flat = torch.full((1, 3, 333, 222), level, dtype=torch.uint8)
        assert (transforms.resize(flat, 100) == level).all()


def test_images_of_the_right_size_are_returned_unchanged():
    same = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    assert transforms.resize(same, 64) is same


def test_resize_does_not_change_its_input():
    before = torch.from_numpy(random_images(2, 3, 32, 32))
    kept = before.clone()
    transforms.resize(before, 64)
    assert torch.equal(before, kept)


def test_resize_accepts_channels_last_and_sliced_batches():
    batch = torch.from_numpy(random_images(8, 3, 32, 32))
    expected = transforms.resize(batch, 48)
    assert torch.equal(transforms.resize(batch.to(memory_format=torch.channels_last), 48), expected)
    assert torch.equal(transforms.resize(batch[::2], 48), expected[::2])


def test_augmentation_none_returns_the_images_and_draws_no_random_number():
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    batch = counting_images(4, 1, 8)
    assert transforms.augment(batch, "none", generator) is batch
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("kind", ["flip", "crop+flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_generator_gives_the_same_augmentation(kind, channels):
    batch = torch.from_numpy(random_images(64, channels, 16, 16))
    first, again, other = (
        transforms.augment(batch, kind, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert first.shape == batch.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flip_mirrors_about_half_of_the_images_and_changes_nothing_else():
    batch = torch.from_numpy(random_images(2000, 3, 4, 6))
    augmented = transforms.augment(batch, "flip", torch.Generator().manual_seed(0))
    unchanged = (augmented == batch).flatten(1).all(1)
    mirrored = (augmented == batch.flip(3)).flatten(1).all(1)
    assert (unchanged ^ mirrored).all()
    assert 900 < mirrored.sum() < 1100  # 4.5 standard deviations


def test_crops_are_windows_of_the_padded_image_at_every_place_equally_often():
    side, padding = 8, 1
    batch = counting_images(9000, 3, side)
    cropped = transforms.augment(batch, "crop+flip", torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(batch[0], [padding] * 4)
    total = 0
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + side, left : left + side]
            for candidate in (window, window.flip(2)):
                found = int((cropped == candidate).flatten(1).all(1).sum())
                assert 400 < found < 600, (top, left)  # 500 expected, 4.6 standard deviations
                total += found
    assert total == len(batch)


def test_crops_move_by_an_eighth_of_the_side_and_by_one_pixel_at_least():
    for side, most in ((4, 1), (8, 1), (32, 4), (40, 5)):
        white = torch.full((500, 1, side, side), 255, dtype=torch.uint8)
        cropped = transforms.augment(white, "crop+flip", torch.Generator().manual_seed(0))
        black_rows = (cropped == 0).all(3).flatten(1).sum(1)
        black_columns = (cropped == 0).all(2).flatten(1).sum(1)
        assert (black_rows.min(), black_rows.max()) == (0, most)
        assert (black_columns.min(), black_columns.max()) == (0, most)


def test_crops_of_images_that_are_not_square_keep_their_shape():
    batch = torch.from_numpy(random_images(5, 3, 16, 40))
    assert transforms.augment(batch, "crop+flip", torch.Generator()).shape == batch.shape


def test_normalise_agrees_with_torchvision():
    batch = random_images(3, 3, 20, 20)
    reference = torchvision.transforms.Compose(
        [
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    expected = torch.stack([reference(image.transpose(1, 2, 0)) for image in batch])
    found = transforms.normalise(torch.from_numpy(batch))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_normalise_repeats_the_grey_channel_three_times():
    grey = torch.from_numpy(random_images(3, 1, 20, 20))
    assert torch.equal(transforms.normalise(grey), transforms.normalise(grey.expand(-1, 3, -1, -1)))


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
    assert np.array_equal(transforms.read_image(tmp_path / "a.png", 32).pixels, expected)


def test_a_photograph_is_rotated_by_its_exif_orientation(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255  # white at the top, before the rotation
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    rotated = transforms.read_image(tmp_path / "a.jpg", 32).pixels
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
    pixels = transforms.read_image(tmp_path / f"a.{suffix}", 16).pixels
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
        assert transforms.read_image(tmp_path / "a.png", 8).pixels[:, 0, 0].tolist() == [10, 20, 30]


def test_the_first_frame_of_an_animation_is_used(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert transforms.read_image(tmp_path / "a.gif", 8).pixels[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "gif", "tiff"])
def test_a_broken_image_of_any_format_raises_value_error(tmp_path, suffix):
    whole = io.BytesIO()
    Image.fromarray(random_images(64, 64, 3)).save(whole, {"jpg": "jpeg"}.get(suffix, suffix))
    for content in (b"", b"not an image", whole.getvalue()[: len(whole.getvalue()) // 2]):
        (tmp_path / f"a.{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=r"\w"):
            transforms.read_image(tmp_path / f"a.{suffix}", 16)


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
    found, others = transforms.list_images(tmp_path)
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
    found, others = transforms.list_images(folder)
    assert [str(file.relative_to(folder)) for file in found] == ["again/a.png", "dead.png", "sub/b.png"]
    assert others == []
    with pytest.raises(ValueError, match="a link to a file that does not exist"):
        transforms.read_image(folder / "dead.png", 8)


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
        transforms.read_image(tmp_path / "a.jpg", 16)


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
        transforms.read_image(tmp_path / "a.tif", 8)


def test_signed_16_bit_grey_is_refused(tmp_path):
    values = struct.pack("<256h", *range(-128, 128))
    tags = [(256, 16), (257, 16), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, 512)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (*tags, (339, 2)))
    head = b"II*\0" + struct.pack("<I", 8 + len(values)) + values
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<H", len(tags) + 1) + entries + bytes(4))
    with pytest.raises(ValueError, match="32-bit or signed grey"):
        transforms.read_image(tmp_path / "a.tif", 8)


def test_black_16_bit_grey_is_an_image_like_any_other(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "a.png")
    assert transforms.read_image(tmp_path / "a.png", 8).pixels.max() == 0


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
    picture = transforms.read_image(tmp_path / "a.png", 8)
    assert picture.is_transparent is transparent
    assert picture.is_half_cropped
    Image.new("RGB", (16, 32)).save(tmp_path / "b.png")
    assert not transforms.read_image(tmp_path / "b.png", 8).is_half_cropped


def test_no_warning_of_pil_reaches_the_user_or_refuses_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # 1024 pixels: PIL warns when it opens the file
    Image.fromarray(random_images(32, 32, 3)).save(tmp_path / "a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert transforms.read_image(tmp_path / "a.jpg", 8).pixels.shape == (3, 8, 8)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_idx_file_is_read_compressed_or_not(tmp_path, compressed):
    expected = random_images(5, 3, 2)
    content = struct.pack(">4I", 0x803, *expected.shape) + expected.tobytes()
    if compressed:
        (tmp_path / "x-ubyte.gz").write_bytes(gzip.compress(content))
    else:
        (tmp_path / "x-ubyte").write_bytes(content)
    assert np.array_equal(transforms.read_idx(tmp_path / "x-ubyte", dimensions=3), expected)


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
            transforms.read_idx(tmp_path / "x-ubyte", dimensions=1)
    with pytest.raises(FileNotFoundError):
        transforms.read_idx(tmp_path / "y-ubyte", dimensions=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_bytes_as_the_cpu():
    batch = torch.from_numpy(random_images(16, 3, 32, 32))
    on_gpu = batch.cuda()
    assert torch.equal(transforms.resize(on_gpu, 224).cpu(), transforms.resize(batch, 224))
    for kind in ("flip", "crop+flip"):
        augmented_on_cpu, augmented_on_gpu = (
            transforms.augment(x, kind, torch.Generator().manual_seed(0)) for x in (batch, on_gpu)
        )
        assert torch.equal(augmented_on_gpu.cpu(), augmented_on_cpu)
    torch.testing.assert_close(
        transforms.normalise(on_gpu).cpu(), transforms.normalise(batch), rtol=0, atol=1e-6
    )
