"""A searched setting runs once; when every setting has a trial, those left over are removed."""

import random
import threading
import tomllib

import pytest
from optuna.trial import TrialState

from hpo.search import untried
from hpo.store import process, queue, status, studies, untried_settings
from hpo.store.history import History
from hpo.study import file
from hpo.study.definition import Definition
from hpo.training.metric import METRICS
from hpo.workers.setting import choose_setting
from tests.support.databases import plain_sql
from tests.support.workplace import load

OWN = """
def climb(config, state):
    state = state or {"epoch": 0}
    if config.kind == "bad":
        raise ValueError("bad")
    while state["epoch"] < config.epochs:
        state["epoch"] += 1
        yield (config.width + config.seed) / 100, state
"""
STUDY = """
[train]
objective = "own:climb"
epochs = 1
[space]
width = { low = 1, high = 2 }
kind = ["good", "bad"]
[search]
trials = 10
sampler = "random"
pruner = "none"
"""


def definition_of(space: str, search: str = "trials = 30", points: str = "") -> Definition:
    text = f"""
[train]
objective = "own:climb"
epochs = 3
[space]
{space}
[search]
sampler = "random"
pruner = "none"
{search}
{points}
"""
    return file.parse_document({"name": "study", **tomllib.loads(text)}, "f.toml")


def test_ten_trials_of_four_settings_run_four_and_say_so(place):
    study = place.study(STUDY)
    place.here("create", study)
    done = place.here("worker", "small")
    trials = load(place).trials
    assert sorted((t.params["width"], t.params["kind"], t.state.name) for t in trials) == [
        *((1, "bad", "FAIL"), (1, "good", "COMPLETE"), (2, "bad", "FAIL"), (2, "good", "COMPLETE"))
    ]
    assert "removed (every setting of [space] has a trial, and 5 that waited with it)" in done.err
    found = place.here("status", "small", "--json").json()
    assert (found["state"], found["budget"], found["left_out_trials"]) == ("complete", 4, 6)
    assert "6 planned trials would have repeated one" in place.here("status", "small").out
    # Creating the study again, or with more trials, adds none.
    assert "already stored: 0 trials waiting" in place.here("create", study).out
    assert "0 trials waiting" in place.here("create", study, "--set", "search.trials=20").out
    assert place.here("status", "small", "--json").json()["left_out_trials"] == 16
    # A setting queued by hand runs with a seed of its own, under a number that no trial has had.
    place.here("enqueue", "small", "width=1", "kind=good", "seed=7")
    place.here("worker", "small")
    assert [t.params for t in load(place).trials][4:] == [{"width": 1, "kind": "good"}]
    best = place.here("best", "small", "-n", "9", "--json").json()
    assert [each["params"]["width"] for each in best] == [1, 2]


def test_replicates_of_each_setting_differ_in_the_seed(place):
    text = STUDY.replace('["good", "bad"]', '["good"]').replace("trials = 10", "trials = 5\nreplicates = 2")
    place.here("create", place.study(text))
    place.here("worker", "small")
    trials = load(place).trials
    assert sorted((t.params["width"], t.value) for t in trials) == [
        (1, 0.01),
        (1, 0.02),
        (2, 0.02),
        (2, 0.03),
    ]
    assert len({trial.number for trial in trials}) == 4


def test_workers_that_propose_at_once_get_different_settings(url):
    definition = definition_of("a = [1, 2, 3]\nb = { low = 0.1, high = 0.4, step = 0.1 }")
    creator = studies.open_storage(url, create=True)
    studies.create_study(creator, definition, "text")
    study_id = studies.find_study_id(creator, "study")
    found, removed, errors = [], [], []

    def work() -> None:
        try:
            storage = studies.open_storage(url, create=False)
            history = History(storage, study_id, "study", METRICS["accuracy"])
            owner = process.current_owner("cpu")
            while claim := queue.claim_trial(storage, study_id, owner, lease_seconds=60, max_attempts=9):
                try:
                    trial, config, _ = choose_setting(claim, history, definition)
                    assert trial.params == {"a": config.a, "b": config.b}
                    found.append((config.a, round(config.b, 6)))
                    claim.end(TrialState.COMPLETE, value=0.5)
                except untried_settings.AllSettingsTried:
                    removed.append(
                        claim.remove(
                            lambda session, trial=claim.trial_id: untried_settings.remove_searched_trials(
                                session, study_id, trial
                            )
                        )
                    )
        except Exception as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(found) == [(a, b / 10) for a in (1, 2, 3) for b in (1, 2, 3, 4)]
    assert (len(status.read_trials(creator, "study")), sum(removed)) == (12, 18)
    assert studies.read_definition(creator, "study").left_out_trials == 18
    assert not queue.has_open_trials(creator, study_id)


