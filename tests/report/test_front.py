"""The section on the Pareto front: its tables, its figures, and the headline that names the knee."""

import json

import pytest

from hpo.analysis import records, results
from hpo.report.front_section import front_section
from hpo.store import status, studies
from tests.support.report_page import Page, table_of
from tests.support.several_objectives import OWN, STUDY
from tests.support.workplace import load, workplace_in

THREE = """
[train]
dataset = "digits"
limit = 100
image_size = 32
weights = "none"
epochs = 1
[space]
model = ["squeezenet1_1", "shufflenet_v2_x0_5"]
[search]
sampler = "grid"
pruner = "none"
objectives = ["loss", "parameters", "accuracy"]
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a complete study with two objectives."""
    place = workplace_in(tmp_path_factory.mktemp("front"))
    (place.path / "own.py").write_text(OWN)
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    place.here("report", "small", "-o", "page.html", "--csv", "tables")
    return place


def test_the_front_of_the_report_is_that_of_plain_optuna(written):
    study, rows = load(written), table_of(written, "front")
    on_it = {int(row["trial"]) for row in rows if row["on the front"] == "True"}
    assert on_it == {each.number for each in study.best_trials}
    for row in rows:
        assert [float(row["accuracy"]), float(row["epoch_seconds"])] == study.trials[
            int(row["trial"])
        ].values
    page = Page((written.path / "page.html").read_text())
    data = {each["name"]: each for each in page.figures["plot-front-1-epoch_seconds"]["data"]}
    assert sum(len(data[name]["x"]) for name in ("on the front", "knee") if name in data) == len(on_it)
    assert page.figures["plot-front-1-epoch_seconds"]["layout"]["yaxis"]["title"]["text"] == (
        "accuracy (maximized)"
    )


def test_the_headline_names_the_knee(written):
    rows = {row["trial"]: row for row in table_of(written, "front")}
    (knee,) = (row for row in rows.values() if row["knee"] == "True")
    page = Page((written.path / "page.html").read_text())
    front = [row for row in rows.values() if row["on the front"] == "True"]
    title = "accuracy of the knee of the Pareto front" if len(front) > 1 else "best accuracy"
    assert f"{float(knee['accuracy']):.4f} {title}" in page.text
    assert f"epoch seconds {float(knee['epoch_seconds']):#.4g}" in page.text


def test_each_objective_has_a_figure_against_the_first_metric_and_its_interval(tmp_path):
    place = workplace_in(tmp_path)
    place.here("create", place.study(THREE))
    place.here("worker", "small")
    storage = studies.open_storage(f"sqlite:///{tmp_path}/storage/hpo.db", create=False)
    definition = studies.read_definition(storage, "small")
    trials = records.trial_records(definition, status.read_trials(storage, "small"))
    settings = results.all_settings(definition, trials)
    _, costs, accuracies = front_section(settings).parts
    assert (costs.name, accuracies.name) == ("front-1-parameters", "front-2-accuracy")
    assert not any(trace.mode == "lines" for trace in costs.figure.data), "a front of three is no line"
    for each in settings:
        assert each.objective_interval(0) is None
        assert each.objective_interval(1) is None
        interval = each.objective_interval(2)
        assert interval is not None
        assert interval.low < each.objectives[2] < interval.high or each.objectives[2] in (0, 1)


def test_the_knee_keeps_its_weights_and_its_card_names_every_objective(tmp_path):
    place = workplace_in(tmp_path)
    place.here("create", place.study(THREE), "--set", "search.keep_weights=1")
    place.here("worker", "small")
    (knee,) = (each for each in place.here("best", "small", "--json").json() if each["knee"])
    place.here("export", "small", "--to", "model")
    written = json.loads((tmp_path / "model/metrics.json").read_text())
    assert (written["trial"], written["objectives"]) == (knee["trial"], knee["values"])
    card = (tmp_path / "model/README.md").read_text()
    assert f"| parameters | {knee['values']['parameters']:,.0f} |" in card
