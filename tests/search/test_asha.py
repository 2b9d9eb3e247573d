"""Rungs: trials that pause there, are promoted or end; by hand, in any order, and with real processes."""

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
from hpo.store import studies
from hpo.study import space
from hpo.study.definition import Definition, Point, Pruner, Search
from hpo.training import config
from tests.support.processes import descendants, wait_for

LADDER = Rungs(epochs=(2, 6), factor=3, max_trials=12, includes_points=False)
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
    made = optuna.trial.create_trial(state=state, value=accuracies[-1] if state == COMPLETE else None)
    made.number = number
    made.intermediate_values = dict(enumerate(accuracies, start=1))
    made.system_attrs = {f"hpo:{name}": value for name, value in system.items()}
    return made


def paused(number: int, *accuracies: float) -> FrozenTrial:
    return trial(number, *accuracies, state=WAITING, paused=len(accuracies))


def verdict(own: FrozenTrial, others: list[FrozenTrial], ladder: Rungs = LADDER) -> RungDecision:
    return RungTable(ladder, others).decide(own)


def promotable(trials: list[FrozenTrial], **told: object) -> tuple[FrozenTrial, int] | None:
    found = RungTable(LADDER, trials).next_promotion(**told)
    return found and (next(each for each in trials if each.number == found[0]), found[1])


# Where they stand


@pytest.mark.parametrize(
    ("train", "lowest", "factor", "found"),
    [
        ({"schedule": "constant"}, 2, 3, (2, 6, 18)),
        ({"schedule": "constant"}, 1, 4, (1, 4, 16)),
        ({"schedule": "constant"}, 20, 3, ()),
        ({"schedule": "step", "step_size": 5}, 2, 3, (2, 6, 18)),  # 18 has no step behind it
        ({"schedule": "step", "step_size": 5}, 1, 3, (1, 6, 11)),  # 3 and 9 are shortly before one
        ({"schedule": "step", "step_size": 5}, 1, 2, (1, 2, 6, 11, 16)),
        ({"schedule": "step", "step_size": 1}, 1, 3, (2, 4, 10)),
        ({"schedule": "step", "step_size": 30}, 1, 3, (1, 3, 9)),
        ({"schedule": "step", "warmup_epochs": 2}, 1, 3, (1, 3, 9)),
    ],
)
def test_rungs_grow_and_stand_behind_a_decay_rather_than_before_it(train, lowest, factor, found):
    made = Definition(
        name="a",
        train=config.Config(epochs=20, **train).model_dump(),
        search=Search(pruner=Pruner(name="asha", min_epochs=lowest, reduction_factor=factor)),
    )
    ladder = asha.rungs_of(made)
    assert (() if ladder is None else ladder.epochs) == found


def test_a_schedule_that_is_searched_moves_no_rung():
    schedule = space.Parameter(
        name="schedule", kind="choice", values=space.Choices(choices=("step", "cosine"))
    )
    made = Definition(
        name="a",
        train=config.Config(epochs=20).model_dump(),
        space=(schedule,),
        search=Search(pruner=Pruner(name="asha", min_epochs=1, reduction_factor=3)),
    )
    assert asha.rungs_of(made).epochs == (1, 3, 9)


def test_listed_points_take_part_only_if_the_study_says_so():
    made = Definition(
        name="a",
        train=config.Config(epochs=20, schedule="constant").model_dump(),
        search=Search(trials=5, pruner=Pruner(name="asha", min_epochs=1)),
        points=(Point(setting={"lr": 0.1}),) * 4,
    )
    assert asha.rungs_of(made).max_trials == 5
    both = made.model_copy(update={"search": made.search.model_copy(update={"prune_points": True})})
    assert asha.rungs_of(both).max_trials == 9
    point = trial(0, 0.1)
    point.system_attrs["fixed_params"] = {}
    assert not asha.rungs_of(made).is_at_rung(point)
    assert asha.rungs_of(both).is_at_rung(point)


# What becomes of a trial


