"""The store's attributes are input: what hpo could not have written reads as absent."""

import optuna
import pytest
from optuna.trial import TrialState

from hpo.errors import DefinitionError, StoreError
from hpo.store import attributes, budgets, control, folders, plan, status, studies
from hpo.store.studies import open_storage
from hpo.study.definition import BudgetLimits
from hpo.training.metric import METRICS
from tests.support import lease_worker
from tests.support.lease_worker import NAME

FOLDER = "study-0123abcd"
RIGHT = {
    "point": 1,
    "attempts": 2,
    "epochs": 3,
    "best_epoch": 2,
    "images": 100,
    "baseline": 0.1,
    "metrics": {"f1": [None, 0.25]},
    "wall_time_seconds": 1.5,
    "epoch_seconds": [0.5, 1],
    "hardware": {"device": "cpu", "host": "h", "torch": "2", "threads": 1},
    "failure": {"class": "ValueError", "message": "no\nluck"},
    "pruned": "by asha",
    "weights": f"{FOLDER}/0004/weights-0002-001.pt",
    "checkpoint": f"{FOLDER}/0004/checkpoint-0002.pt",
    "free": [1, {"a": None}],
}
WRONG = [
    ("metrics", {"f1": 0.5}),
    ("metrics", {"f1": ["x"]}),
    ("metrics", {"f1": [float("nan")]}),
    ("wall_time_seconds", "q"),
    ("wall_time_seconds", -1),
    ("wall_time_seconds", True),
    ("wall_time_seconds", float("nan")),
    ("wall_time_seconds", 1e300),
    ("epoch_seconds", 5),
    ("epoch_seconds", [1, "x"]),
    ("epochs", 1.5),
    ("epochs", 10**30),
    ("best_epoch", 0),
    ("attempts", None),
    ("images", -3),
    ("baseline", -1),
    ("hardware", []),
    ("hardware", {"device": 3}),
    ("hardware", {"device": "cpu", "host": {}}),
    ("failure", "text"),
    ("failure", {"class": "A", "message": 3}),
    ("pruned", "\ud800"),
    ("weights", "../../etc/hostname"),
    ("weights", "/etc/hostname"),
    ("weights", f"{FOLDER}/0003/weights-0002-001.pt"),
    ("weights", {}),
    ("checkpoint", f"{FOLDER}/0004/../../x"),
]


def trial(user, system=None):
    made = optuna.trial.create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=user)
    made.number, made.system_attrs = 4, system or {}
    return made


def test_what_hpo_writes_is_read_as_it_is():
    system = {"hpo:run": {"seed": 1, "epochs": 3}, "hpo:repeats": 0, "hpo:paused": None, "grid_id": 0}
    right = trial(RIGHT, system)
    assert attributes.check_trial(right, FOLDER) is right


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_what_hpo_does_not_write_reads_as_absent(key, value):
    found = attributes.check_trial(trial({**RIGHT, key: value}), FOLDER)
    assert found.user_attrs == {name: each for name, each in RIGHT.items() if name != key}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hpo:repeats", 4),
        ("hpo:repeats", [0]),
        ("hpo:run", ["seed"]),
        ("hpo:run", {"seed": "x"}),
        ("hpo:run", {"lr": {}}),
        ("fixed_params", 3),
        ("grid_id", "0"),
        ("hpo:paused", "x"),
        ("hpo:promoted", {}),
        ("hpo:decisions", {}),
        ("hpo:decisions", [{}]),
        ("hpo:decisions", [{"rung": 0, "kind": "paused", "reason": "", "expected": None}]),
        ("hpo:decisions", [{"rung": 1, "kind": "paused", "reason": 3, "expected": None}]),
        ("hpo:decisions", [{"rung": 1, "kind": "paused", "reason": "", "expected": [0.1, 0.2]}]),
        ("hpo:decisions", [{"rung": 1, "kind": "paused", "reason": "", "expected": [0.1, 0.2, "x"]}]),
    ],
)
def test_a_system_attribute_of_another_form_reads_as_absent(key, value):
    assert attributes.check_trial(trial({}, {key: value, "other": 1}), None).system_attrs == {"other": 1}


@pytest.mark.parametrize("stored", ["q", -5, "1e5", True, [3], None, 1e300, float("nan")])
def test_a_time_that_is_no_number_counts_as_none_in_a_budget(url, stored):
    storage = open_storage(url, create=True)
    studies.create_study(storage, lease_worker.definition(3), "")
    study_id = studies.find_study_id(storage, NAME)
    trials = storage.get_all_trials(study_id)
    storage.set_trial_user_attr(trials[0]._trial_id, "wall_time_seconds", 1800.5)
    storage.set_trial_user_attr(trials[1]._trial_id, "wall_time_seconds", stored)
    (used,) = budgets.read_budgets(
        storage, study_id, BudgetLimits(values={"device_hours": 1.0}, metric=METRICS["accuracy"])
    )
    assert used.used == pytest.approx(1800.5 / 3600)


@pytest.mark.parametrize("order", ["gone", 5, ["paused"], {}])
def test_an_order_that_hpo_does_not_give_is_none(url, order):
    storage = open_storage(url, create=True)
    studies.create_study(storage, lease_worker.definition(1), "")
    study_id = studies.find_study_id(storage, NAME)
    storage.set_study_system_attr(study_id, plan.ORDER, order)
    assert control.read_order(storage, study_id) is None
    assert status.read_status(storage, NAME).state == "idle"


def test_a_folder_is_deleted_only_when_no_study_names_it(url, tmp_path):
    storage = open_storage(url, create=True)
    studies.create_study(storage, lease_worker.definition(1), "")
    optuna.copy_study(from_study_name=NAME, from_storage=storage, to_storage=storage, to_study_name="copy")
    folder = studies.artifacts_folder(storage, "copy")
    assert folders.studies_with_folder(storage, folder) == sorted([NAME, "copy"])
    assert folders.own_folder(storage, NAME) == folder
    with pytest.raises(DefinitionError, match=f"names the same folder of artifacts as study '{NAME}'"):
        folders.own_folder(storage, "copy")


@pytest.mark.parametrize("folder", ["", "..", "../victim", "a/b", 3, None, ["x"], f"{FOLDER}/0001"])
def test_a_folder_that_hpo_did_not_name_is_refused(url, folder):
    storage = open_storage(url, create=True)
    studies.create_study(storage, lease_worker.definition(1), "")
    study_id = studies.find_study_id(storage, NAME)
    storage.set_study_user_attr(study_id, "folder", folder)
    assert folders.stored_folder(storage, study_id) is None
    with pytest.raises(StoreError, match=r"its attribute 'folder' is .*; want the name of a folder"):
        studies.artifacts_folder(storage, NAME)


def test_an_attribute_that_is_not_json_is_one_line(url, sql):
    storage = open_storage(url, create=True)
    studies.create_study(storage, lease_worker.definition(1), "")
    study_id = studies.find_study_id(storage, NAME)
    storage.set_trial_user_attr(storage.get_all_trials(study_id)[0]._trial_id, "epochs", 3)
    for text in ("{", "[" * 100_000):
        sql("UPDATE trial_user_attributes SET value_json = :json WHERE key = 'epochs'", json=text)
        with pytest.raises(StoreError, match="is not JSON"):
            status.read_trials(storage, NAME)
    sql("UPDATE study_system_attributes SET value_json = '{' WHERE key = :key", key=plan.DEFINITION)
    with pytest.raises(DefinitionError, match="the stored definition is not JSON"):
        studies.read_definition(storage, NAME)
    assert studies.study_names(storage) == [NAME]
