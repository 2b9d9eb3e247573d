"""Rungs, where trials pause, are promoted or are pruned: by hand, in any order, and with real processes."""

import dataclasses
import os
import random
import re
import signal

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.analysis.formatting import end_reason
from hpo.search import asha
from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG, RungDecision, Rungs, RungTable
from hpo.search.objectives import Objectives
from hpo.store import studies
from hpo.study import space
from hpo.study.definition import Definition, Point
from hpo.study.search_options import Pruner, Search
from hpo.training import config
from hpo.training.metric import METRICS
from tests.support.processes import descendants, wait_for

ACCURACY = Objectives((METRICS["accuracy"],))
RUNGS = Rungs(objectives=ACCURACY, epochs=(2, 6), factor=3, max_trials=12, includes_points=False)
WAITING, RUNNING, COMPLETE = TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE

OWN = """
import os, random, time


def climb(config, state):
    state = state or {"epoch": 0, "seen": []}
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        state["seen"].append(os.getpid())
        noise = random.Random(f"{config.x}/{state['epoch']}").random() / 4
        yield 0.7 - (config.x - 0.3) ** 2 + noise - 0.2 / state["epoch"], state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 20
seconds = 0.02

[space]
x = { low = 0.0, high = 1.0 }

[search]
trials = 24
pruner = { name = "asha", min_epochs = 2, reduction_factor = 3 }
"""


def trial(number: int, *accuracies: float, state=RUNNING, **system: object) -> FrozenTrial:
    created = optuna.trial.create_trial(state=state, value=accuracies[-1] if state == COMPLETE else None)
    created.number = number
    created.intermediate_values = dict(enumerate(accuracies, start=1))
    created.system_attrs = {f"hpo:{name}": value for name, value in system.items()}
    return created


def paused(number: int, *accuracies: float) -> FrozenTrial:
    return trial(number, *accuracies, state=WAITING, paused=len(accuracies))


def stopped(number: int, *accuracies: float) -> FrozenTrial:
    """Return a trial that has stopped early, which is complete."""
    return trial(number, *accuracies, state=COMPLETE, stopped_early=1)


def decide(own: FrozenTrial, others: list[FrozenTrial], rungs: Rungs = RUNGS) -> RungDecision:
    return RungTable(rungs, others).decide(own)


def next_promotion(trials: list[FrozenTrial], **options: object) -> tuple[FrozenTrial, int] | None:
    found = RungTable(RUNGS, trials).next_promotion(**options)
    return found and (next(each for each in trials if each.number == found[0]), found[1])


# Epochs of the rungs


@pytest.mark.parametrize(
    ("train", "lowest", "factor", "found"),
    [
        ({"schedule": "constant"}, 2, 3, (2, 6, 18)),
        ({"schedule": "constant"}, 1, 4, (1, 4, 16)),
        ({"schedule": "constant"}, 20, 3, ()),
        ({"schedule": "step", "step_size": 5}, 2, 3, (2, 6, 18)),  # no step follows 18
        ({"schedule": "step", "step_size": 5}, 1, 3, (1, 6, 11)),  # 3 and 9 are shortly before a step
        ({"schedule": "step", "step_size": 5}, 1, 2, (1, 2, 6, 11, 16)),
        ({"schedule": "step", "step_size": 1}, 1, 3, (2, 4, 10)),
        ({"schedule": "step", "step_size": 30}, 1, 3, (1, 3, 9)),
        ({"schedule": "step", "warmup_epochs": 2}, 1, 3, (1, 3, 9)),
    ],
)
def test_rungs_grow_and_are_placed_after_a_decay_rather_than_before_it(train, lowest, factor, found):
    definition = Definition(
        name="a",
        train=config.Config(epochs=20, **train).model_dump(),
        search=Search(pruner=Pruner(name="asha", min_epochs=lowest, reduction_factor=factor)),
    )
    rungs = asha.rungs_of(definition)
    assert (() if rungs is None else rungs.epochs) == found


