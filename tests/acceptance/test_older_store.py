"""A store that version 0.1.0 wrote, before hpo was divided into packages, opens, reports and resumes.

``tests/data/store-0.1.0/store.tar.xz`` holds the folder as that version left it: study ``climb`` (a custom
objective, replicates, ASHA, a failed trial) is complete; ``slow`` (a custom objective) was interrupted
after epoch 1 of its second trial, ``small`` (the built-in training) within epoch 15 of its first.
``expected/`` holds what that version's commands wrote for it.
"""

import csv
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.workplace import ROOT, Workplace, load

DATA = ROOT / "tests/data/store-0.1.0"
TABLES_OF_SETTINGS = ("history.csv", "parallel.csv", "slice-1-lr.csv", "pareto.csv")
PARETO_SECONDS = {"0": "0.0014", "2": "0.0024000000000000002"}
STUDIES = ("climb", "slow", "small")


@pytest.fixture
def older(workplace: Workplace) -> Workplace:
    """Return a workplace that holds the older store and its study files."""
    with tarfile.open(DATA / "store.tar.xz") as archive:
        archive.extractall(workplace.path, filter="data")
    return workplace


def expected(name: str) -> str:
    return (DATA / "expected" / name).read_text()


def without_new_fields(printed: Any, expected: Any) -> Any:
    """Return JSON without the fields that the older version does not print."""
    if isinstance(expected, dict) and isinstance(printed, dict):
        return {key: without_new_fields(printed[key], expected[key]) for key in expected if key in printed}
    if isinstance(expected, list) and isinstance(printed, list) and len(printed) == len(expected):
        return [without_new_fields(*pair) for pair in zip(printed, expected, strict=True)]
    return printed


def states(workplace: Workplace, study: str) -> list[str]:
    return [trial.state.name for trial in load(workplace, study).trials]


@pytest.mark.parametrize(
    "path",
    # Two trials do not tell importance, which the older version did not say.
    sorted(set((DATA / "expected").glob("*.json")) - {DATA / "expected/importance-climb.json"}),
    ids=lambda path: path.stem,
)
def test_a_verb_prints_the_same_for_an_older_store_as_the_older_version(older, path):
    verb, _, study = path.stem.partition("-")
    printed, expected = older.here(verb, study, "--json").json(), json.loads(path.read_text())
    assert without_new_fields(printed, expected) == expected


def test_the_report_of_an_older_study_has_the_tables_of_the_older_version(older):
    older.here("report", "climb", "--output", "page.html", "--csv", "csv")
    names = {path.name for path in (DATA / "expected/csv").iterdir()} - {"importance.csv"}  # of two trials
    assert {path.name for path in (older.path / "csv").iterdir()} == names
    for name in names:
        before = list(csv.DictReader(expected(f"csv/{name}").splitlines()))
        with (older.path / "csv" / name).open(newline="") as lines:
            now = list(csv.DictReader(lines))
        if name in TABLES_OF_SETTINGS:  # trials 7 and 8 repeat 0 and 2, with the same values
            before = [row for row in before if row["trial"] not in ("7", "8")]
        if name == "pareto.csv":  # the time of a setting is the mean over its seeds
            before = [row | {"wall_time_seconds": PARETO_SECONDS[row["trial"]]} for row in before]
            before = [row | {"on the front": "True"} for row in before]
        assert without_new_fields(now, before) == before


@pytest.mark.parametrize("study", STUDIES)
def test_creating_an_older_study_again_changes_nothing(older, study):
    before = [
        (t.number, t.state, t.params, t.user_attrs, t.system_attrs) for t in load(older, study).trials
    ]
    older.here("create", f"{study}.toml")
    after = [(t.number, t.state, t.params, t.user_attrs, t.system_attrs) for t in load(older, study).trials]
    assert after == before


def test_a_custom_objective_resumes_from_an_older_checkpoint_with_exact_values(older):
    done = older.here("worker", "slow")
    assert "trial 1 epoch 1/8" not in done.err
    assert "trial 1 epoch 2/8" in done.err
    assert states(older, "slow") == ["COMPLETE", "COMPLETE"]
    trial = load(older, "slow").trials[1]
    assert trial.intermediate_values == expected_reports(trial.params["lr"], epochs=8)
    assert trial.user_attrs["attempts"] == 2


def expected_reports(lr: float, epochs: int) -> dict[int, float]:
    """Return what the objective of own.py reports after each epoch."""
    reported, total = {}, 0.0
    for epoch in range(1, epochs + 1):
        total += lr / epoch
        reported[epoch] = total
    return reported


def test_the_built_in_training_resumes_from_an_older_checkpoint_within_an_epoch(older):
    (before, _) = load(older, "small").trials
    assert sorted(before.intermediate_values) == list(range(1, 15))
    older.here("worker", "small")
    assert states(older, "small") == ["COMPLETE", "COMPLETE"]
    (after, _) = load(older, "small").trials
    assert sorted(after.intermediate_values) == list(range(1, 25))
    assert after.intermediate_values.items() >= before.intermediate_values.items()
    assert after.value == max(after.intermediate_values.values())
    weights = older.path / "storage/artifacts" / after.user_attrs["weights"]
    assert Path(weights).stat().st_size > 1_000_000
