"""The time of a trial, divided among the kinds of hardware that its attempts ran on."""

import optuna
import pytest
from optuna.trial import FrozenTrial

from hpo.analysis import records
from hpo.analysis.hardware_time import hardware_shares
from hpo.report.device_time import device_time_section, device_time_uses
from hpo.store.attempts import Attempt
from tests.support import lease_worker

CPU = {"device": "Xeon", "host": "a", "torch": "2.14", "threads": 2}
MOVED = CPU | {"earlier_devices": "Abacus"}


def trial(number: int, hardware: dict[str, object], attempts: int = 1) -> FrozenTrial:
    """Return a trial of three epochs of 1, 2 and 4 s, and of 0.5 s of an epoch that was not finished."""
    attributes = {
        "hardware": hardware,
        "epoch_seconds": [1.0, 2.0, 4.0],
        "wall_time_seconds": 7.5,
        "attempts": attempts,
    }
    curve = {1: 0.1, 2: 0.2, 3: 0.3}
    found = optuna.trial.create_trial(value=0.3, user_attrs=attributes, intermediate_values=curve)
    found.number = number
    return found


def attempt(trial: int, number: int, hardware: str, began: float, ended: float, epochs: int) -> Attempt:
    return Attempt(
        trial=trial,
        attempt=number,
        owner="a/1",
        host="a",
        device="cpu",
        hardware=hardware,
        versions={},
        began=began,
        ended=ended,
        epochs=epochs,
        outcome="complete" if epochs == 3 else "died",
        reason="",
    )


def shares(trials: list[FrozenTrial], attempts: list[Attempt]) -> list[tuple[object, ...]]:
    found = hardware_shares(records.trial_records(lease_worker.definition(3), trials), attempts)
    return [(s.trial.number, s.kind, s.epochs, s.seconds, s.lost_seconds) for s in found]


def test_a_trial_that_moved_is_divided_at_the_last_epoch_of_each_attempt():
    moved = [attempt(0, 1, "Abacus", 0.0, 5.0, 2), attempt(0, 2, "Xeon", 100.0, 108.0, 3)]
    assert shares([trial(0, MOVED, attempts=2)], moved) == [
        (0, "Abacus", 2, 3.0, pytest.approx(2.0)),
        (0, "Xeon, 2 threads", 1, 4.5, pytest.approx(3.5)),
    ]


def test_a_device_that_other_trials_ran_on_has_their_kind():
    abacus = CPU | {"device": "Abacus", "threads": 1}
    trials = [trial(0, MOVED, attempts=2), trial(1, abacus)]
    made = [attempt(0, 1, "Abacus", 0.0, 5.0, 2), attempt(0, 2, "Xeon", 100.0, 108.0, 3)]
    made.append(attempt(1, 1, "Abacus", 0.0, 9.0, 3))
    assert [(number, kind) for number, kind, *_ in shares(trials, made)] == [
        *((0, "Abacus, 1 thread"), (0, "Xeon, 2 threads"), (1, "Abacus, 1 thread"))
    ]


def test_two_attempts_on_one_kind_are_one_share():
    both = [attempt(0, 1, "Xeon", 0.0, 5.0, 2), attempt(0, 2, "Xeon", 100.0, 108.0, 3)]
    assert shares([trial(0, CPU, attempts=2)], both) == [(0, "Xeon, 2 threads", 3, 7.5, pytest.approx(5.5))]


def test_an_attempt_that_died_before_its_checkpoint_takes_no_epoch_twice():
    """The second attempt went back to the first epoch, and died there."""
    kinds = [("Abacus", 2), ("Pascaline", 1), ("Xeon", 3)]
    made = [attempt(0, n, kind, 0.0, 1.0, epochs) for n, (kind, epochs) in enumerate(kinds, 1)]
    found = shares([trial(0, MOVED, attempts=3)], made)
    assert [(kind, epochs, seconds) for _, kind, epochs, seconds, _ in found] == [
        ("Abacus", 2, 3.0),
        ("Pascaline", 0, 0.0),
        ("Xeon, 2 threads", 1, 4.5),
    ]


def test_without_all_attempts_a_trial_is_whole_or_left_out():
    trials = [trial(0, CPU), trial(1, MOVED, attempts=2)]
    last = [attempt(1, 2, "Xeon", 100.0, 108.0, 3)]  # the first is older than the table
    assert shares(trials, last) == [(0, "Xeon, 2 threads", 3, 7.5, None)]
    found = records.trial_records(lease_worker.definition(3), trials)
    (note,) = [text for text in device_time_section(found, last).text if "several kinds" in text]
    assert note.startswith("Trial 1 ran on several kinds of hardware")


def test_the_report_credits_each_machine_with_its_part():
    moved = [attempt(0, 1, "Abacus", 0.0, 5.0, 2), attempt(0, 2, "Xeon", 100.0, 108.0, 3)]
    found = records.trial_records(lease_worker.definition(3), [trial(0, MOVED, attempts=2)])
    uses = device_time_uses(hardware_shares(found, moved))
    assert [(use.kind, use.use, use.trials, use.epochs, use.seconds) for use in uses] == [
        ("Abacus", "complete", 1, 2, 3.0),
        ("Abacus", "repeated or waited for, at most", 1, 0, 2.0),
        ("Xeon, 2 threads", "complete", 1, 1, 4.5),
        ("Xeon, 2 threads", "repeated or waited for, at most", 1, 0, 3.5),
    ]
    assert not any("several kinds" in text for text in device_time_section(found, moved).text)