def test_a_schedule_that_is_searched_moves_no_rung():
    schedule = space.Parameter(
        name="schedule", kind="choice", values=space.Choices(choices=("step", "cosine"))
    )
    definition = Definition(
        name="a",
        train=config.Config(epochs=20).model_dump(),
        space=(schedule,),
        search=Search(pruner=Pruner(name="asha", min_epochs=1, reduction_factor=3)),
    )
    assert asha.rungs_of(definition).epochs == (1, 3, 9)


def test_listed_points_are_compared_only_if_the_study_prunes_points():
    definition = Definition(
        name="a",
        train=config.Config(epochs=20, schedule="constant").model_dump(),
        search=Search(trials=5, pruner=Pruner(name="asha", min_epochs=1)),
        points=(Point(setting={"lr": 0.1}),) * 4,
    )
    assert asha.rungs_of(definition).max_trials == 5
    both = definition.model_copy(
        update={"search": definition.search.model_copy(update={"prune_points": True})}
    )
    assert asha.rungs_of(both).max_trials == 9
    point = trial(0, 0.1)
    point.system_attrs["fixed_params"] = {}
    assert not asha.rungs_of(definition).is_at_rung(point)
    assert asha.rungs_of(both).is_at_rung(point)


# Decisions about a trial


@pytest.mark.parametrize(
    ("own", "kind", "rank"),
    [(0.95, "promoted", 1), (0.85, "promoted", 2), (0.65, "paused", 4), (0.45, "pruned", 5)],
)
def test_the_best_third_is_promoted_and_a_trial_that_cannot_reach_it_is_pruned(own, kind, rank):
    others = [trial(number, 0.1, best) for number, best in enumerate((0.9, 0.8, 0.7, 0.5, 0.2))]
    found = decide(trial(9, 0.1, own), [*others, trial(7, 0.99)])
    assert (found.kind, found.rank, found.trials, found.rung) == (kind, rank, 6, 2)


def test_more_trials_may_reach_a_higher_rung_than_the_lower_one_finally_promotes():
    """Of 24 trials, 9 reached the second rung: early ones were promoted when few had reported."""
    rungs = Rungs(objectives=ACCURACY, epochs=(2, 6), factor=3, max_trials=24, includes_points=False)
    six = [0.1] * 5
    there = [trial(number, *six, best) for number, best in enumerate((0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1))]
    below = [trial(number, 0.1, 0.1, state=TrialState.PRUNED) for number in range(10, 18)]
    assert decide(trial(9, *six, 0.7), [*there, *below], rungs).kind == "paused"
    done = [trial(number, 0.1, 0.1, state=TrialState.PRUNED) for number in range(10, 26)]
    assert decide(trial(9, *six, 0.7), [*there, *done], rungs).kind == "pruned"


def test_a_diverged_listed_point_does_not_count_at_a_rung():
    rungs = Rungs(objectives=ACCURACY, epochs=(2, 6), factor=3, max_trials=6, includes_points=False)
    others, own = [trial(0, 0.1, 0.9)], trial(1, 0.1, 0.8)
    listed = trial(2, 0.1, state=TrialState.PRUNED)
    assert decide(own, [*others, listed], rungs).kind == "pruned", "one of five can still be promoted"
    listed.system_attrs = {"fixed_params": {}}
    assert decide(own, [*others, listed], rungs).kind == "paused", "two of six can"


def test_a_rung_compares_the_best_accuracy_up_to_its_epoch():
    others = [trial(0, 0.1, 0.5, 0.9), trial(1, 0.6, 0.3)]
    assert decide(trial(2, 0.55, 0.2), others).rank == 2


def test_of_equal_trials_the_earlier_one_ranks_higher():
    others = [trial(0, 0.5, 0.5), trial(2, 0.5, 0.5)]
    assert decide(trial(1, 0.5, 0.5), others).rank == 2