def test_a_trial_whose_worker_died_before_its_setting_gets_one_of_its_own(tmp_path):
    definition = definition_of("a = [1, 2]", "trials = 2")
    storage = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    studies.create_study(storage, definition, "text")
    study_id = studies.find_study_id(storage, "study")
    history, owner = History(storage, study_id, "study", METRICS["accuracy"]), process.current_owner("cpu")

    def claim(seconds: float):
        return queue.claim_trial(storage, study_id, owner, lease_seconds=seconds, max_attempts=9)

    dead = claim(0.0)
    settings = []
    for _ in range(2):
        taken = claim(60)
        settings.append((taken.number, choose_setting(taken, history, definition)[1].a))
        taken.end(TrialState.PRUNED)
    assert [number for number, _ in settings] == [dead.number, 1]
    assert sorted(value for _, value in settings) == [1, 2]


def test_a_setting_queued_by_plain_optuna_after_trials_were_removed_gets_a_number_of_its_own(place):
    text = STUDY.replace('kind = ["good", "bad"]', 'kind = ["good"]')
    place.here("create", place.study(text.replace("trials = 10", "trials = 6\nreplicates = 2")))
    place.here("worker", "small")
    study = load(place)
    before = {trial.number: trial.params for trial in study.trials}
    assert sorted(before) == [0, 1, 6, 7], "the replicates of two settings come after six planned trials"
    for width in (1, 2, 1):
        study.enqueue_trial({"width": width, "kind": "good"})
    sql = plain_sql(f"sqlite:///{place.path}/storage/hpo.db")
    numbers = [row[0] for row in sql("SELECT number FROM trials ORDER BY number")]
    assert numbers == [0, 1, 4, 5, 6, 6, 7], "Optuna counts the trials that are there"
    shown = [trial["number"] for trial in place.here("trials", "small", "--json").json()]
    assert shown == [0, 1, 4, 5, 6, 7, 8]
    best = place.here("best", "small", "--json").json()
    assert (best["trial"], best["seeds"]) == (next(n for n in (0, 1) if before[n]["width"] == 2), 2)
    place.here("worker", "small")
    assert sql("SELECT count(*), count(DISTINCT number) FROM trials") == [(10, 10)]
    trials = load(place).trials
    after = {trial.number: trial.params for trial in trials}
    assert len(trials) == 10, "three queued settings, each with a replicate"
    assert {n: after[n] for n in before} == before
    assert [after[n]["width"] for n in (4, 5)] == [1, 2]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def keys_of(definition: Definition, seed: int = 0) -> list[dict]:
    """Take untried settings until there is none, from random proposals."""
    rng, tried, found = random.Random(seed), set(), []
    while True:
        proposal = rng.choice(found) if found else {}
        setting = untried.nearest_untried(definition, proposal, tried, rng.randrange(100))
        if setting is None:
            return found
        key = untried.setting_key(definition, setting)
        assert key is not None
        found.append(setting)
        tried.add(key)


@pytest.mark.parametrize(
    ("space", "count"),
    [
        ("a = [1, 2]\nb = [true, false]", 4),
        ("a = { low = 1, high = 9, step = 4 }", 3),
        ("a = { low = 1, high = 8, log = true }", 8),
        ("a = { low = 0.5, high = 0.5 }", 1),
        ("a = { low = 0.1, high = 0.7, step = 0.2 }", 4),
        ('a = ["x", "y"]\nb = { choices = [1, 2, 3], when = { a = "x" } }', 4),
    ],
)
def test_every_setting_of_a_finite_space_is_taken_once(space, count):
    definition = definition_of(space)
    found = keys_of(definition)
    assert len(found) == count == len({repr(each) for each in found})
    for setting in found:
        assert all(
            parameter.contains(setting.get(parameter.name, 0)) or parameter.condition()
            for parameter in definition.space
        )


