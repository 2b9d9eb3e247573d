"""Trials that stop early: what is stored, what the pruner is asked, and what is said of them."""

from optuna.trial import TrialState

from hpo.workers import trial as trials
from tests.support.workplace import load

STUDY = """
[train]
dataset = "digits"
image_size = 32
limit = 16
batch_size = 8
model = "shufflenet_v2_x0_5"
weights = "none"
tune = "head"
lr = 1e-12
epochs = 20
early_stopping = 3

[space]
weight_decay = [0.0, 0.1]

[search]
trials = 2
chance_epochs = 0
sampler = "random"
pruner = { name = "asha", min_epochs = 4, reduction_factor = 2 }
"""
REASON = "stopped after epoch 4: no better value for 3 epochs"


def test_a_trial_without_progress_is_complete_with_its_best_epoch_and_the_reason_is_told(workplace):
    workplace.here("create", workplace.study(STUDY))
    done = workplace.here("worker", "small")
    assert f"({REASON})" in done.out + done.err
    found = load(workplace).trials
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    for trial in found:
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
        assert trial.value == trial.intermediate_values[1]
        assert (trial.user_attrs["best_epoch"], trial.user_attrs["epochs"]) == (1, 4)
        assert trial.user_attrs["weights"].endswith("weights-0001-001.safetensors")
    table = workplace.here("trials", "small", COLUMNS="300").out
    assert table.count(REASON) == 2
    workplace.here("report", "small", "-o", "page.html")
    assert REASON in (workplace.path / "page.html").read_text()
    assert "is complete: 2 complete" in workplace.here("status", "small").out


def test_a_trial_whose_worker_died_before_its_end_still_stops_there(workplace, monkeypatch):
    workplace.here("create", workplace.study(STUDY))
    complete = trials.complete_trial

    def die(*args, **options):
        monkeypatch.setattr(trials, "complete_trial", complete)
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "complete_trial", die)
    workplace.here("worker", "small", code=130)
    (first, _) = load(workplace).trials
    assert first.state == TrialState.WAITING
    assert 4 in first.intermediate_values  # a rung, at which it would pause
    workplace.here("worker", "small")
    found = load(workplace).trials
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 2
    assert [max(trial.intermediate_values) for trial in found] == [4, 4]
    assert not any("hpo:paused" in trial.system_attrs for trial in found)
