"""A study that starts from others: its sampler learns from their trials, and nothing else sees them."""

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
from hpo.study import extension, space
from hpo.study.definition import Definition, Point, dump_definition, load_definition
from hpo.study.search_options import Pruner, Sampler, Search
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


def history_of(storage: Storage, definition: Definition) -> History:
    history = History(
        storage, studies.find_study_id(storage, definition.name), definition.name, definition.metric
    )
    warm_start.teach(history, definition)
    return history


def first_setting(storage: Storage, definition: Definition) -> dict:
    """Create a study and return the setting of its first trial."""
    studies.create_study(storage, definition, "")
    history = history_of(storage, definition)
    claim = queue.claim_trial(
        storage, history.study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
    )
    assert claim is not None
    trial, *_ = choose_setting(claim, history, definition)
    return trial.params


def accuracy_of(params: dict) -> float:
    penalty = 0.3 * (params["optimizer"] == "adam")
    return math.exp(-(math.log10(params["lr"] / BEST) ** 2)) - penalty


def run(storage: Storage, definition: Definition, pruned: tuple[int, ...] = ()) -> None:
    """Run all trials of a study; those whose numbers are in ``pruned`` are pruned after epoch 1."""
    studies.create_study(storage, definition, "")
    history = history_of(storage, definition)
    while claim := queue.claim_trial(
        storage, history.study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
    ):
        trial, *_ = choose_setting(claim, history, definition)
        accuracy = accuracy_of({"optimizer": "sgd"} | trial.params)
        claim.commit(report=(1, accuracy), user_attributes={"epochs": 1, "best_epoch": 1})
        state = TrialState.PRUNED if claim.number in pruned else TrialState.COMPLETE
        claim.end(state, value=accuracy)


@pytest.fixture
def storage(url):
    storage = studies.open_storage(url, create=True)
    run(storage, study_of("old", trials=30), pruned=(3, 4))
    return storage


def distance(params: dict) -> float:
    return abs(math.log10(params["lr"] / BEST))


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_first_trial_is_near_the_old_optimum(storage, sampler):
    far, near = [], []
    for seed in range(6):
        fresh = study_of(f"fresh {seed}", sampler=sampler, seed=seed)
        far.append(first_setting(storage, fresh))
        near.append(
            first_setting(
                storage, study_of(f"warm {seed}", sampler=sampler, seed=seed, start_from=("old",))
            )
        )
    assert statistics.median(map(distance, near)) < 0.5 < statistics.median(map(distance, far))
    assert max(map(distance, near)) < max(map(distance, far))
    assert sum(each["optimizer"] == "sgd" for each in near) >= 5


def test_a_trial_that_diverged_at_once_is_used(url):
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, study_of("old", trials=2), "")
    old = studies.read_definition(storage, "old")
    history = history_of(storage, old)
    for state, accuracy in ((TrialState.PRUNED, None), (TrialState.COMPLETE, 0.5)):
        claim = queue.claim_trial(
            storage, history.study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
        )
        choose_setting(claim, history, old)
        claim.end(state, value=accuracy)
    (found,) = warm_start.find_warm_starts(storage, study_of("new", start_from=("old",)))
    assert [(trial.state, trial.value) for trial in found.trials] == [
        (TrialState.PRUNED, None),
        (TrialState.COMPLETE, 0.5),
    ]
    assert not found.left_out


def test_warm_start_trials_are_seen_by_samplers_only_and_are_not_stored(storage):
    definition = study_of("new", sampler="tpe", trials=2, start_from=("old",))
    studies.create_study(storage, definition, "")
    history = history_of(storage, definition)
    claim = queue.claim_trial(
        storage, history.study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
    )
    _, _, study = choose_setting(claim, history, definition)
    visible = study.get_trials(deepcopy=False)
    assert [trial.number for trial in visible] == [-1] * 30 + [0]
    assert [trial.state for trial in visible[:30]].count(TrialState.PRUNED) == 2
    with storage.transaction() as session, history.read_within(session):
        assert [trial.number for trial in study.get_trials(deepcopy=False)] == [0]
    assert len(Storage.get_all_trials(storage, history.study_id)) == 2


