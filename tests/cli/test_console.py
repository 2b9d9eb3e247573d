"""Tables in the terminal."""

import io
from dataclasses import replace
from datetime import datetime

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from hpo.analysis import records
from hpo.analysis.health import Problem
from hpo.api import live_view, shown_records
from hpo.api.worker_events import event_record
from hpo.cli import console
from hpo.log_records import OBJECTIVE, OUTPUT, OWN, SUPERVISOR, format_short, new_record
from hpo.store.status import Status
from hpo.study.definition import Definition, Point
from hpo.training.config import Config
from hpo.training.events import Epoch, EpochReported, TrialEnded, TrialStarted

STUDY = Definition(
    name="study", train=Config().model_dump(), points=(Point(setting={}, attributes={"site": "C"}),)
)
EPOCH = Epoch(number=1, value=0.5, train_seconds=1.0)
STATUS = Status(
    study="study",
    state="complete",
    trials={"complete": 1, "pruned": 0, "failed": 0, "running": 0, "waiting": 0},
    budget=1,
    budgets=(),
    early_ends=(),
    workers=(),
    selection="valid",
    waits=(),
    seconds_left=None,
)
NO_WORKERS = Problem(
    kind="no_workers",
    text="2 trials wait, and no worker has run",
    advice="'hpo launch study' starts some",
    needs_person=True,
)


def waiting_trial(number: int, **attributes: str) -> FrozenTrial:
    fixed = {"fixed_params": {"model": "resnet18", "lr": 0.001}}
    trial = create_trial(state=TrialState.WAITING, system_attrs=fixed, user_attrs=attributes)
    trial.number = number
    return trial


def test_the_trials_table_shows_the_site_of_each_trial():
    trials = [waiting_trial(0, site="C"), waiting_trial(1, site="L"), waiting_trial(2)]
    found = records.trial_records(STUDY, trials)
    table = console.trials_table(trials, found, "accuracy", STUDY.attribute_names)
    (sites,) = [list(column.cells) for column in table.columns if column.header == "site"]
    assert sites == ["C", "L", ""]


def test_a_table_has_no_spaces_at_the_ends_of_lines_in_a_pipe(capsys):
    trials = [waiting_trial(0, site="C"), waiting_trial(1, site="Lausanne")]
    found = records.trial_records(STUDY, trials)
    console.print_table(console.trials_table(trials, found, "accuracy", STUDY.attribute_names))
    console.print_view(console.trial_table(trials[1], found[1], "accuracy"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_study_without_sites_has_no_site_column():
    trials = [waiting_trial(0)]
    found = records.trial_records(STUDY, trials)
    table = console.trials_table(trials, found, "accuracy", STUDY.attribute_names)
    assert "site" not in [column.header for column in table.columns]


def ended_trial(number: int, **params: float | str) -> FrozenTrial:
    trial = create_trial(
        state=TrialState.PRUNED,
        value=0.25,
        params=params,
        distributions={name: CategoricalDistribution([value]) for name, value in params.items()},
        user_attrs={"point": number, "pruned": "no better than guessing after three epochs"},
        intermediate_values={1: 0.75, 2: 0.25},
    )
    trial.number = number
    trial.datetime_start = datetime(2026, 11, 30, 23, 59, 1, 999)
    trial.datetime_complete = datetime(2026, 12, 1, 0, 4, 5)
    return trial


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_table_of_trials_cuts_no_value(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    trials = [ended_trial(3, model="mobilenet_v3_large", lr=0.001234, momentum=0.9), waiting_trial(4)]
    table = console.trials_table(trials, records.trial_records(STUDY, trials), "balanced_accuracy")
    console.print_table(table)
    shown = capsys.readouterr().out
    texts = (
        "trial",
        "point",
        "balanced_accuracy",
        "settings",
        "mobilenet_v3_large,",
        "0.001234",
        "2026-11-30",
    )
    for text in (*texts, "23:59:01", "2026-12-01", "00:04:05", "0.2500 (best 0.7500, epoch 1)", "guessing"):
        assert text in shown, text


def test_a_column_that_is_empty_for_every_trial_is_left_out():
    trials = [waiting_trial(0)]
    table = console.trials_table(trials, records.trial_records(STUDY, trials), "accuracy")
    assert [column.header for column in table.columns] == ["trial", "state", "accuracy", "settings"]


def test_the_live_view_shows_settings_in_full_on_a_narrow_terminal():
    params = {"model": "convnext_tiny", "weight_decay": 0.0123, "label_smoothing": 0.1, "batch_size": 64}
    trial = create_trial(
        value=0.9,
        params=params,
        distributions={name: CategoricalDistribution([value]) for name, value in params.items()},
    )
    found = records.trial_records(STUDY, [trial])
    terminal = Console(width=80, file=io.StringIO())
    terminal.print(live_view.live_view(STATUS, found, None, rows=10))
    shown = " ".join(terminal.file.getvalue().split())
    assert "0.9000" in shown
    assert "model convnext_tiny, weight_decay" in shown
    assert "label_smoothing 0.1" in shown
    assert "batch_size 64" in shown


@pytest.mark.parametrize(("problems", "lines"), [((), 1), ((NO_WORKERS,), 0)])
def test_what_a_problem_says_is_not_repeated_among_what_waits(problems, lines):
    now = replace(STATUS, state="idle", waits=("2 trials for workers: 'hpo launch study' starts some",))
    assert len(live_view.workers_view(now, problems)) == lines


@pytest.mark.parametrize("name", [OWN, OBJECTIVE, OUTPUT, SUPERVISOR, "PIL.Image"])
def test_a_live_view_shows_what_it_does_not_say_itself(name):
    assert shown_records.is_news(new_record("trial 3 epoch 1/2", name=name))


def test_a_live_view_shows_that_a_trial_failed():
    record = event_record(TrialEnded(trial=3, state="failed", reason="no such file"))
    assert shown_records.is_news(record)
    assert format_short(record) == "trial 3 failed (no such file)"


@pytest.mark.parametrize(
    "event",
    [
        TrialStarted(trial=3, attempt=1, params={"lr": 0.1}, epochs=2, epochs_done=0),
        EpochReported(trial=3, epoch=EPOCH, epochs=2, metric="accuracy"),
        *(TrialEnded(trial=3, state=state, value=0.5, metric="f1") for state in ("complete", "pruned")),
        *(
            TrialEnded(trial=3, state=state, reason="why")
            for state in ("paused", "released", "removed", "lost")
        ),
    ],
    ids=lambda event: getattr(event, "state", type(event).__name__),
)
def test_a_live_view_leaves_out_the_progress_of_trials(event):
    assert not shown_records.is_news(event_record(event))


@pytest.mark.parametrize(("metric", "split"), [("accuracy", "validation"), ("test accuracy", "test")])
def test_a_printed_loss_names_its_split(metric, split):
    epoch = Epoch(number=1, value=0.5, train_seconds=1.0, train_loss=0.25, loss=1492629.75)
    line = live_view.event_line(EpochReported(trial=0, epoch=epoch, epochs=2, metric=metric))
    assert f"{split} loss 1492629.7500, training loss 0.2500" in line