@pytest.mark.parametrize(
    ("own", "kind", "place"),
    [(0.95, "promoted", 1), (0.85, "promoted", 2), (0.65, "paused", 4), (0.45, "pruned", 5)],
)
def test_one_in_three_goes_on_and_who_cannot_get_there_any_more_is_pruned(own, kind, place):
    others = [trial(number, 0.1, best) for number, best in enumerate((0.9, 0.8, 0.7, 0.5, 0.2))]
    found = verdict(trial(9, 0.1, own), [*others, trial(7, 0.99)])
    assert (found.kind, found.rank, found.trials, found.rung) == (kind, place, 6, 2)


def test_more_may_come_to_a_higher_rung_than_the_lower_one_would_promote_in_the_end():
    """Of 24 trials 9 came to the second rung, since early ones were promoted among few."""
    ladder = Rungs(epochs=(2, 6), factor=3, max_trials=24, includes_points=False)
    six = [0.1] * 5
    there = [trial(number, *six, best) for number, best in enumerate((0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1))]
    below = [trial(number, 0.1, 0.1, state=TrialState.PRUNED) for number in range(10, 18)]
    assert verdict(trial(9, *six, 0.7), [*there, *below], ladder).kind == "paused"
    done = [trial(number, 0.1, 0.1, state=TrialState.PRUNED) for number in range(10, 26)]
    assert verdict(trial(9, *six, 0.7), [*there, *done], ladder).kind == "pruned"


def test_a_listed_point_that_diverged_takes_nobodys_place():
    ladder = Rungs(epochs=(2, 6), factor=3, max_trials=6, includes_points=False)
    others, own = [trial(0, 0.1, 0.9)], trial(1, 0.1, 0.8)
    listed = trial(2, 0.1, state=TrialState.PRUNED)
    assert verdict(own, [*others, listed], ladder).kind == "pruned", "one of five may yet go on"
    listed.system_attrs = {"fixed_params": {}}
    assert verdict(own, [*others, listed], ladder).kind == "paused", "two of six may"


def test_what_counts_at_a_rung_is_the_best_epoch_up_to_there():
    others = [trial(0, 0.1, 0.5, 0.9), trial(1, 0.6, 0.3)]
    assert verdict(trial(2, 0.55, 0.2), others).rank == 2


def test_of_equal_trials_the_earlier_one_is_ahead():
    others = [trial(0, 0.5, 0.5), trial(2, 0.5, 0.5)]
    assert verdict(trial(1, 0.5, 0.5), others).rank == 2


def test_a_trial_once_promoted_passes_its_rung_whoever_has_come_since():
    better = [trial(number, 0.9, 0.9) for number in range(9)]
    assert verdict(trial(9, 0.1, 0.1), better).kind == "pruned"
    assert verdict(trial(9, 0.1, 0.1, promoted=2), better).kind == "promoted"
    assert verdict(trial(9, 0.1, 0.1, promoted=6), better).kind == "promoted"


# Who goes on


def test_the_best_in_a_third_go_on_from_the_highest_rung_down():
    low = [paused(number, 0.1, value) for number, value in enumerate((0.3, 0.9, 0.5))]
    high = [paused(number, *[0.1] * 5, value) for number, value in ((3, 0.2), (4, 0.6), (5, 0.4))]
    found, rung = promotable([*low, *high])
    assert (found.number, rung) == (4, 6)
    found, rung = promotable([*low, *high], taken=[4])
    assert (found.number, rung) == (1, 2)
    assert promotable([*low, *high[:2]], taken=[1]) is None  # of five, one


def test_who_has_gone_on_before_counts_among_the_third():
    there = [trial(0, 0.1, 0.9, 0.9, promoted=2), *(paused(n, 0.1, n / 10) for n in range(1, 5))]
    assert promotable(there) is None
    found, _ = promotable([*there, paused(5, 0.1, 0.05)])
    assert found.number == 4


def test_in_the_end_one_goes_on_from_the_highest_rung_so_that_one_completes():
    there = [paused(0, 0.1, 0.9), paused(1, *[0.2] * 6), paused(2, *[0.3] * 6)]
    assert promotable(there) == (there[0], 2)
    there[0] = trial(0, 0.1, 0.9, promoted=2, state=TrialState.FAIL)
    assert promotable(there) is None
    assert promotable(there, last=True) == (there[2], 6)
    assert promotable([*there, trial(3, *[0.5] * 9, state=COMPLETE)], last=True) is None