def test_a_promoted_trial_passes_its_rung_whatever_trials_follow():
    better = [trial(number, 0.9, 0.9) for number in range(9)]
    assert decide(trial(9, 0.1, 0.1), better).kind == "pruned"
    assert decide(trial(9, 0.1, 0.1, promoted=2), better).kind == "promoted"
    assert decide(trial(9, 0.1, 0.1, promoted=6), better).kind == "promoted"


# Promotion


def test_the_best_third_is_promoted_from_the_highest_rung_down():
    low = [paused(number, 0.1, value) for number, value in enumerate((0.3, 0.9, 0.5))]
    high = [paused(number, *[0.1] * 5, value) for number, value in ((3, 0.2), (4, 0.6), (5, 0.4))]
    found, rung = next_promotion([*low, *high])
    assert (found.number, rung) == (4, 6)
    found, rung = next_promotion([*low, *high], taken=[4])
    assert (found.number, rung) == (1, 2)
    assert next_promotion([*low, *high[:2]], taken=[1]) is None  # one of five


def test_trials_promoted_earlier_count_among_the_best_third():
    there = [trial(0, 0.1, 0.9, 0.9, promoted=2), *(paused(n, 0.1, n / 10) for n in range(1, 5))]
    assert next_promotion(there) is None
    found, _ = next_promotion([*there, paused(5, 0.1, 0.05)])
    assert found.number == 4


def test_at_the_end_one_trial_is_promoted_from_the_highest_rung_so_that_one_completes():
    there = [paused(0, 0.1, 0.9), paused(1, *[0.2] * 6), paused(2, *[0.3] * 6)]
    assert next_promotion(there) == (there[0], 2)
    there[0] = trial(0, 0.1, 0.9, promoted=2, state=TrialState.FAIL)
    assert next_promotion(there) is None
    assert next_promotion(there, last=True) == (there[2], 6)
    assert next_promotion([*there, trial(3, *[0.5] * 9, state=COMPLETE)], last=True) is None


def test_a_sampler_sees_an_unfinished_trial_with_its_last_accuracy():
    done = trial(3, *[0.4] * 20, state=COMPLETE)
    there = [trial(0, 0.1), paused(1, 0.3, 0.2), trial(2, 0.1, 0.3, 0.4, promoted=2), done]
    seen = RUNGS.as_sampler_sees(there)
    assert [each.number for each in seen] == [1, 2, 3]  # trial 0 may only be slow
    assert [(each.state, each.value) for each in seen[:2]] == [
        (TrialState.PRUNED, 0.2),
        (TrialState.PRUNED, 0.4),
    ]
    assert seen[2] is done
    assert (there[1].state, there[2].state) == (WAITING, RUNNING)
    # A Gaussian process sees running trials, so that its proposals are spread out.
    pending = dataclasses.replace(RUNGS, shows_running=True).as_sampler_sees(there)
    assert [each.state for each in pending] == [RUNNING, TrialState.PRUNED, RUNNING, COMPLETE]


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_in_any_order_all_trials_end_and_the_best_of_each_rung_are_promoted(workers):
    """The rules alone, without a store: as in a study, but one step of a random worker at a time."""
    order = random.Random(workers)
    rungs = Rungs(objectives=ACCURACY, epochs=(1, 3, 9), factor=3, max_trials=40, includes_points=False)
    table = RungTable(rungs)
    trials: list[FrozenTrial] = []
    busy: list[FrozenTrial] = []
    while True:
        if len(busy) < workers:
            last = not busy and len(trials) == rungs.max_trials
            found = table.next_promotion(last=last)
            assert found == RungTable(rungs, trials).next_promotion(last=last)
            if found is not None:
                busy.append(trials[found[0]])
                busy[-1].state = RUNNING
                busy[-1].system_attrs = {PAUSED_AT_RUNG: None, PROMOTED_PAST_RUNG: found[1]}
                table.update(busy[-1])
            elif len(trials) < rungs.max_trials:
                trials.append(trial(len(trials)))
                busy.append(trials[-1])
            elif not busy:
                break
        own = order.choice(busy)
        own.intermediate_values[(own.last_step or 0) + 1] = order.random()
        if own.last_step == 20:
            own.state, own.value = COMPLETE, 0.0
        elif rungs.is_at_rung(own):
            found = RungTable(rungs, trials).decide(own)
            assert table.decide(own) == found
            kind = found.kind
            own.state = {"promoted": RUNNING, "paused": WAITING, "pruned": TrialState.PRUNED}[kind]
            own.system_attrs[PROMOTED_PAST_RUNG if kind == "promoted" else PAUSED_AT_RUNG] = own.last_step
        table.update(own)
        if own.state != RUNNING:
            busy.remove(own)
    check_best_promoted(trials, rungs)


