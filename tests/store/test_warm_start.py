"""A study that starts from others: its sampler learns from their trials, and nobody else sees them."""

import json
import math
import statistics

import optuna
import pytest
from optuna.trial import TrialState

from hpo.errors import DefinitionError, StoreError
from hpo.store import process, queue, studies, warm_start
from hpo.store.history import History
from hpo.store.storage import Storage
from hpo.study import definition as definitions
from hpo.study import extension, space
from hpo.study.definition import Definition, Point, Pruner, Sampler, Search
from hpo.training.config import Config
from hpo.workers.setting import choose_setting
from tests.support.workplace import load

BEST = 0.03  # the learning rate that the old study found best
LR = space.Parameter(name="lr", kind="float", values=space.Range(low=1e-4, high=1.0, log=True))
OPTIMIZER = space.Parameter(name="optimizer", kind="choice", values=space.Choices(choices=("sgd", "adam")))
MOMENTUM = space.Parameter(
    name="momentum",
    kind="float",
    values=space.Range(low=0.0, high=0.95, when={"optimizer": ("sgd",)}),
)


def study_of(
    name: str, *, sampler: str = "random", seed: int = 0, trials: int = 1, **changes
) -> Definition:
    fixed = {"space": (LR, OPTIMIZER, MOMENTUM), "train": {}, "start_from": (), "points": ()} | changes
    return Definition(
        name=name,
        train=Config(dataset="digits", epochs=3).model_dump() | fixed["train"],
        space=fixed["space"],
        search=Search(
            trials=trials,
            sampler=Sampler(name=sampler, seed=seed),
            pruner=Pruner(name="none"),
            start_from=fixed["start_from"],
        ),
        points=tuple(Point(setting=point) for point in fixed["points"]),
    )


def history_of(opened: Storage, made: Definition) -> History:
    history = History(opened, studies.find_study_id(opened, made.name), made.name)
    history.warm_start_trials = warm_start.usable_trials(opened, made)
    return history


def proposed(opened: Storage, made: Definition) -> dict:
    """Give the setting of a study's first trial, which it is made for."""
    studies.create_study(opened, made, "")
    history = history_of(opened, made)
    claim = queue.claim_trial(
        opened, history.study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
    )
    assert claim is not None
    trial, *_ = choose_setting(claim, history, made)
    return trial.params


def value(params: dict) -> float:
    worse = 0.3 * (params["optimizer"] == "adam")
    return math.exp(-(math.log10(params["lr"] / BEST) ** 2)) - worse


def run(opened: Storage, made: Definition, pruned: tuple[int, ...] = ()) -> None:
    """Run a study to its end; the trials of the numbers in ``pruned`` are, after epoch 1."""
    studies.create_study(opened, made, "")
    history = history_of(opened, made)
    while claim := queue.claim_trial(
        opened, history.study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
    ):
        trial, *_ = choose_setting(claim, history, made)
        found = value({"optimizer": "sgd"} | trial.params)
        claim.commit(report=(1, found), user_attributes={"epochs": 1, "best_epoch": 1})
        state = TrialState.PRUNED if claim.number in pruned else TrialState.COMPLETE
        claim.end(state, value=found)


@pytest.fixture
def opened(url):
    found = studies.open_storage(url, create=True)
    run(found, study_of("old", trials=30), pruned=(3, 4))
    return found


def distance(params: dict) -> float:
    return abs(math.log10(params["lr"] / BEST))


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_first_trial_already_lies_near_the_old_optimum(opened, sampler):
    far, near = [], []
    for seed in range(6):
        fresh = study_of(f"fresh {seed}", sampler=sampler, seed=seed)
        far.append(proposed(opened, fresh))
        near.append(
            proposed(opened, study_of(f"warm {seed}", sampler=sampler, seed=seed, start_from=("old",)))
        )
    assert statistics.median(map(distance, near)) < 0.5 < statistics.median(map(distance, far))
    assert max(map(distance, near)) < max(map(distance, far))
    assert sum(each["optimizer"] == "sgd" for each in near) >= 5


