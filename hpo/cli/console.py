"""Text, tables and live views for the terminal. Nothing here reads or changes the store."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpo.analysis.formatting import describe_split, end_reason, format_params, format_seconds
from hpo.analysis.importance import Importance
from hpo.search.replicates import REPLICATE_OF, ReplicatedSetting
from hpo.store.failures import advice_lines
from hpo.store.plan import RUN_OPTIONS
from hpo.store.status import STATE_NAMES, BestTrial, Status
from hpo.training.events import EpochReported, TrialEnded, TrialEvent, TrialStarted

if TYPE_CHECKING:
    from hpo.cli.doctor import Finding  # imports torch, which most verbs do without

COLORS = {"complete": "green", "running": "cyan", "pruned": "yellow", "failed": "red", "waiting": "dim"}


def open_console() -> Console:
    """Return a console on standard output, as wide as the terminal.

    Output to anything else gets 1000 columns, so that each table row stays on one line, unless COLUMNS is
    set.
    """
    here = Console(markup=False, highlight=False)  # names and messages may contain brackets
    if not here.is_terminal and "COLUMNS" not in os.environ:
        here.width = 1000
    return here


def event_line(event: TrialEvent) -> str:
    """Return an event as one line of plain text; of an epoch, only what it measured.

    Args:
        event: The start of a trial, an epoch's report, or the end of a trial.
    """
    if isinstance(event, TrialStarted):
        going = f", continues after epoch {event.epochs_done}" if event.epochs_done else ""
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        params = format_params(event.params)
        return f"trial {event.trial} starts: {params}, {event.epochs} epochs{again}{going}"
    if isinstance(event, EpochReported):
        e = event.epoch
        parts = [f"{event.metric} {e.accuracy:.4f}"] if e.accuracy is not None else []
        loss = ("loss", e.loss) if e.loss is not None else ("training loss", e.train_loss)
        parts += [f"{loss[0]} {loss[1]:.4f}"] if loss[1] is not None else []
        parts += [f"lr {e.lr:.4g}"] if e.lr is not None else []
        speed = f" ({e.images_per_second:.0f} images/s)" if e.images_per_second is not None else ""
        text = ", ".join([*parts, f"{e.seconds:.1f} s"])
        return f"trial {event.trial} epoch {e.number}/{event.epochs}: {text}{speed}"
    assert isinstance(event, TrialEnded)
    value = "" if event.accuracy is None else f", {event.metric} {event.accuracy:.4f}"
    return f"trial {event.trial} {event.state}{value}{f' ({event.reason})' if event.reason else ''}"


def best_trial_text(found: BestTrial, selection: str | None, where: Mapping[str, str]) -> str:
    """Return the best trial as text of several lines; what is unknown has no line.

    Args:
        found: The best trial.
        selection: The split that accuracy was measured on; None for a custom objective.
        where: Locations to list, by label: weights, curves, store.
    """
    rows = [
        f"best trial {found.trial} of study {found.study}",
        f"  accuracy   {found.accuracy:.4f} {describe_split(selection)}",
        *([f"  seeds      {_replicates_text(found.replicates)}"] if found.replicates else []),
        f"  settings   {format_params(found.params)}",
    ]
    if found.best_epoch is not None and found.wall_time_seconds is not None:
        took = format_seconds(found.wall_time_seconds)
        rows.append(f"  epoch      {found.best_epoch} of {found.epochs}, {took} in total")
    if found.hardware:
        rows.append(f"  hardware   {found.hardware['device']}, torch {found.hardware['torch']}")
    rows += [f"  {name:<10} {place}" for name, place in where.items()]
    return "\n".join(rows)


def _replicates_text(found: ReplicatedSetting) -> str:
    """Describe the accuracies of a setting over its seeds."""
    diverged = f"; {found.diverged} more diverged" if found.diverged else ""
    if len(found.trials) == 1:
        return f"one complete run{diverged or '; more seeds may follow'}"
    least, most = min(found.accuracies), max(found.accuracies)
    return f"mean {found.mean:.4f} of {len(found.trials)} runs, from {least:.4f} to {most:.4f}{diverged}"


def _test_split_note(selection: str | None) -> str:
    return " on the test split" if selection in ("test", "final") else ""


def live_view(
    status: Status,
    trials: list[FrozenTrial],
    epochs: Mapping[int, int],
    rows: int,
    *,
    stopping: bool = False,
) -> RenderableType:
    """Return the live view: a headline, the running trials with their epochs, and the last that ended.

    Args:
        status: The status of the study.
        trials: All trials of the study.
        epochs: Planned epochs by trial number.
        rows: Number of lines that the view may take. It always shows at least one trial.
        stopping: Whether the user has asked to stop, which the headline then says.
    """
    ended = sum(status.trials[state] for state in ("complete", "pruned", "failed"))
    parts = [status.state] if status.state in ("paused", "stopped") else []
    parts += [f"{ended} of {status.budget} trials"]
    parts += [f"{status.trials[s]} {s}" for s in ("pruned", "failed") if status.trials[s]]
    if status.best is not None:
        split = _test_split_note(status.selection)
        parts.append(f"best {status.best.accuracy:.4f}{split} (trial {status.best.trial})")
    if status.seconds_left:
        parts.append(f"about {format_seconds(status.seconds_left)} left")
    if stopping:
        parts.append("stopping: workers save and exit; press Ctrl-C again to kill them")
    running = [t for t in trials if t.state == TrialState.RUNNING]
    done = [t for t in trials if t.state.is_finished()]
    done.sort(key=lambda trial: trial.datetime_complete or trial.datetime_start, reverse=True)  # type: ignore[arg-type, return-value]  # a finished trial has a time
    table = Table(box=None, padding=(0, 1), expand=True)
    for name, width in (("trial", 5), ("state", 8), ("epochs", 14), ("best", 6)):
        table.add_column(name, width=width, no_wrap=True)
    table.add_column("settings", ratio=1, no_wrap=True, overflow="ellipsis")
    for trial in [*running, *done][: max(rows - 3, 1)]:
        table.add_row(*_live_row(trial, epochs.get(trial.number)))
    return Group(Text(f"{status.study}: {', '.join(parts)}", style="bold"), table)


def _live_row(trial: FrozenTrial, planned: int | None) -> tuple[RenderableType, ...]:
    state = STATE_NAMES[trial.state]
    count = max(len(trial.intermediate_values), trial.user_attrs.get("epochs", 0))
    total = planned or count
    accuracy = max(trial.intermediate_values.values(), default=math.nan)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(Bar(size=max(total, 1), begin=0, end=count, width=7), f"{count}/{total}")
    return (
        str(trial.number),
        Text(state, style=COLORS[state]),
        bar,
        "" if math.isnan(accuracy) else f"{accuracy:.4f}",
        format_params(trial.params),
    )


def trials_table(trials: list[FrozenTrial], measure: str, attributes: Sequence[str] = ()) -> Table:
    """Return trials as a table.

    A trial without an accuracy shows the last one that it reported, dimmed. A replicate's settings include
    its seed.

    Args:
        trials: The trials, in the order of the rows.
        measure: The name of the metric, which heads its column.
        attributes: Names of attributes of points. Each that any trial has gets a column, since it may be
            the only difference between two points.
    """
    table = Table(box=None, padding=(0, 1))
    attributes = [name for name in attributes if any(name in trial.user_attrs for trial in trials)]
    for name in (
        "trial",
        "state",
        measure,
        "epochs",
        "seconds",
        *attributes,
        "settings",
        "why it ended early",
    ):
        table.add_column(name, no_wrap=name not in ("settings", "why it ended early"))
    for trial in trials:
        state = STATE_NAMES[trial.state]
        wall = trial.user_attrs.get("wall_time_seconds")
        table.add_row(
            str(trial.number),
            Text(state, style=COLORS[state]),
            _accuracy_cell(trial),
            str(trial.user_attrs.get("epochs", "")),
            "" if wall is None else f"{wall:.1f}",
            *(str(trial.user_attrs.get(name, "")) for name in attributes),
            format_params(
                (trial.params or trial.system_attrs.get("fixed_params", {})) | _replicate_seed(trial)
            ),
            end_reason(trial),
        )
    return table


def _accuracy_cell(trial: FrozenTrial) -> Text:
    """Return the final accuracy of a trial or, dimmed, the last one that it reported."""
    if trial.value is not None:
        return Text(f"{trial.value:.4f}")
    last = trial.intermediate_values.get(trial.last_step or 0)
    return Text("" if last is None else f"{last:.4f}", style="dim")


def _replicate_seed(trial: FrozenTrial) -> dict[str, int]:
    """Return the seed of a replicate, which alone distinguishes the replicates of a setting."""
    return {"seed": trial.system_attrs[RUN_OPTIONS]["seed"]} if REPLICATE_OF in trial.system_attrs else {}


def status_headline(found: Status) -> str:
    """Return the state of a study, its trial counts other than 0 and its budget as one line."""
    counts = ", ".join(f"{count} {state}" for state, count in found.trials.items() if count)
    return f"study {found.study} is {found.state}: {counts} (budget {found.budget})"


def status_view(found: Status, files: str) -> RenderableType:
    """Return the status of a study: counts, best trial, budgets, time left, workers, and what waits.

    Args:
        found: The status.
        files: Path or URL of the study's files.
    """
    lines = [status_headline(found)]
    if found.best is not None:
        note = describe_split(found.selection)
        lines.append(f"best: trial {found.best.trial}, accuracy {found.best.accuracy:.4f} {note}")
        lines.append(f"      {format_params(found.best.params)}")
    if found.budgets:
        lines.append(f"budgets: {'; '.join(map(str, found.budgets))}")
    if found.seconds_left:
        lines.append(f"time left: about {format_seconds(found.seconds_left)}")
    lines += advice_lines(found.study, found.early_ends, files)
    return Group(*lines, *workers_view(found))


def workers_view(found: Status) -> list[RenderableType]:
    """Return the table of workers and a line for each thing that waits; empty if there is neither."""
    waits = [Text(f"waits: {wait}", style="dim") for wait in found.waits]
    return [*([_workers_table(found)] if found.workers else []), *waits]


def _workers_table(found: Status) -> Table:
    """Return the workers that hold trials, with the last heartbeat and the time left on each lease."""
    names = ("worker", "device", "trial", "attempt", "epoch", "heartbeat", "lease")
    table = Table(*names, box=None, padding=(0, 1))
    for worker in found.workers:
        seconds_left = worker.expires_in_seconds
        table.add_row(
            worker.owner,
            worker.device,
            str(worker.trial),
            str(worker.attempt),
            str(worker.epoch),
            f"{worker.silent_seconds:.0f} s ago",
            f"{seconds_left:.0f} s" if seconds_left > 0 else Text("expired", style="red"),
        )
    return table


def studies_table(found: Iterable[Status]) -> Table:
    """Return the studies of a store as a table; trials are shown as ended/budget."""
    table = Table("study", "state", "trials", "best", box=None, padding=(0, 1))
    for each in found:
        ended = sum(each.trials[state] for state in ("complete", "pruned", "failed"))
        accuracy = f"{each.best.accuracy:.4f}{_test_split_note(each.selection)}" if each.best else ""
        table.add_row(each.study, each.state, f"{ended}/{each.budget}", accuracy)
    return table


def trial_table(found: FrozenTrial, measure: str) -> Table:
    """Return a trial's state, accuracy, parameters, user attributes and reports as a table.

    Args:
        found: The trial.
        measure: The name of the metric.
    """
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("trial", str(found.number))
    table.add_row("state", STATE_NAMES[found.state])
    table.add_row(measure, "" if found.value is None else f"{found.value:.4f}")
    for name, value in (*found.params.items(), *found.user_attrs.items()):
        table.add_row(name, json.dumps(value))
    for step, accuracy in sorted(found.intermediate_values.items()):
        table.add_row(f"epoch {step}", f"{accuracy:.4f}")
    return table


def importance_view(found: Importance) -> RenderableType:
    """Return importances as bars, with notes on parameters left out and on unreliable results.

    Args:
        found: The importances by one evaluator.
    """
    table = Table(box=None, padding=(0, 1), show_header=False)
    for name, share in found.importances.items():
        table.add_row(name, f"{share:.3f}", Bar(size=1, begin=0, end=share, width=40))
    headline = f"importance by {found.evaluator}, over {found.trials} complete trials"
    notes = [f"left out because not every trial has it: {', '.join(found.left_out)}"] * bool(found.left_out)
    notes += [f"these shares are not reliable: {found.doubt}"] * bool(found.doubt)
    return Group(headline, table, *notes)


def findings_table(found: Iterable["Finding"]) -> Table:
    """Return the doctor's findings as a table."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    styles = {"works": "green", "absent": "dim", "doubtful": "yellow", "broken": "red"}
    for finding in found:
        text = f"{finding.message}{f'; {finding.advice}' if finding.advice else ''}"
        table.add_row(Text(finding.state, style=styles[finding.state]), finding.subject, text)
    return table
