"""The section on pauses and forecasts: its table and its figure, and studies without a model."""

import pytest

from hpo.analysis import records
from hpo.report.forecast_section import forecast_section
from hpo.search.asha import RUNG_DECISIONS
from hpo.store import status, studies
from tests.support.report_page import Page, table_of
from tests.support.workplace import load, workplace_in

OWN = """
def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        state["epoch"] += 1
        yield (0.9 - (config.x - 0.3) ** 2) * (1 - 0.5 / state["epoch"]), state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 9

[space]
x = { low = 0.0, high = 1.0 }

[search]
trials = 20
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a complete study whose file names neither sampler nor pruner."""
    place = workplace_in(tmp_path_factory.mktemp("forecasts"))
    (place.path / "own.py").write_text(OWN)
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    place.here("report", "small", "-o", "page.html", "--csv", "tables")
    return place


def test_the_table_has_every_decision_with_its_reason_and_what_came(written):
    rows = iter(table_of(written, "decisions"))
    for trial in load(written).trials:
        came = trial.value if trial.state.name == "COMPLETE" else None
        for made in trial.system_attrs[RUNG_DECISIONS]:
            row = next(rows)
            assert (int(row["trial"]), int(row["epoch"])) == (trial.number, made["rung"])
            paused = "paused, then resumed" if trial.last_step > made["rung"] else "paused"
            assert (row["decision"], row["why"]) == (
                (paused, made["reason"]) if made["kind"] == "paused" else ("continued", "")
            )
            shown = [row[name] for name in ("expected low", "expected", "expected high")]
            assert [float(each) for each in shown if each] == (made["expected"] or [])
            assert row["came"] == ("" if came is None else str(came))
    assert not list(rows)
    kinds = {row["decision"] for row in table_of(written, "decisions")}
    assert kinds == {"paused", "paused, then resumed", "continued"}


def test_the_figure_has_each_forecast_that_can_be_judged(written):
    judged = [row for row in table_of(written, "decisions") if row["expected"] and row["came"]]
    assert judged
    assert table_of(written, "forecasts") == judged
    page = Page((written.path / "page.html").read_text())
    data = {each["name"]: each for each in page.figures["plot-forecasts"]["data"]}
    assert len(data["forecast"]["x"]) == len(judged)
    within = sum(
        float(row["expected low"]) <= float(row["came"]) <= float(row["expected high"]) for row in judged
    )
    assert f"lies within the 80 % interval of {within} of them." in (written.path / "page.html").read_text()


def test_intervals_are_in_order(written):
    for row in table_of(written, "decisions"):
        if row["expected"]:
            low, median, high = (float(row[name]) for name in ("expected low", "expected", "expected high"))
            assert low <= median <= high


def test_a_trial_that_waits_shows_why(written):
    written.here("create", written.study(STUDY + "epochs = 5\n", name="waiting"))
    written.here("worker", "waiting")
    shown = written.here("trials", "waiting").out
    assert shown.count("waits at the rung of epoch 1: 15 settings are to begin first") == 5


def test_there_is_no_such_section_where_ranks_decide(written):
    file = written.study(STUDY + 'pruner = { name = "asha", min_epochs = 1 }\n', name="ranks")
    written.here("create", file, "--name", "ranks")
    written.here("worker", "ranks")
    storage = studies.open_storage(f"sqlite:///{written.path}/storage/hpo.db", create=False)
    definition = studies.read_definition(storage, "ranks")
    found = records.trial_records(definition, status.read_trials(storage, "ranks"))
    assert {each.state for each in found} == {"complete", "pruned"}
    assert forecast_section(found, "accuracy") is None
