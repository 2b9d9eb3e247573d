"""Rows that another tool has changed: a worker and ``hpo finish`` take them for what they can be."""

import pytest

from hpo.artifacts import names
from hpo.artifacts.folders import Artifacts
from hpo.errors import DefinitionError
from hpo.store import attributes, folders, plan, rows, status, studies
from hpo.store.studies import open_storage
from tests.support.fast_process import fast_process
from tests.support.hostile_store import run_worker

OWN = """
def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        state["epoch"] += 1
        yield config.speed / 10 + state["epoch"] / 100, state
"""
ASHA = """
[train]
objective = "own:climb"
epochs = 4
[space]
speed = { low = 1.0, high = 2.0 }
[search]
trials = 4
pruner = { name = "asha", min_epochs = 2, reduction_factor = 2 }
"""
GRID = """
[train]
objective = "own:climb"
epochs = 2
[search]
sampler = "grid"
[[points]]
speed = 1
[[points]]
speed = 2
"""


@pytest.fixture
def run(place, url, monkeypatch):
    """Return a function that runs a study in this process, until its worker would wait."""
    monkeypatch.chdir(place.path)
    monkeypatch.syspath_prepend(place.path)
    artifacts = Artifacts(str(place.path / "storage/artifacts"))
    return lambda name: run_worker(open_storage(url, create=False), name, artifacts)


@pytest.fixture
def create(place, url):
    """Return a function that stores a study and returns its storage."""

    def stored(text, name="small"):
        place.here("create", place.study(text, name), HPO_STORE=url)
        return open_storage(url, create=False)

    return stored


def set_attribute(storage, number, key, value, *, name="small"):
    trial = status.read_trials(storage, name)[number]
    with storage.transaction() as session:
        rows.write_attributes(session, trial._trial_id, {key: value}, system=True)


@pytest.mark.parametrize("text", [ASHA, ASHA.replace('"asha"', '"freeze_thaw"'), GRID])
def test_a_pause_that_no_promotion_can_end_holds_no_trial_back(create, run, text):
    """One at an epoch that is no rung, one at a rung that the trial has not reached, and no epoch."""
    storage = create(text)
    trials = len(status.read_trials(storage, "small"))
    for number, value in zip(range(trials), (3, 2, "x", {}), strict=False):
        set_attribute(storage, number, "hpo:paused", value)
    run("small")
    ended = status.read_trials(storage, "small")
    assert all(trial.state.is_finished() for trial in ended), [each.state.name for each in ended]
    assert status.read_status(storage, "small").state == "complete"


def test_a_trial_of_a_point_that_the_study_lacks_is_pruned(create, run):
    storage = create(GRID)
    set_attribute(storage, 1, "grid_id", 7)
    run("small")
    complete, lost = status.read_trials(storage, "small")
    assert (complete.state.name, lost.state.name) == ("COMPLETE", "PRUNED")
    assert lost.user_attrs["pruned"] == "not one of the study's points"


@pytest.mark.parametrize(
    ("fixed", "reason"),
    [
        ({"speed": "../../x"}, "its queued setting has speed = '../../x', which the study cannot have"),
        ({"speed": None}, "its queued setting has speed = None, which the study cannot have"),
        ({"speed": 1.5, "odd": 1}, "its queued setting has 'odd', which the study does not have"),
    ],
)
def test_a_queued_setting_that_the_study_cannot_train_is_pruned(create, run, fixed, reason):
    storage = create(ASHA)
    set_attribute(storage, 2, "fixed_params", fixed)
    run("small")
    others = status.read_trials(storage, "small")
    lost = others.pop(2)
    assert (lost.state.name, lost.user_attrs["pruned"], lost.params) == ("PRUNED", reason, {})
    assert all(trial.params for trial in others)


def test_finish_reports_the_runs_of_its_points_alone(create, run, place, url, sql):
    storage = create(GRID)
    run("small")
    words = ("finish", "small", "--top", "2", "--seeds", "2", "--json", "--devices", "cpu:1")
    with fast_process():
        place.here(*words, HPO_STORE=url)
    set_attribute(storage, 0, "grid_id", 99, name="small-finish")
    sql("DELETE FROM trial_system_attributes WHERE key = 'grid_id' AND value_json = '3'")
    found = place.here(*words, HPO_STORE=url).json()
    assert sorted(len(each["accuracies"]) for each in found["settings"]) == [1, 1]