def test_warm_start_trials_have_the_new_studys_distributions_and_fit_its_space(storage):
    wide = space.Parameter(name="lr", kind="float", values=space.Range(low=1e-5, high=10.0, log=True))
    more = space.Parameter(
        name="optimizer", kind="choice", values=space.Choices(choices=("rmsprop", "adam", "sgd"))
    )
    wider = study_of("wider", start_from=("old",), space=(wide, more, MOMENTUM))
    (found,) = warm_start.find_warm_starts(storage, wider)
    assert (len(found.trials), dict(found.left_out)) == (30, {})
    for trial in found.trials:
        assert trial.distributions["lr"] == wide.distribution()
        assert trial.distributions["optimizer"] == more.distribution()
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")

    narrow = space.Parameter(name="lr", kind="float", values=space.Range(low=1e-4, high=0.1, log=True))
    fixed = study_of("fixed", start_from=("old",), space=(narrow,), train={"optimizer": "adam"})
    (found,) = warm_start.find_warm_starts(storage, fixed)
    old = optuna.load_study(study_name="old", storage=storage).trials
    fits = [t.params["lr"] for t in old if t.params["optimizer"] == "adam" and t.params["lr"] <= 0.1]
    assert [trial.params for trial in found.trials] == [{"lr": lr} for lr in fits]
    assert "(optimizer 'sgd', where this study has 'adam')" in str(found)
    assert "(lr outside of 0.0001 to 0.1, log)" in str(found)
    assert f"the sampler starts from {len(fits)} trials of study 'old'; left out: " in str(found)


def test_fixed_values_of_an_old_study_count_as_settings_of_its_trials(storage):
    run(storage, study_of("sgd alone", trials=3, space=(LR,), train={"optimizer": "sgd", "momentum": 0.5}))
    (found,) = warm_start.find_warm_starts(storage, study_of("new", start_from=("sgd alone",)))
    assert [trial.params["momentum"] for trial in found.trials] == [0.5] * 3
    assert {trial.params["optimizer"] for trial in found.trials} == {"sgd"}


def test_a_setting_that_the_new_study_lists_is_left_out(storage):
    first = optuna.load_study(study_name="old", storage=storage).trials[0].params
    (found,) = warm_start.find_warm_starts(
        storage, study_of("new", start_from=("old", "old"), points=(first,))
    )
    assert dict(found.left_out) == {"listed here too": 1}
    assert len(found.trials) == 29


DIFFERENT = (
    ({"train": {"dataset": "mnist"}}, "dataset is 'digits' there and 'mnist' here"),
    ({"train": {"epochs": 9}}, "30 (epochs 3, where this study has 9)"),
    ({"train": {"metric": "loss"}}, "the metric is accuracy (maximized) there and loss (minimized) here"),
)


@pytest.mark.parametrize(("changes", "difference"), DIFFERENT)
def test_freeze_thaw_starts_from_the_order_of_values_that_cannot_be_compared(storage, changes, difference):
    definition = study_of("new", sampler="freeze_thaw", start_from=("old",), **changes)
    (found,) = warm_start.find_warm_starts(storage, definition)
    assert str(found) == (
        "the sampler starts from the order of 30 trials of study 'old', not from their values: "
        f"{difference}"
    )
    assert found.definition == studies.read_definition(storage, "old")
    assert {trial.distributions["lr"] for trial in found.trials} == {LR.distribution()}
    studies.create_study(storage, definition, "")
    history = history_of(storage, definition)
    assert (len(history.priors), history.warm_start_trials) == (1, [])