def test_the_nearest_setting_keeps_what_was_proposed_first():
    definition = definition_of("a = [1, 2, 3]\nb = [1, 2, 3]")
    proposal = {"a": 2, "b": 3}
    tried = {untried.setting_key(definition, proposal)}
    chosen = untried.nearest_untried(definition, proposal, tried, 0)
    assert chosen["a"] == 2
    assert chosen["b"] != 3


def test_settings_with_a_value_of_a_continuous_range_are_never_used_up():
    definition = definition_of(
        'a = ["x", "y"]\nb = { low = 1e-3, high = 1.0, log = true, when = { a = "x" } }'
    )
    assert untried.setting_key(definition, {"a": "x", "b": 0.5}) is None
    tried = {untried.setting_key(definition, {"a": "y"})}
    chosen = untried.nearest_untried(definition, {"a": "y"}, tried, 0)
    assert chosen["a"] == "x"
    assert 1e-3 <= chosen["b"] <= 1.0


def test_a_huge_range_needs_as_many_steps_as_settings_are_tried():
    definition = definition_of("a = { low = 1, high = 1000000000 }")
    tried = {untried.setting_key(definition, {"a": value}) for value in range(1, 50)}
    chosen = untried.nearest_untried(definition, {"a": 1}, tried, 0)
    assert untried.setting_key(definition, chosen) not in tried


def test_a_listed_point_is_not_searched_again_but_one_with_another_seed_is(place):
    points = """
[[points]]
width = 1
kind = "good"
[[points]]
width = 2
kind = "good"
seed = 7
"""
    text = STUDY.replace('["good", "bad"]', '["good"]') + points
    place.here("create", place.study(text))
    place.here("worker", "small")
    assert [(t.params["width"], t.value) for t in load(place).trials] == [(1, 0.01), (2, 0.09), (2, 0.02)]


def test_a_point_of_a_grid_may_name_its_epochs_or_its_seed_alone(place):
    text = """
[train]
objective = "own:climb"
epochs = 1
kind = "good"
width = 3
[space]
shade = [1, 2]
[search]
sampler = "grid"
[[points]]
width = 2
kind = "good"
[[points]]
seed = 5
"""
    place.here("create", place.study(text))
    place.here("enqueue", "small", "epochs=2")
    place.here("worker", "small")
    trials = load(place).trials
    assert [(t.params, t.value, len(t.intermediate_values)) for t in trials] == [
        ({"width": 2, "kind": "good"}, 0.02, 1),
        ({}, 0.08, 1),
        ({}, 0.03, 2),
    ]


@pytest.fixture
def place(workplace):
    (workplace.path / "own.py").write_text(OWN)
    return workplace


@pytest.mark.parametrize(
    ("space", "trials", "points", "scarce"),
    [
        ("a = [1, 2]\nb = { low = 1, high = 3 }", 6, "", None),
        ("a = [1, 2]\nb = { low = 1, high = 3 }", 7, "", 6),
        ("a = [1, 2]\nb = { low = 1, high = 3 }", 6, "[[points]]\na = 1\nb = 2", 5),
        ('a = ["x", "y"]\nb = { low = 1, high = 3, when = { a = "x" } }', 9, "", 4),
        ('a = ["x", "y"]\nb = { low = 0.1, high = 0.3, when = { a = "y" } }', 9, "", None),
        ("a = { low = 0.0, high = 1.0, step = 0.25 }", 9, "", 5),
        ("a = { low = 0.0, high = 1.0 }", 9, "", None),
    ],
)
def test_settings_are_scarce_if_there_are_fewer_than_trials(space, trials, points, scarce):
    definition = definition_of(space, f"trials = {trials}", points)
    found = untried.scarce_settings(definition)
    assert (None if found is None else len(found)) == scarce
    keys = [untried.setting_key(definition, each) for each in found or ()]
    assert len({*keys, *untried.listed_keys(definition)}) == len(keys) + len(definition.points)