def test_a_trial_that_diverged_at_once_is_learned_from_too(url):
    found = studies.open_storage(url, create=True)
    studies.create_study(found, study_of("old", trials=2), "")
    old = studies.read_definition(found, "old")
    history = history_of(found, old)
    for state, accuracy in ((TrialState.PRUNED, None), (TrialState.COMPLETE, 0.5)):
        claim = queue.claim_trial(
            found, history.study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
        )
        choose_setting(claim, history, old)
        claim.end(state, value=accuracy)
    (shown,) = warm_start.find_warm_starts(found, study_of("new", start_from=("old",)))
    assert [(trial.state, trial.value) for trial in shown.trials] == [
        (TrialState.PRUNED, None),
        (TrialState.COMPLETE, 0.5),
    ]
    assert not shown.left_out


def test_trials_are_shown_to_samplers_alone_and_stand_in_no_table(opened):
    made = study_of("new", sampler="tpe", trials=2, start_from=("old",))
    studies.create_study(opened, made, "")
    history = history_of(opened, made)
    claim = queue.claim_trial(
        opened, history.study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
    )
    _, _, study = choose_setting(claim, history, made)
    shown = study.get_trials(deepcopy=False)
    assert [trial.number for trial in shown] == [-1] * 30 + [0]
    assert [trial.state for trial in shown[:30]].count(TrialState.PRUNED) == 2
    with opened.transaction() as session, history.read_within(session):
        assert [trial.number for trial in study.get_trials(deepcopy=False)] == [0]
    assert len(Storage.get_all_trials(opened, history.study_id)) == 2


def test_shown_trials_have_the_distributions_of_the_new_study_and_are_part_of_it(opened):
    wide = space.Parameter(name="lr", kind="float", values=space.Range(low=1e-5, high=10.0, log=True))
    more = space.Parameter(
        name="optimizer", kind="choice", values=space.Choices(choices=("rmsprop", "adam", "sgd"))
    )
    wider = study_of("wider", start_from=("old",), space=(wide, more, MOMENTUM))
    (found,) = warm_start.find_warm_starts(opened, wider)
    assert (len(found.trials), dict(found.left_out)) == (30, {})
    for trial in found.trials:
        assert trial.distributions["lr"] == wide.distribution()
        assert trial.distributions["optimizer"] == more.distribution()
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")

    narrow = space.Parameter(name="lr", kind="float", values=space.Range(low=1e-4, high=0.1, log=True))
    fixed = study_of("fixed", start_from=("old",), space=(narrow,), train={"optimizer": "adam"})
    (found,) = warm_start.find_warm_starts(opened, fixed)
    old = optuna.load_study(study_name="old", storage=opened).trials
    fits = [t.params["lr"] for t in old if t.params["optimizer"] == "adam" and t.params["lr"] <= 0.1]
    assert [trial.params for trial in found.trials] == [{"lr": lr} for lr in fits]
    assert "(optimizer 'sgd', where this study has 'adam')" in str(found)
    assert "(lr outside of 0.0001 to 0.1, log)" in str(found)
    assert f"the sampler starts from {len(fits)} trials of study 'old'; left out: " in str(found)


def test_what_an_old_study_had_fixed_counts_as_the_setting_of_its_trials(opened):
    run(opened, study_of("sgd alone", trials=3, space=(LR,), train={"optimizer": "sgd", "momentum": 0.5}))
    (found,) = warm_start.find_warm_starts(opened, study_of("new", start_from=("sgd alone",)))
    assert [trial.params["momentum"] for trial in found.trials] == [0.5] * 3
    assert {trial.params["optimizer"] for trial in found.trials} == {"sgd"}


def test_a_setting_that_the_new_study_lists_is_not_shown_too(opened):
    first = optuna.load_study(study_name="old", storage=opened).trials[0].params
    (found,) = warm_start.find_warm_starts(
        opened, study_of("new", start_from=("old", "old"), points=(first,))
    )
    assert dict(found.left_out) == {"listed here too": 1}
    assert len(found.trials) == 29


