"""What a model card says about classes: images, precision and recall, confusions, sample pictures."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from hpo.export import card, predict, sheet
from hpo.training.confusion import Confusion
from hpo.training.data_facts import DataFacts, Sample
from tests.support.exported import METRICS, export


def png(grey: int, side: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), grey).save(file, "PNG")
    return file.getvalue()


def facts(classes: int, each: int, side: int = 32) -> DataFacts:
    samples = tuple(
        Sample.model_construct(label=k, png=png(10 * k + n, side))
        for k in range(min(classes, 20))
        for n in range(each)
    )
    return DataFacts.model_construct(
        classes=tuple(f"kind|{k}" for k in range(classes)),
        images={"train": tuple(range(classes)), "test": (1,) * classes},
        selection="test",
        skipped=0,
        image_size=side,
        augmentation="none",
        samples=samples,
    )


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of the Markdown tables in a text, without the line below each head."""
    found = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    return [[line[2:-2].split(" | ") for line in (lines[0], *lines[2:])] for lines in found]


def test_the_card_counts_and_scores_each_class_of_the_exported_weights(finished, tmp_path):
    metrics = export(finished, "shapes", tmp_path / "model")
    text = (tmp_path / "model/README.md").read_text()
    _, classes, matrix, images, _ = tables(text)
    assert classes[0] == ["class", "n", "precision", "recall", "F1"]
    assert matrix[0] == ["class", "Dreiecke ∆", "a\\|b"]
    counts = [[int(cell) for cell in row[1:]] for row in matrix[1:]]
    assert [int(row[1]) for row in classes[1:]] == [sum(row) for row in counts]
    assert sum(counts[k][k] for k in range(2)) / sum(map(sum, counts)) == metrics.value
    assert images[0] == ["class", "training", "test", "all"]
    assert [row[-1] for row in images[1:]] == ["8", "8"]
    assert "one row for each class: Dreiecke ∆, a\\|b." in text
    with Image.open(tmp_path / "model" / sheet.FILE_NAME) as drawn:
        assert drawn.size == (6 * 68 - 4, 2 * (68 + 18) - 4)
    assert f"![Training images]({sheet.FILE_NAME})" in text


def test_a_card_of_many_classes_shows_those_at_the_ends(winner):
    description = predict.Description.model_validate_json((winner / "config.json").read_text())
    matrix_KK = 4 * np.eye(1000, dtype=np.int64)
    matrix_KK[7] = 1
    names = [f"kind|{k}" for k in range(1000)]
    confusion = Confusion.from_matrix("valid", names, matrix_KK)
    trained = card.TrainingFacts(
        labels=names, images={"train": 2}, skipped=0, params={}, facts=facts(1000, 1), confusion=confusion
    )
    text = card.model_card(description, METRICS, trained)
    _, classes, pairs, images, _ = tables(text)
    assert classes[1][:2] == ["kind\\|7", "1000"]
    assert {row[0] for row in pairs[1:]} == {"kind\\|7"}
    assert [row[0] for row in images[1:3]] == ["kind\\|999", "kind\\|998"]
    assert images[-1][0] == "kind\\|0"
    assert {len(classes), len(pairs), len(images)} == {card.MAX_CLASS_NAMES + 1}


@pytest.mark.parametrize(
    ("classes", "each", "side", "size"),
    [(3, 4, 32, (4 * 68 - 4, 3 * 86 - 4)), (20, 1, 96, (800 - 4, 3 * 118 - 4)), (1, 1, 20, (80, 98))],
)
def test_the_sheet_has_a_row_for_each_class_or_a_grid(classes, each, side, size):
    known = facts(classes, each, side)
    drawn = Image.open(io.BytesIO(sheet.draw_sheet(known)))
    assert drawn.size == size
    step = {20: 80}.get(side, max(side, 64)) + 4
    for index, sample in enumerate(known.samples):
        row, column = divmod(index, 8) if each == 1 else (sample.label, index % each)
        expected = Image.open(io.BytesIO(sample.png)).getpixel((0, 0))
        top = row * (step + 18) + 18
        assert drawn.getpixel((column * step, top)) == (expected,) * 3
        has_name = each == 1 or column == 0
        name = drawn.crop((column * step, top - 18, column * step + 40, top)).convert("L")
        assert (name.getextrema()[0] < 100) == has_name
    _, names = sheet.describe_sheet(known)
    assert names == [f"kind|{k}" for k in range(classes)]


def test_a_model_whose_classes_are_not_known_is_exported_without_them(finished, workplace, tmp_path):
    artifacts = finished.path / "storage/artifacts"
    for source in artifacts.glob("shapes-*/0000/*"):
        target = workplace.path / "artifacts" / source.relative_to(artifacts)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        if source.suffix == ".safetensors":
            start = 8 + int.from_bytes(content[:8], "little")
            header = json.loads(content[8:start])
            del header["__metadata__"]["confusion"]
            old = json.dumps(header).encode()
            content = len(old).to_bytes(8, "little") + old + content[start:]
        target.write_bytes(content)
    export(finished, "shapes", tmp_path / "model", root=str(workplace.path / "artifacts"))
    assert not (tmp_path / "model" / sheet.FILE_NAME).exists()
    text = (tmp_path / "model/README.md").read_text()
    assert len(tables(text)) == 2
    assert "Each class" not in text
    assert str(workplace.path) not in text
