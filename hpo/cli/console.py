"""Text and tables for the terminal. Nothing here reads or changes the store."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hpo.analysis.all_studies import ReadStudy
from hpo.analysis.formatting import (
    describe_device,
    describe_split,
    describe_test_split,
    format_moment,
    format_objective,
    format_params,
    format_seconds,
)
from hpo.analysis.health import Problem
from hpo.analysis.importance import DASHBOARD_DIFFERS, Importance
from hpo.analysis.records import TrialRecord, other_objectives
from hpo.analysis.results import SettingResult, caveats, describe_value, name_place
from hpo.analysis.timeline import describe_attempt
from hpo.api.live_view import COLORS, problem_lines, status_headline, workers_view
from hpo.search.replicates import REPLICATE_OF
from hpo.store.attempts import Attempt
from hpo.store.plan import RUN_OPTIONS
from hpo.store.status import Status

if TYPE_CHECKING:
    from hpo.cli.doctor import Finding  # imports torch, which most verbs do without

NARROW = ("start", "end", "settings", "why it ended early")  # columns of trials whose cells may be wrapped


def open_console() -> Console:
    """Return a console on standard output, as wide as the terminal.

    Output to anything else gets 1000 columns, so that each table row stays on one line, unless COLUMNS is
    set.
    """
    here = Console(markup=False, highlight=False)  # names and messages may contain brackets
    if not here.is_terminal and "COLUMNS" not in os.environ:
        here.width = 1000
    return here


def print_view(view: RenderableType, here: Console | None = None) -> None:
    """Print a table or the like on standard output; on anything but a terminal without spaces at line ends.

    Args:
        view: What to print.
        here: The console; None: one that is as wide as ``open_console`` makes it.
    """
    here = here or open_console()
    if here.is_terminal:
        here.print(view)
        return
    with here.capture() as shown:  # rich fills each line up to the width of the table
        here.print(view)
    print(*(line.rstrip() for line in shown.get().splitlines()), sep="\n")


def print_table(table: Table) -> None:
    """Print a table on standard output with no value cut.

    Columns may be as narrow as their longest word, or as their longest value if they have ``no_wrap``. A
    terminal that is still too narrow wraps the rows; rich would leave out columns or cut values.

    Args:
        table: The table, with a padding of one column at both sides of a cell and no box.
    """
    here = open_console()
    unlimited = here.options.update(width=10_000)
    least, wanted = [], []
    for column in table.columns:
        sizes = [Measurement.get(here, unlimited, cell) for cell in (column.header, *column.cells)]
        wanted.append(max(size.maximum for size in sizes))
        least.append(wanted[-1] if column.no_wrap else max(size.minimum for size in sizes))
    spare, missing = here.width - 2 * len(least) - sum(least), sum(wanted) - sum(least)
    share = min(max(spare, 0) / missing, 1.0) if missing else 0.0
    for column, low, high in zip(table.columns, least, wanted, strict=True):
        column.width = low + int(share * (high - low))
    here.width = max(here.width, 2 * len(least) + sum(least))
    print_view(table, here)


def best_trial_text(found: SettingResult, where: Mapping[str, str], rank: int = 1) -> str:
    """Return one of a study's best results as text of several lines; what is unknown has no line.

    Args:
        found: The setting.
        where: Locations to list, by label: weights, curves, store.
        rank: Its place among the best settings, from 1.
    """
    trial = found.trial
    rows = {
        found.metric.label: f"{describe_value(found)} {describe_split(found.selection)}",
        **dict(caveats(found)),
        "settings": format_params(trial.params),
    }
    if trial.best_epoch is not None:
        took = f", {format_seconds(trial.wall_seconds)} in total" if trial.wall_seconds else ""
        rows["epoch"] = f"{trial.best_epoch} of {trial.epochs}{took}"
    if facts := trial.hardware_facts:
        rows["hardware"] = f"{describe_device(facts)}, torch {facts.get('torch', 'unknown')}"
    width = max(10, len(found.metric.label))
    lines = [f"  {name:<{width}} {text}" for name, text in {**rows, **where}.items()]
    headline = f"best trial {trial.number}" if rank == 1 else f"number {rank}: trial {trial.number}"
    return "\n".join([f"{headline} of study {found.study}", *lines])


def front_table(found: Sequence[SettingResult]) -> Table:
    """Return settings of a study with several objectives as a table, with a column for each objective.

    Those on the front come first, the best in the first objective on top.

    Args:
        found: The settings, at least one.
    """
    best = found[0].goals[0]
    rows = sorted(found, key=lambda each: (not each.is_on_front, -best.score(each.objectives[0])))
    table = Table(box=None, padding=(0, 1))
    table.add_column("trial", justify="right")
    for goal in found[0].goals:
        table.add_column(f"{goal.name} ({goal.direction[:3]})", justify="right", no_wrap=True)
    if found[0].is_repeated:
        table.add_column("seeds", justify="right")
    table.add_column("front", no_wrap=True)
    table.add_column("settings")
    for each in rows:
        named = zip(each.goals, each.objectives, strict=True)
        values = (format_objective(goal.name, value) for goal, value in named)
        place = "knee" if each.is_knee else "on it" if each.is_on_front else ""
        seeds = [str(len(each.runs))] if each.is_repeated else []
        table.add_row(str(each.trial.number), *values, *seeds, place, format_params(each.trial.params))
    return table


def trials_table(
    trials: Sequence[FrozenTrial],
    found: Sequence[TrialRecord],
    measure: str,
    attributes: Sequence[str] = (),
) -> Table:
    """Return trials as a table.

    A trial without a value shows the last one that it reported, dimmed. Where the best of its epochs is
    another one, it is added. A replicate's settings include its seed. With several objectives, the others
    have a column each, with what a trial has reached by its last epoch. Points are counted from 1. Times
    are local. A column that is empty in every row is left out.

    Args:
        trials: The trials, in the order of the rows.
        found: Their records.
        measure: The name of the metric, which heads its column.
        attributes: Names of attributes of points, such as the site: they may be the only difference
            between two points.
    """
    others = other_objectives(found)
    columns: dict[str, list[str | Text]] = {}
    for trial, each in zip(trials, found, strict=True):
        for name, cell in _trial_cells(trial, each, measure, others, attributes):
            columns.setdefault(name, []).append(cell)
    always = ("trial", "state", measure, "settings")
    shown = {name: cells for name, cells in columns.items() if name in always or any(map(str, cells))}
    table = Table(box=None, padding=(0, 1))
    for name in shown:
        table.add_column(name, no_wrap=name not in NARROW, overflow="fold")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _trial_cells(
    trial: FrozenTrial, found: TrialRecord, measure: str, others: Iterable[str], attributes: Iterable[str]
) -> Iterator[tuple[str, str | Text]]:
    """Yield the cells of a trial's row, by the names of their columns."""
    setting = trial.params or trial.system_attrs.get("fixed_params", {})
    style = "dim" if found.value is None else ""
    yield "trial", str(found.number)
    for name in ("point", *attributes):
        yield name, str(trial.user_attrs.get(name, ""))
    yield "state", Text(found.state, style=COLORS[found.state])
    yield measure, Text(found.value_text, style=style)
    yield from ((name, Text(_reached_text(found, name), style=style)) for name in others)
    yield "epochs", str(found.epochs or "")
    yield "seconds", f"{found.wall_seconds:.1f}" if found.wall_seconds else ""
    yield "start", format_moment(trial.datetime_start)
    yield "end", format_moment(trial.datetime_complete)
    yield "settings", format_params(setting | _replicate_seed(trial))
    yield "why it ended early", found.end_reason


