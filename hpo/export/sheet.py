"""Sample pictures of a study's images, in one picture beside the model card."""

import io
import itertools
import math
import unicodedata
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from hpo.training.data_facts import DataFacts

FILE_NAME = "samples.png"
COLUMNS = 8  # of a sheet with one picture of each class
MIN_SIDE_PIXELS = 64  # of a picture on the sheet; smaller ones are enlarged
GAP_PIXELS = 4
LABEL_PIXELS, FONT_PIXELS = 18, 13  # the line with the name of a class above its pictures


def draw_sheet(facts: DataFacts) -> bytes:
    """Return the samples in a grid, each class under its name, as a PNG file.

    Args:
        facts: What is known of the images; it must have samples.

    Raises:
        OSError: If a sample is no picture.
    """
    grid = _arrange(facts)
    pictures = {each.png: Image.open(io.BytesIO(each.png), formats=["PNG"]) for each in facts.samples}
    side = max(max(each.size) for each in pictures.values())
    side *= math.ceil(MIN_SIDE_PIXELS / side)
    across, down = side + GAP_PIXELS, side + LABEL_PIXELS + GAP_PIXELS
    width = max(map(len, grid)) * across - GAP_PIXELS
    sheet = Image.new("RGB", (width, len(grid) * down - GAP_PIXELS), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PIXELS)
    label_width = width if _has_rows(facts) else side
    for row, column in ((row, column) for row, own in enumerate(grid) for column in range(len(own))):
        sample, x, y = facts.samples[grid[row][column]], column * across, row * down
        if column == 0 or not _has_rows(facts):
            name = _shorten_to(_drawable(facts, sample.label), label_width, font.getlength)
            draw.text((x, y), name, "black", font)
        picture = pictures[sample.png].convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(picture, (x, y + LABEL_PIXELS))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _drawable(facts: DataFacts, label: int) -> str:
    """Return the name of a class with the letters that Pillow's own font has, which are ASCII."""
    plain = unicodedata.normalize("NFKD", facts.classes[label]).encode("ascii", "ignore").decode()
    return " ".join(plain.split()) or f"class {label}"


def _shorten_to(text: str, width: int, measure: Callable[[str], float]) -> str:
    """Return a text that is at most so wide; of a longer one, the beginning and "..."."""
    shown = itertools.chain([text], (f"{text[:end]}..." for end in range(len(text) - 1, 0, -1)))
    return next((each for each in shown if measure(each) <= width), "")


def describe_sheet(facts: DataFacts) -> tuple[str, list[str]]:
    """Return how the pictures are arranged, as a phrase, and the classes in this order."""
    labels = dict.fromkeys(each.label for each in facts.samples)
    how = "one row for each class" if _has_rows(facts) else "one picture for each class, row by row"
    return how, [facts.classes[label] for label in labels]


def _has_rows(facts: DataFacts) -> bool:
    """Return whether each class has a row of its own: some class has several pictures."""
    return len({each.label for each in facts.samples}) < len(facts.samples)


def _arrange(facts: DataFacts) -> list[list[int]]:
    """Return the indices of the samples in rows."""
    positions = range(len(facts.samples))
    if not _has_rows(facts):
        return [list(positions[first : first + COLUMNS]) for first in positions[::COLUMNS]]
    by_class = itertools.groupby(positions, key=lambda position: facts.samples[position].label)
    return [list(own) for _, own in by_class]