def test_of_the_order_only_searched_parameters_matter(storage):
    """A setting counts although the new study fixes an option otherwise, or lists it."""
    first = optuna.load_study(study_name="old", storage=storage).trials[0].params
    narrow = space.Parameter(name="lr", kind="float", values=space.Range(low=1e-4, high=0.1, log=True))
    definition = study_of(
        "new", sampler="freeze_thaw", start_from=("old",), space=(narrow,), train={"dataset": "mnist"}
    )
    (found,) = warm_start.find_warm_starts(storage, definition)
    old = optuna.load_study(study_name="old", storage=storage).trials
    assert [each.params["lr"] for each in found.trials] == [
        each.params["lr"] for each in old if each.params["lr"] <= 0.1
    ]
    assert list(found.left_out) == ["lr outside of 0.0001 to 0.1, log"]
    listing = study_of(
        "new", sampler="freeze_thaw", start_from=("old",), points=(first,), train={"dataset": "mnist"}
    )
    assert len(warm_start.find_warm_starts(storage, listing)[0].trials) == 30


def test_a_comparable_study_gives_its_values_to_freeze_thaw_too(storage):
    (found,) = warm_start.find_warm_starts(
        storage, study_of("new", sampler="freeze_thaw", start_from=("old",))
    )
    assert found.difference is None
    assert str(found) == "the sampler starts from 30 trials of study 'old'"


def test_an_unusable_study_to_start_from_is_refused(storage):
    def refused(**changes) -> str:
        with pytest.raises((DefinitionError, StoreError)) as caught:
            warm_start.find_warm_starts(storage, study_of("new", **{"start_from": ("old",)} | changes))
        return str(caught.value)

    message = refused(train={"limit": 100, "precision": "bf16"})
    assert "study 'new': search.start_from: study 'old' is not comparable" in message
    assert "limit is nothing there and 100 here" in message
    assert "precision is 'auto' there and 'bf16' here" in message
    assert "use the sampler freeze_thaw, which learns from the order of its trials" in message
    message = refused(train={"image_size": 32})
    assert "this study could try the setting of none of its trials" in message
    assert "30 (image_size 224, where this study has 32)" in message
    message = refused(start_from=("odl",))
    assert "study 'new': search.start_from: no study 'odl' in the store; did you mean 'old'?" in message
    studies.create_study(storage, study_of("empty"), "")
    assert "it has no trial that ended" in refused(start_from=("empty",))
    queue.claim_trial(
        storage,
        studies.find_study_id(storage, "empty"),
        process.current_owner("cpu"),
        lease_seconds=60,
        max_attempts=1,
    )
    assert "is running; wait until it is complete" in refused(start_from=("empty",))


@pytest.mark.parametrize("dataset", ["folder:pets", "list:pets.csv", "oxford_pets"])
def test_options_of_files_matter_only_where_files_are_read(storage, dataset):
    changed = {"transparency": "drop", "resize": "pad", "corrupt": "skip"}
    (found,) = warm_start.find_warm_starts(
        storage, study_of("new", sampler="tpe", train=changed, start_from=("old",))
    )
    assert len(found.trials) == 30
    run(storage, study_of("pictures", trials=3, train={"dataset": dataset}))
    new = study_of("new", sampler="tpe", train={"dataset": dataset} | changed, start_from=("pictures",))
    with pytest.raises(DefinitionError) as refused:
        warm_start.find_warm_starts(storage, new)
    for option, there, here in (
        ("transparency", "white", "drop"),
        ("resize", "crop", "pad"),
        ("corrupt", "refuse", "skip"),
    ):
        assert f"{option} is '{there}' there and '{here}' here" in str(refused.value)


@pytest.mark.parametrize(("model", "matters"), [("resnet18", False), ("swin_t", True)])
def test_preprocessing_matters_only_where_weights_ask_for_another(storage, model, matters):
    weights = {"weights": "imagenet", "model": model, "image_size": 224}
    run(storage, study_of("images", trials=3, train={**weights, "preprocessing": "imagenet"}))
    new = study_of("new", sampler="tpe", train=weights, start_from=("images",))
    if not matters:
        (found,) = warm_start.find_warm_starts(storage, new)
        assert len(found.trials) == 3
        return
    with pytest.raises(DefinitionError, match="preprocessing is 'imagenet' there and 'weights' here"):
        warm_start.find_warm_starts(storage, new)