def check_best_promoted(trials: list[FrozenTrial], rungs: Rungs) -> None:
    assert any(trial.state == COMPLETE for trial in trials)
    for rung in rungs.epochs:
        there = [t for t in trials if (t.last_step or 0) >= rung]
        values = {t.number: max(v for s, v in t.intermediate_values.items() if s <= rung) for t in there}
        ranked = sorted(there, key=lambda t: (-values[t.number], t.number))
        for best in ranked[: len(there) // rungs.factor]:
            assert best.last_step > rung


def test_the_end_reason_of_a_paused_trial_names_its_rung():
    assert end_reason(paused(1, 0.3, 0.2)) == "waits at the rung of epoch 2"
    assert end_reason(trial(1, 0.3, 0.2, paused=None)) == ""


# With real processes


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_workers_pause_and_promote_trials_and_lose_none_to_a_kill(place, url):
    place.here("create", place.study(STUDY), HPO_STORE=url)
    launched = place.start("launch", "small", "--devices", "cpu:2", HPO_STORE=url)

    def study() -> optuna.Study:
        return optuna.load_study(study_name="small", storage=url)

    wait_for(lambda: any(t.system_attrs.get(PROMOTED_PAST_RUNG) for t in study().trials))
    os.kill(descendants(launched.pid)[0], signal.SIGKILL)
    launched.communicate(timeout=120)
    assert launched.returncode == 0
    trials = study().trials
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    assert len(trials) == 24
    for each in trials:
        assert sorted(each.intermediate_values) == list(range(1, each.last_step + 1))
        assert each.user_attrs["checkpoint"] is None
        if each.state.name == "PRUNED":
            assert each.value == each.intermediate_values[each.last_step]
            rung = int(re.fullmatch(r"by asha: .* epoch (\d+)", each.user_attrs["pruned"])[1])
            assert rung in (2, 6, 18)
            assert rung <= each.last_step  # training continues while a decision is late
    check_best_promoted(
        trials, asha.rungs_of(studies.read_definition(studies.open_storage(url, create=False), "small"))
    )
    resumed = [t for t in trials if t.system_attrs.get(PROMOTED_PAST_RUNG) and t.user_attrs["attempts"] > 1]
    assert resumed  # some trials were promoted after a pause
    assert not list(place.path.glob("storage/artifacts/*/*/checkpoint*"))


def test_a_trial_that_stopped_early_counts_at_the_rungs_behind_its_end():
    others = [stopped(number, 0.5, 0.9, 0.9) for number in range(1, 4)]
    own = trial(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert (decide(own, others).rank, decide(own, others).trials) == (4, 4)
    ahead = trial(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.95)
    assert (decide(ahead, others).kind, decide(ahead, others).rank) == ("promoted", 1)
    whole = [trial(number, 0.5, 0.9, 0.9, state=COMPLETE) for number in range(1, 4)]  # had fewer epochs
    assert (decide(own, whole).rank, decide(own, whole).trials) == (1, 1)
