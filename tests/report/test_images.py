"""The report's sections on the images of a study and on the classes of its best trial."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from hpo.artifacts.folders import Artifacts
from hpo.report import class_section, data_section
from hpo.report.page import read_report, render_html, write_report
from hpo.store import studies
from hpo.study.search_options import Search
from hpo.training.confusion import Confusion
from hpo.training.data_facts import DataFacts, Sample
from tests.support.databases import closed_engines
from tests.support.exported import run_studies, trials_of
from tests.support.report_page import Page, write_and_parse
from tests.support.workplace import workplace_in

HOSTILE = "<img src=x onerror=hacked()> & \u202e" + "long " * 60


@pytest.fixture(scope="module")
def finished(once):
    """Return a workplace with a study of the digits and one of two classes of drawn shapes."""
    return workplace_in(once("exported", run_studies))


@pytest.fixture
def storage_of(finished):
    with closed_engines():
        yield studies.open_storage(f"sqlite:///{finished.path}/storage/hpo.db", create=False)


def png(side: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 90)).save(file, "PNG")
    return file.getvalue()


def facts(classes: int) -> DataFacts:
    names = [HOSTILE, *(f"class {k}" for k in range(1, classes))]
    images = {
        "train": tuple(range(classes, 0, -1)),
        "valid": (5,) * classes,
        "test": (4,) * classes,
    }
    return DataFacts.model_construct(
        classes=tuple(names),
        images=images,
        selection="valid",
        skipped=2,
        image_size=32,
        augmentation="flip",
        samples=tuple(Sample.model_construct(label=k, png=png()) for k in range(min(classes, 40))),
    )


def confusion(classes: int) -> Confusion:
    names = [HOSTILE, *(f"class {k}" for k in range(1, classes))]
    matrix_KK = 4 * np.eye(classes, dtype=np.int64)
    matrix_KK[np.arange(classes), np.arange(classes)[::-1]] += 1
    return Confusion.from_matrix("valid", names, matrix_KK)


def test_the_matrix_and_the_classes_are_those_of_the_best_trial(finished, storage_of, tmp_path):
    page, tables = write_and_parse(storage_of, "digits", tmp_path, finished.path / "storage/artifacts")
    best = max(trials_of(finished, "digits"), key=lambda trial: trial.value)
    rows = [[int(row[str(digit)]) for digit in range(10)] for row in tables["confusion"]]
    assert sum(rows[k][k] for k in range(10)) / sum(map(sum, rows)) == best.value
    assert page.figures["plot-confusion"]["data"][0]["text"] == [
        [str(count) if count else "" for count in row] for row in rows
    ]
    assert [int(row["n"]) for row in tables["classes"]] == [sum(row) for row in rows]
    recalls = [rows[k][k] / sum(rows[k]) for k in range(10)]
    assert [float(row["recall"]) for row in tables["classes"]] == recalls
    assert f"Trial {best.number} on the {sum(map(sum, rows))} images of the validation split" in page.text


def test_the_images_are_counted_and_shown(finished, storage_of, tmp_path):
    page, tables = write_and_parse(storage_of, "shapes", tmp_path, finished.path / "storage/artifacts")
    counts = {row["class"]: [int(n) for n in list(row.values())[1:]] for row in tables["data-classes"]}
    assert {name: all_ for name, (*_, all_) in counts.items()} == {"Dreiecke ∆": 8, "a|b": 8}
    assert "16 images in 2 classes:" in page.text
    assert "gives accuracy 0.5000 on the test split" in page.text
    assert page.tags.count("img") == 12


def test_the_data_section_says_where_guessing_cannot_be_told_from_learning(storage_of):
    definition = studies.read_definition(storage_of, "digits").model_copy(update={"search": Search()})
    (_, limits) = data_section.data_section(facts(2), definition).text
    assert limits == "No trial is pruned for guessing: the rule begins after epoch 3, and trials have 2."


def test_a_report_without_the_artifacts_says_what_is_missing(finished, storage_of, tmp_path):
    page, tables = write_and_parse(storage_of, "digits", tmp_path)
    assert "What the images are is not stored: there is no file" in page.text
    assert "How each class was answered is not known:" in page.text
    assert not {"confusion", "classes", "data-classes"} & set(tables)
    assert "img" not in page.tags


@pytest.mark.parametrize("classes", [2, 30, 31, 1000])
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_few_and_many_classes_with_names_of_any_kind(
    finished, storage_of, tmp_path, classes, width, chromium
):
    artifacts = Artifacts(str(finished.path / "storage/artifacts"))
    definition = studies.read_definition(storage_of, "shapes")
    shown = (
        data_section.data_section(facts(classes), definition),
        class_section.class_section(0, confusion(classes)),
    )
    report = dataclasses.replace(read_report(storage_of, "shapes", artifacts), sections=shown)
    page = Page(render_html(report))
    assert page.tags.count("img") == min(classes, 40)
    assert HOSTILE.strip() in page.text
    assert max(map(len, page.tables)) <= 31
    files = write_report(report, tmp_path / "page.html", tmp_path / "csv")
    assert files == ["data-classes.csv", "confusion.csv", "classes.csv"]
    assert len((tmp_path / "csv/classes.csv").read_text().splitlines()) == classes + 1
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    tab.set_default_timeout(120_000)  # the machine may be busy
    messages: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_function(
        f"document.querySelectorAll('.plot .main-svg:first-child').length >= {len(page.figures)}"
    )
    assert messages == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth === 32)")
    tab.close()
