"""Sample pictures of a study's images, in one picture beside the model card."""

import io
import itertools
import math

from PIL import Image

from hpo.training.data_facts import DataFacts

FILE_NAME = "samples.png"
COLUMNS = 8  # of a sheet with one picture of each class
MIN_SIDE_PIXELS = 64  # of a picture on the sheet; smaller ones are enlarged
GAP_PIXELS = 4


def draw_sheet(facts: DataFacts) -> bytes:
    """Return the samples in a grid, as a PNG file; ``describe_sheet`` says what is where.

    Args:
        facts: What is known of the images; it must have samples.

    Raises:
        OSError: If a sample is no picture.
    """
    grid = _arrange(facts)
    pictures = {each.png: Image.open(io.BytesIO(each.png), formats=["PNG"]) for each in facts.samples}
    side = max(max(each.size) for each in pictures.values())
    side *= math.ceil(MIN_SIDE_PIXELS / side)
    step = side + GAP_PIXELS
    width, height = max(map(len, grid)) * step - GAP_PIXELS, len(grid) * step - GAP_PIXELS
    sheet = Image.new("RGB", (width, height), "white")
    for row, column in ((row, column) for row, own in enumerate(grid) for column in range(len(own))):
        picture = pictures[facts.samples[grid[row][column]].png].convert("RGB")
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (column * step, row * step))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


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