def test_a_precision_that_no_worker_chooses_is_chosen_anew(create):
    storage = create(GRID)
    study_id = studies.find_study_id(storage, "small")
    for stored in ("x", "auto", 5, {}, None):
        storage.set_study_system_attr(study_id, plan.PRECISION, stored)
        for own in ("fp32", "tf32"):
            chosen = studies.set_attribute_once(storage, study_id, plan.PRECISION, own, ("fp32", "tf32"))
            assert chosen == "fp32", stored


@pytest.mark.parametrize(
    "facts",
    [{"threads": 0}, {"threads": 10**6}, {"threads": "x"}, {"precision": "x"}, {"memory_format": "x"}],
)
def test_hardware_that_no_worker_has_reads_as_absent(facts):
    right = {"device": "cpu", "threads": 2, "precision": "fp32", "memory_format": "contiguous"}
    assert attributes.check_user_attributes({"hardware": right}) == {"hardware": right}
    assert attributes.check_user_attributes({"hardware": right | facts}) == {}


UNREADABLE = [
    (7.0, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}'),
    (1.0, '{"name": "CategoricalDistribution", "attributes": 2}'),
    (1.0, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, {"a": 1}]}}'),
    (-1.0, '{"name": "FloatDistribution", "attributes": {"low": 0.1, "high": 1.0, "log": true}}'),
    (1.0, '{"name": "FloatDistribution", "attributes": {"low": 0.1, "high": 1.0, "log": [[]]}}'),
    (1.0, '{"name": "FloatDistribution", "attributes": {"low": 0.1, "high": 1.0, "step": true}}'),
    (-1e308, '{"name": "IntDistribution", "attributes": {"low": 1, "high": 3, "step": 1, "log": false}}'),
    (1.0, "{"),
    (1.0, '"x"'),
    (1.0, "[" * 5000),
]


def test_a_parameter_that_cannot_be_read_reads_as_absent(create, run, sql):
    """By hpo's reader and by Optuna's, which the dashboard uses."""
    storage = create(GRID)
    run("small")
    study_id = studies.find_study_id(storage, "small")
    change = "UPDATE trial_params SET param_value = :value, distribution_json = :kind WHERE trial_id = 1"
    for value, distribution in UNREADABLE:
        sql(change, value=value, kind=distribution)
        for trials in (status.read_trials(storage, "small"), storage.get_all_trials(study_id)):
            assert [trial.params for trial in trials] == [{}, {"speed": 2}], distribution[:80]


def test_a_number_that_is_missing_reads_as_absent(create, run, sql):
    storage = create(GRID)
    run("small")
    sql("UPDATE trial_values SET value = NULL WHERE trial_id = 1")
    sql("UPDATE trial_intermediate_values SET intermediate_value = NULL WHERE trial_id = 1 AND step = 1")
    study_id = studies.find_study_id(storage, "small")
    for trials in (status.read_trials(storage, "small"), storage.get_all_trials(study_id)):
        assert (trials[0].value, [*trials[0].intermediate_values]) == (None, [2])


def test_a_complete_trial_without_a_value_stops_no_sampler(create, run, sql):
    storage = create(ASHA)
    sql("UPDATE trials SET state = 'COMPLETE' WHERE number = 0")
    run("small")
    assert {trial.state.name for trial in status.read_trials(storage, "small")} <= {"COMPLETE", "PRUNED"}


def test_the_folder_of_a_study_in_another_store_is_neither_written_nor_deleted(create, place, url):
    storage = create(GRID)
    victim = place.path / "storage/artifacts/victim-0123abcd/0000/checkpoint"
    victim.parent.mkdir(parents=True)
    victim.write_text("of another store")
    storage.set_study_user_attr(studies.find_study_id(storage, "small"), "folder", "victim-0123abcd")
    with pytest.raises(DefinitionError, match="names the folder of another study"):
        folders.own_folder(storage, "small")
    out = place.here("delete", "small", "--yes", HPO_STORE=url).out
    assert "were kept, since it was named for another study" in out
    assert victim.read_text() == "of another store"
    assert names.is_folder_of("small-0123abcd", "small")