def _reached_text(each: TrialRecord, objective: str) -> str:
    value = each.reached.get(objective)
    return "" if value is None else format_objective(objective, value)


def _replicate_seed(trial: FrozenTrial) -> dict[str, int]:
    """Return the seed of a replicate, which alone distinguishes the replicates of a setting."""
    run = trial.system_attrs.get(RUN_OPTIONS, {})
    return {"seed": run["seed"]} if REPLICATE_OF in trial.system_attrs and "seed" in run else {}


def status_view(found: Status, best: SettingResult | None, problems: Sequence[Problem]) -> RenderableType:
    """Return the status of a study: what is wrong, counts, best result, budgets, workers, and what waits.

    Args:
        found: The status.
        best: The best setting; None if no trial is complete.
        problems: What is wrong.
    """
    lines = [status_headline(found), *(f"note: {note}" for note in found.notes)]
    if best is not None:
        note = describe_split(found.selection)
        label = "" if best.has_several_goals else f"{best.metric.label} "
        place = name_place(best)
        lines.append(f"{place}: trial {best.trial.number}, {label}{describe_value(best)} {note}".rstrip())
        lines.append(f"      {format_params(best.trial.params)}")
        lines += [f"      {label}: {text}" for label, text in caveats(best)]
    if found.budgets:
        lines.append(f"budgets: {'; '.join(map(str, found.budgets))}")
    if found.seconds_left:
        lines.append(f"time left: about {format_seconds(found.seconds_left)}")
    lines += [str(each) for each in found.early_ends if each.state != "failed"]  # these are a problem
    return Group(*problem_lines(problems), *lines, *workers_view(found, problems))


