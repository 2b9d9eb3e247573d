"""Writing a report: of small studies, in any time zone, where it cannot be written."""

import hashlib

from hpo.artifacts.folders import Artifacts
from hpo.report.page import read_report
from hpo.store import studies
from tests.support.report_page import write_and_parse
from tests.support.reported_studies import (
    SEARCH,
    grid_definition,
    make_trial,
    store_single_trial,
    store_study,
)
from tests.support.workplace import Workplace


def test_every_section_has_content_or_states_why_not(url, tmp_path):
    storage = store_single_trial(url)
    found = read_report(storage, "quickstart", Artifacts(str(tmp_path / "artifacts")))
    for section in found.sections:
        assert section.parts or len(section.text) == 1, section.name
    empty = {section.name for section in found.sections if not section.parts}
    assert empty == {
        *("data", "classes", "importance", "curves", "parallel", "slices", "contours", "ranks")
    }
    page, _ = write_and_parse(storage, "quickstart", tmp_path)
    axes = [
        page.figures[f"plot-{name}"]["layout"][a]
        for name, a in (("history", "xaxis"), ("timeline", "yaxis"))
    ]
    assert [axis["dtick"] for axis in axes] == [1, 1], "there is no trial 0.5"


def test_equal_accuracies_have_one_rank_and_one_colour(sqlite_url, tmp_path):
    definition = grid_definition()
    curves = [[0.9], *[[0.5]] * 9, [0.2], [0.3], [0.8], [0.7]]
    trials = [
        make_trial(definition, point.setting, curve, number)
        for number, (point, curve) in enumerate(zip(definition.points, curves, strict=True))
    ]
    page, tables = write_and_parse(store_study(sqlite_url, definition, trials), definition.name, tmp_path)
    name = next(name for name in tables if name.startswith("rank-"))
    assert {row["rank"] for row in tables[name] if row["accuracy"] == "0.5"} == {"8.0"}
    assert any("rank 8 of 14" in text for text in page.figures[f"plot-{name}"]["data"][0]["text"])
    texts_by_band = {trace["name"]: trace["text"] for trace in page.figures["plot-parallel"]["data"]}
    holding = [name for name, texts in texts_by_band.items() if any(": 0.5000" in text for text in texts)]
    assert holding == ["middle fifth"]
    assert any(": 0.9000" in text for text in texts_by_band["best fifth"])


def test_times_are_utc_whatever_the_local_time_zone(sqlite_url, workplace):
    store_single_trial(sqlite_url)
    for zone in ("UTC", "Asia/Seoul"):
        done = workplace.hpo(
            "report", "quickstart", "-o", "page.html", "--csv", zone[:3], "--store", sqlite_url, TZ=zone
        )
        assert done.out.startswith("report of study quickstart: page.html\n")
    tables = [(workplace.path / zone / "timeline.csv").read_text() for zone in ("UTC", "Asi")]
    assert tables[0] == tables[1]
    assert "2026-01-01 12:00:00" in tables[0]


def test_the_report_changes_nothing_in_the_store(sqlite_url, tmp_path):
    storage = store_single_trial(sqlite_url)
    storage.engine.dispose()
    before = hashlib.sha256((tmp_path / "hpo.db").read_bytes()).hexdigest()
    write_and_parse(studies.open_storage(sqlite_url, create=False), "quickstart", tmp_path)
    assert hashlib.sha256((tmp_path / "hpo.db").read_bytes()).hexdigest() == before


def test_a_report_that_cannot_be_written_is_refused_in_one_line(sqlite_url, workplace: Workplace):
    store_single_trial(sqlite_url)
    empty = workplace.study(SEARCH, "empty")
    workplace.here("create", empty, "--store", sqlite_url)
    (workplace.path / "file").write_text("")
    cases = [
        (("report", "quikstart", "-o", "x.html"), "did you mean 'quickstart'?"),
        (
            ("report", "empty", "-o", "x.html"),
            "has no complete trial yet; 'hpo trials empty' lists the others",
        ),
        (("report", "quickstart", "-o", "file/x.html"), "-o file/x.html: File exists; want a file"),
        (
            ("report", "quickstart", "-o", "x.html", "--csv", "file"),
            "--csv file: File exists; want a folder",
        ),
        (("report", "quickstart", "-o", "."), "-o .: "),
    ]
    for command, message in cases:
        done = workplace.here(*command, "--store", sqlite_url, code=1)
        assert done.err.startswith("hpo: ")
        assert done.err.count("\n") == 1, done.err
        assert message in done.err
        assert done.out == ""
    assert "no store at" in workplace.here("report", "search", "-o", "x.html", code=1).err
    assert "Missing option" in workplace.here("report", "search", "--store", sqlite_url, code=2).err
