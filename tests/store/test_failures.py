import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.store import failures


def make_trial(number: int, state: TrialState, **attributes: object) -> FrozenTrial:
    value = 0.5 if state == TrialState.COMPLETE else None
    trial = optuna.trial.create_trial(state=state, value=value, user_attrs=attributes)
    trial.number = number
    return trial


def failed(number: int, kind: str, message: str) -> FrozenTrial:
    return make_trial(number, TrialState.FAIL, failure={"class": kind, "message": message})


def test_nothing_is_said_of_a_study_without_early_ends():
    trials = [make_trial(0, TrialState.COMPLETE), make_trial(1, TrialState.WAITING)]
    assert failures.find_early_ends(trials) == ()


@pytest.mark.parametrize(
    ("kind", "message", "line"),
    [
        ("KeyError", "'lr'", "KeyError: 'lr'"),
        ("ValueError", "first\nsecond", "ValueError: first"),
        ("AssertionError", "", "AssertionError"),
        ("out_of_memory", "too large\nmore", "too large"),
        ("lost", "3 attempts ended", "3 attempts ended"),
        ("ValueError", "x" * 400, f"ValueError: {'x' * 285}..."),
    ],
)
def test_a_failure_is_one_line_with_the_class_of_an_exception(kind, message, line):
    assert failures.describe_failure(kind, message) == line


def test_reasons_that_differ_in_numbers_only_are_told_as_one():
    trials = [
        failed(0, "OSError", "no file"),
        failed(1, "ValueError", "lr 0.1 is too large\nmore"),
        failed(2, "ValueError", "lr 1e-05 is too large"),
        make_trial(3, TrialState.PRUNED, pruned="by median after epoch 3"),
        make_trial(4, TrialState.PRUNED, pruned="by median after epoch 12"),
        make_trial(5, TrialState.PRUNED, pruned="by median after epoch 3"),
        make_trial(6, TrialState.PRUNED, pruned="place 7 of 9 after epoch 2"),
        make_trial(7, TrialState.PRUNED, pruned="place 7 of 10 after epoch 2"),
        make_trial(8, TrialState.COMPLETE),
    ]
    texts = [str(each) for each in failures.find_early_ends(trials)]
    assert texts == [
        "3 of 9 trials failed, most often (2 times): ValueError: lr 1e-05 to 0.1 is too large",
        "5 of 9 trials were stopped early (pruned), most often (3 times): by median after epochs 3 to 12",
    ]
    assert failures.group_reasons([failures.describe_end(trial) for trial in trials[3:8]]) == [
        ("by median after epochs 3 to 12", [0, 1, 2]),
        ("place 7 of 9 to 10 after epoch 2", [3, 4]),
    ]


def test_a_traceback_is_named_only_where_the_worker_wrote_one():
    lost = failed(0, "lost", "5 attempts in a row died without a new checkpoint")
    lines = list(failures.advice_lines("mine", failures.find_early_ends([lost]), "files"))
    assert lines[0] == "1 of 1 trial failed: 5 attempts in a row died without a new checkpoint"
    assert "hpo retry mine --failed" in lines[1]
    assert len(lines) == 2
    lines = list(failures.advice_lines("mine", failures.find_early_ends([failed(3, "KeyError", "")]), "f"))
    assert lines[:2] == ["1 of 1 trial failed: KeyError", "  traceback of trial 3: f/0003/traceback.txt"]


def test_failures_of_other_tools_and_odd_attributes_are_counted():
    trials = [make_trial(0, TrialState.FAIL), make_trial(1, TrialState.FAIL, failure="q")]
    (found,) = failures.find_early_ends(trials)
    assert str(found) == "2 of 2 trials failed, each time: no reason is recorded"
    (long,) = failures.find_early_ends([failed(0, "ValueError", "x" * 5000)])
    assert len(long.reason) == failures.MAX_REASON_LENGTH