def studies_table(found: Iterable[ReadStudy], unreadable: Iterable[str] = ()) -> Table:
    """Return the studies of a store and their best results as a table; trials are shown as ended/budget.

    Args:
        found: The studies.
        unreadable: Names of studies that cannot be read; they come last.
    """
    table = Table("study", "state", "trials", "best", box=None, padding=(0, 1))
    for read in found:
        each, best = read.status, read.best
        value = f"{describe_value(best)}{describe_test_split(each.selection)}" if best else ""
        table.add_row(each.study, each.state, f"{each.ended}/{each.budget}", value)
    for name in unreadable:
        table.add_row(name, "unreadable")
    return table


def trial_table(
    trial: FrozenTrial, found: TrialRecord, measure: str, attempts: Iterable[Attempt] = ()
) -> Table:
    """Return a trial's state, value, best epoch, parameters, attributes, reports and attempts as a table.

    Args:
        trial: The trial.
        found: Its record.
        measure: The name of the metric.
        attempts: The attempts at it, as far as the store has them.
    """
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("trial", str(found.number))
    table.add_row("state", found.state)
    table.add_row(measure, found.value_text if found.value is not None or found.reached else "")
    for name in other_objectives([found]):
        table.add_row(name, _reached_text(found, name))
    for name, moment in (("start", trial.datetime_start), ("end", trial.datetime_complete)):
        if moment is not None:
            table.add_row(name, format_moment(moment))
    for name, value in (*trial.params.items(), *trial.user_attrs.items()):
        table.add_row(name, json.dumps(value))
    for step, value in found.curve.items():
        table.add_row(f"epoch {step}", f"{value:.4f}")
    for each in attempts:
        table.add_row(f"attempt {each.attempt}", describe_attempt(each))
    return table


def importance_view(found: Importance) -> RenderableType:
    """Return importances as bars, with a note on parameters left out; a line if they cannot be told.

    Args:
        found: The importances by one evaluator.
    """
    table = Table(box=None, padding=(0, 1), show_header=False)
    for name, share in found.importances.items():
        table.add_row(name, f"{share:.3f}", Bar(size=1, begin=0, end=share, width=40))
    headline = f"importance by {found.evaluator}, over {found.trials} complete trials"
    if found.doubt:
        return Group(
            Text(f"{headline}, cannot be told: {found.doubt}"), Text(DASHBOARD_DIFFERS, style="dim")
        )
    notes = [f"left out because not every trial has it: {', '.join(found.left_out)}"] * bool(found.left_out)
    return Group(headline, table, *notes, Text(DASHBOARD_DIFFERS, style="dim"))


def findings_table(found: Iterable["Finding"]) -> Table:
    """Return the doctor's findings as a table."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    styles = {"works": "green", "absent": "dim", "doubtful": "yellow", "broken": "red"}
    for finding in found:
        text = f"{finding.message}{f'; {finding.advice}' if finding.advice else ''}"
        table.add_row(Text(finding.state, style=styles[finding.state]), finding.subject, text)
    return table
