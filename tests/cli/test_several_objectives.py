"""A study with several objectives as each verb shows it, and as plain Optuna reads it."""

import csv
import io

import pytest

from tests.support.several_objectives import OWN, STUDY
from tests.support.workplace import Workplace, load, workplace_in


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Workplace:
    """A complete study of a custom objective."""
    place = workplace_in(tmp_path_factory.mktemp("own"))
    (place.path / "own.py").write_text(OWN)
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    return place


def test_best_is_the_front_that_plain_optuna_computes(own):
    study = load(own)
    assert [each.name for each in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "epoch_seconds"]
    shown = own.here("best", "small", "--json").json()
    assert {each["trial"] for each in shown} == {each.number for each in study.best_trials}
    assert all(each["on_front"] for each in shown)
    assert [each["knee"] for each in shown].count(True) == 1
    for each in shown:
        assert [*each["values"].values()] == study.trials[each["trial"]].values
    assert len(own.here("best", "small", "-n", "2", "--json").json()) == 2


def test_trials_have_a_column_for_each_objective(own):
    header, *rows = own.here("trials", "small").out.splitlines()
    assert header.split()[:4] == ["trial", "state", "accuracy", "epoch_seconds"]
    assert len(rows) == 5
    listed = list(csv.DictReader(io.StringIO(own.here("trials", "small", "--csv").out)))
    for row, trial in zip(listed, load(own).trials, strict=True):
        assert [float(row["values_accuracy"]), float(row["values_epoch_seconds"])] == trial.values
    one = [line.split() for line in own.here("trials", "small", "--trial", "0").out.splitlines()]
    assert ["epoch_seconds", f"{float(listed[0]['values_epoch_seconds']):#.4g}"] in one


def test_status_and_studies_show_the_knee(own):
    (knee,) = (each for each in own.here("best", "small", "--json").json() if each["knee"])
    assert own.here("status", "small", "--json").json()["best"] == knee
    named = f"trial {knee['trial']}, accuracy {knee['values']['accuracy']:.4f}, epoch_seconds "
    assert named in own.here("status", "small").out
    assert f"accuracy {knee['values']['accuracy']:.4f}, epoch_seconds " in own.here("studies").out