def test_what_does_not_compare_is_refused_in_one_line(opened):
    def refused(**changes) -> str:
        with pytest.raises((DefinitionError, StoreError)) as caught:
            warm_start.find_warm_starts(opened, study_of("new", **{"start_from": ("old",)} | changes))
        return str(caught.value)

    said = refused(train={"limit": 100, "precision": "bf16"})
    assert "study 'new': search.start_from: study 'old' is not comparable" in said
    assert "limit is nothing there and 100 here" in said
    assert "precision is 'auto' there and 'bf16' here" in said
    said = refused(train={"image_size": 32})
    assert "this study could try the setting of none of its trials" in said
    assert "30 (image_size 224, where this study has 32)" in said
    said = refused(start_from=("odl",))
    assert "study 'new': search.start_from: no study 'odl' in the store; did you mean 'old'?" in said
    studies.create_study(opened, study_of("empty"), "")
    assert "it has no trial that ended" in refused(start_from=("empty",))
    queue.claim_trial(
        opened,
        studies.find_study_id(opened, "empty"),
        process.current_owner("cpu"),
        lease_seconds=60,
        max_attempts=1,
    )
    assert "is running; wait until it is complete" in refused(start_from=("empty",))


def test_a_precision_that_auto_came_to_is_the_same_as_one_that_is_named(opened):
    studies.set_attribute_once(opened, studies.find_study_id(opened, "old"), "hpo:precision", "tf32")
    (found,) = warm_start.find_warm_starts(
        opened, study_of("new", start_from=("old",), train={"precision": "tf32"})
    )
    assert len(found.trials) == 30


def test_a_study_deleted_since_is_done_without(opened, caplog):
    made = study_of("new", start_from=("old",))
    studies.create_study(opened, made, "")
    studies.delete_study(opened, "old")
    assert warm_start.usable_trials(opened, made) == []
    assert "no study 'old'" in caplog.text


def test_what_a_study_starts_from_stays_as_it_is():
    stored = study_of("new", start_from=("old",))
    assert definitions.load_definition(definitions.dump_definition(stored)) == stored
    with pytest.raises(DefinitionError, match=r"search.start_from: \['old'\] -> \[\]"):
        extension.extend_definition(stored, study_of("new"))


OWN = """
def peak(config, state):
    yield 1 - abs(config.x - 0.7), None
"""

STUDY = """
[train]
objective = "own:peak"
epochs = 1

[space]
x = { low = 0.0, high = 1.0 }

[search]
trials = 12
pruner = "none"
"""


def test_a_study_file_names_what_to_start_from(place):
    place.here("create", place.study(STUDY, "old"))
    place.here("worker", "old")
    warm = STUDY.replace("trials = 12", 'trials = 3\nstart_from = ["old"]')
    done = place.hpo("run", place.study(warm, "new"), "--devices", "cpu:1")
    assert "hpo: the sampler starts from 12 trials of study 'old'\n" in done.err
    assert all(abs(trial.params["x"] - 0.7) < 0.25 for trial in load(place, "new").trials)
    assert place.here("status", "new", "--json").json()["budget"] == 3
    again = place.here("run", "new.toml")
    assert "nothing to do" in again.err

    for text, said in (
        (warm.replace('["old"]', '["odl"]'), "no study 'odl' in the store; did you mean 'old'?"),
        (warm.replace('["old"]', '"old"'), "search.start_from: want a list of strings, found 'old'"),
        (warm.replace("[search]", '[search]\nsampler = "qmc"'), "sampler 'qmc' does not learn from trials"),
        (
            warm.replace("high = 1.0", "high = 0.0001"),
            "this study could try the setting of none of its trials",
        ),
        (warm.replace("epochs = 1", "epochs = 2"), "12 (epochs 1, where this study has 2)"),
        (warm.replace("[space]", "width = 3\n[space]"), "12 (width nothing, where this study has 3)"),
    ):
        refused = place.here("create", place.study(text, "other"), code=1)
        assert said in refused.err, refused.err
        assert refused.err.count("\n") == 1
    assert "start_from" in json.dumps(place.here("schema").json()["properties"]["search"])