def test_a_sampler_sees_an_open_trial_with_what_it_has_come_to():
    done = trial(3, *[0.4] * 20, state=COMPLETE)
    there = [trial(0, 0.1), paused(1, 0.3, 0.2), trial(2, 0.1, 0.3, 0.4, promoted=2), done]
    seen = LADDER.as_sampler_sees(there)
    assert [each.number for each in seen] == [1, 2, 3]  # the first may just be slow
    assert [(each.state, each.value) for each in seen[:2]] == [
        (TrialState.PRUNED, 0.2),
        (TrialState.PRUNED, 0.4),
    ]
    assert seen[2] is done
    assert (there[1].state, there[2].state) == (WAITING, RUNNING)
    # A Gaussian process spreads what it proposes around those that run.
    pending = dataclasses.replace(LADDER, shows_running=True).as_sampler_sees(there)
    assert [each.state for each in pending] == [RUNNING, TrialState.PRUNED, RUNNING, COMPLETE]


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_in_any_order_all_trials_end_and_the_best_of_each_rung_have_gone_on(workers):
    """The rules alone, without a store: what a study does with them, a step of some worker at a time."""
    order = random.Random(workers)
    ladder = Rungs(epochs=(1, 3, 9), factor=3, max_trials=40, includes_points=False)
    board = RungTable(ladder)
    trials: list[FrozenTrial] = []
    busy: list[FrozenTrial] = []
    while True:
        if len(busy) < workers:
            last = not busy and len(trials) == ladder.max_trials
            found = board.next_promotion(last=last)
            assert found == RungTable(ladder, trials).next_promotion(last=last)
            if found is not None:
                busy.append(trials[found[0]])
                busy[-1].state = RUNNING
                busy[-1].system_attrs = {PAUSED_AT_RUNG: None, PROMOTED_PAST_RUNG: found[1]}
                board.update(busy[-1])
            elif len(trials) < ladder.max_trials:
                trials.append(trial(len(trials)))
                busy.append(trials[-1])
            elif not busy:
                break
        own = order.choice(busy)
        own.intermediate_values[(own.last_step or 0) + 1] = order.random()
        if own.last_step == 20:
            own.state, own.value = COMPLETE, 0.0
        elif ladder.is_at_rung(own):
            found = RungTable(ladder, trials).decide(own)
            assert board.decide(own) == found
            kind = found.kind
            own.state = {"promoted": RUNNING, "paused": WAITING, "pruned": TrialState.PRUNED}[kind]
            own.system_attrs[PROMOTED_PAST_RUNG if kind == "promoted" else PAUSED_AT_RUNG] = own.last_step
        board.update(own)
        if own.state != RUNNING:
            busy.remove(own)
    the_best_have_gone_on(trials, ladder)


def the_best_have_gone_on(trials: list[FrozenTrial], ladder: Rungs) -> None:
    assert any(trial.state == COMPLETE for trial in trials)
    for rung in ladder.epochs:
        there = [t for t in trials if (t.last_step or 0) >= rung]
        values = {t.number: max(v for s, v in t.intermediate_values.items() if s <= rung) for t in there}
        ranked = sorted(there, key=lambda t: (-values[t.number], t.number))
        for best in ranked[: len(there) // ladder.factor]:
            assert best.last_step > rung


def test_a_paused_trial_is_shown_with_its_rung():
    assert end_reason(paused(1, 0.3, 0.2)) == "waits at the rung of epoch 2"
    assert end_reason(trial(1, 0.3, 0.2, paused=None)) == ""


# With real processes


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_workers_pause_and_promote_trials_and_lose_none_to_a_kill(place, url):
    place.here("create", place.study(STUDY), HPO_STORE=url)
    launched = place.start("launch", "small", "--devices", "cpu:3", HPO_STORE=url)

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
            assert rung <= each.last_step  # it trains on while a verdict is late
    the_best_have_gone_on(
        trials, asha.rungs_of(studies.read_definition(studies.open_storage(url, create=False), "small"))
    )
    resumed = [t for t in trials if t.system_attrs.get(PROMOTED_PAST_RUNG) and t.user_attrs["attempts"] > 1]
    assert resumed  # some were promoted after they had paused
    assert not list(place.path.glob("storage/artifacts/*/*/checkpoint*"))