def test_stochastic_depth_matters_only_for_models_that_have_it(storage):
    (found,) = warm_start.find_warm_starts(
        storage, study_of("new", train={"drop_path": 0.1}, start_from=("old",))
    )
    assert len(found.trials) == 30
    run(storage, study_of("deep", trials=3, train={"model": "swin_t"}))
    new = study_of("new", train={"model": "swin_t", "drop_path": 0.1}, start_from=("deep",))
    with pytest.raises(DefinitionError, match=r"3 \(drop_path 0.0, where this study has 0.1\)"):
        warm_start.find_warm_starts(storage, new)


def test_a_precision_chosen_by_auto_equals_the_same_precision_by_name(storage):
    studies.set_attribute_once(
        storage, studies.find_study_id(storage, "old"), "hpo:precision", "tf32", ("fp32", "tf32")
    )
    (found,) = warm_start.find_warm_starts(
        storage, study_of("new", start_from=("old",), train={"precision": "tf32"})
    )
    assert len(found.trials) == 30


def test_a_study_deleted_later_is_skipped_with_a_warning(storage, caplog):
    definition = study_of("new", start_from=("old",))
    studies.create_study(storage, definition, "")
    studies.delete_study(storage, "old")
    assert warm_start.read_warm_starts(storage, definition) == []
    assert "no study 'old'" in caplog.text


def test_start_from_cannot_be_changed_by_an_extension():
    stored = study_of("new", start_from=("old",))
    assert load_definition(dump_definition(stored)) == stored
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


def test_a_study_file_names_the_studies_to_start_from(place):
    place.here("create", place.study(STUDY, "old"))
    place.here("worker", "old")
    warm = STUDY.replace("trials = 12", 'trials = 3\nstart_from = ["old"]')
    done = place.hpo("run", place.study(warm, "new"), "--devices", "cpu:1")
    assert "hpo: the sampler starts from 12 trials of study 'old'\n" in done.err
    assert all(abs(trial.params["x"] - 0.7) < 0.25 for trial in load(place, "new").trials)
    assert place.here("status", "new", "--json").json()["budget"] == 3
    again = place.here("run", "new.toml")
    assert "nothing to do" in again.err

    longer = warm.replace("epochs = 1", "epochs = 2").replace('pruner = "none"', "").replace("= 3", "= 15")
    done = place.hpo("run", place.study(longer, "longer"), "--devices", "cpu:1")
    assert (
        "hpo: the sampler starts from the order of 12 trials of study 'old', not from their values: "
        "12 (epochs 1, where this study has 2)\n"
    ) in done.err
    assert sum(abs(trial.params["x"] - 0.7) < 0.1 for trial in load(place, "longer").trials) >= 5

    for text, message in (
        (warm.replace('["old"]', '["odl"]'), "no study 'odl' in the store; did you mean 'old'?"),
        (warm.replace('["old"]', '"old"'), "search.start_from: want a list of strings, found 'old'"),
        (warm.replace("[search]", '[search]\nsampler = "qmc"'), "sampler 'qmc' does not learn from trials"),
        (
            warm.replace("high = 1.0", "high = 0.0001"),
            "this study could try the setting of none of its trials",
        ),
        (warm.replace("epochs = 1", "epochs = 2"), "12 (epochs 1, where this study has 2)"),
        (
            warm.replace('pruner = "none"', "").replace("x = {", "y = { low = 0.0, high = 1.0 }\nx = {"),
            "this study could try the setting of none of its trials: 12 (without y)",
        ),
        (warm.replace("[space]", "width = 3\n[space]"), "12 (width nothing, where this study has 3)"),
    ):
        refused = place.here("create", place.study(text, "other"), code=1)
        assert message in refused.err, refused.err
        assert refused.err.count("\n") == 1
    assert "start_from" in json.dumps(place.here("schema").json()["properties"]["search"])
