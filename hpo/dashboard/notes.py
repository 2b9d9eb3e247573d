"""The notes (Markdown) that the dashboard shows for a study and for a trial, and the files of a trial."""

import re
from collections.abc import Iterator, Sequence

from optuna.trial import FrozenTrial, TrialState

from hpo.analysis import guessing, records, results
from hpo.analysis.formatting import describe_device, describe_split, format_objective, format_seconds
from hpo.analysis.importance import DASHBOARD_DIFFERS
from hpo.analysis.results import SettingResult
from hpo.analysis.timeline import describe_attempt
from hpo.store import status
from hpo.store.attempts import Attempt
from hpo.study.definition import Definition
from hpo.study.source_text import effective_text


def study_note(
    definition: Definition,
    text: str,
    best: SettingResult | None,
    importance_doubt: str,
    links: str = "",
) -> str:
    """Return the note of a study in Markdown: the metric, the best result, the budget, and the study file.

    Args:
        definition: The definition of the study.
        text: The study file as it is stored; the note shows it with what flags changed.
        best: Its best setting; None if no trial is complete.
        importance_doubt: Why the importance of parameters cannot be told; empty if it can.
        links: A line in Markdown with links to other pages.
    """
    doubt = [f"Parameter importance cannot be told: {importance_doubt}."] * bool(importance_doubt)
    if best is not None:
        doubt.append(f"`hpo importance` and the report measure importance alike. {DASHBOARD_DIFFERS}")
    split, metric = status.selection_of(definition), definition.metric
    how = "measured " if split else ""
    goal = f" and {metric.direction}d" if metric.name != "accuracy" or metric.is_minimized else ""
    if len(definition.objectives) > 1:
        goals = (f"{_escape_inline(each.label)} {each.direction}d" for each in definition.objectives)
        goal = f". The objectives are: {', '.join(goals)}"
    return "\n".join(
        [
            f"{_label(definition).capitalize()} is {how}{describe_split(split)}{goal}.",
            *(_best_result(best) if best else ()),
            f"The study runs {definition.setting_count} {_budget_unit(definition.search.replicates)}.",
            *doubt,
            *([f"\n{links}"] if links else ()),
            "",
            _code_block(effective_text(text), "toml"),
        ]
    )


def _label(definition: Definition) -> str:
    """Return the name of the metric in words, with Markdown characters escaped."""
    return _escape_inline(definition.metric.label)


def _best_result(best: SettingResult) -> Iterator[str]:
    """Yield the lines on the best setting; what optuna-dashboard calls best is the best single trial."""
    title = "knee of the Pareto front" if results.name_place(best) == "knee" else "best setting"
    value = _escape_inline(results.describe_value(best))
    yield f"The {title} so far is that of trial {best.trial.number}: {value}."
    yield ""
    yield from (f"- {label}: {text}" for label, text in results.caveats(best))
    yield ""


def _budget_unit(replicates: int) -> str:
    return "trials" if replicates == 1 else f"settings, each with up to {replicates} seeds"


def trial_note(found: FrozenTrial, definition: Definition, attempts: Sequence[Attempt] = ()) -> str:
    """Return the note of a trial in Markdown: its state, what happened to it, and where its weights are.

    A fact that the trial's attributes lack is left out.

    Args:
        found: The trial.
        definition: The definition of its study.
        attempts: The attempts at it, as far as the store has them.
    """
    told = (f"- attempt {each.attempt}: {_escape_inline(describe_attempt(each))}" for each in attempts)
    lines = [_headline(found, definition), "", *_facts(found, definition), *told]
    return "\n".join([*lines, *_failure(found)])


def _headline(found: FrozenTrial, definition: Definition) -> str:
    (record,) = records.trial_records(definition, [found])
    state, seen = record.state, found.user_attrs
    done = f" after epoch {record.epochs}" if record.curve else ""
    if found.state == TrialState.COMPLETE and record.value is not None:
        best = f" after epoch {record.best_epoch} of {record.epochs}," if record.curve else ""
        measured = describe_split(status.selection_of(definition))
        others = "".join(
            f", {_escape_inline(name.replace('_', ' '))} {format_objective(name, value)}"
            for name, value in record.reached.items()
            if name != record.metric.name and value is not None
        )
        stopped = f"; {record.end_reason}" if record.end_reason else ""
        return f"**{state}**: {_label(definition)} {record.value:.4f}{best} {measured}{others}{stopped}"
    if found.state == TrialState.PRUNED and "pruned" in seen:
        reached = f": {_label(definition)} {record.value_text}" if record.value is not None else ""
        return f"**{state}** {_escape_inline(str(seen['pruned']))}{reached}"
    if found.state == TrialState.WAITING and done:
        return f"**{state}**, continues{done}"
    return f"**{state}**{done}"


def _facts(found: FrozenTrial, definition: Definition) -> Iterator[str]:
    seen = found.user_attrs
    if "point" in seen:
        names = [name for name in definition.attribute_names if name in seen]
        attributes = "".join(f", {_escape_inline(f'{name} {seen[name]}')}" for name in names)
        yield f"- point {seen['point']} of the study file{attributes}"
    if "repeats" in seen:
        yield f"- same setting as trial {seen['repeats']}, with another seed"
    if seen.get("enqueued"):
        yield "- queued by hand"
    (record,) = records.trial_records(definition, [found])
    if record.curve and record.images is not None:
        guess = record.baseline
        known = "" if guess is None else f"; compare {guessing.describe_guessing(record.metric, guess)}"
        yield f"- measured on {record.images} images{known}"
    if "attempts" in seen:
        yield f"- attempts: {seen['attempts']}"
    if "wall_time_seconds" in seen:
        yield f"- time: {format_seconds(seen['wall_time_seconds'])} over all attempts"
    if hardware := seen.get("hardware"):
        host, torch = (_escape_inline(str(hardware.get(key, "unknown"))) for key in ("host", "torch"))
        yield f"- hardware: {_escape_inline(describe_device(hardware))} on {host}, torch {torch}"
    if seen.get("weights"):
        yield f"- weights: {_escape_inline(seen['weights'])}"


def _failure(found: FrozenTrial) -> Iterator[str]:
    if failure := found.user_attrs.get("failure"):
        yield f"- failure: {_escape_inline(failure.get('class', 'unknown'))}\n"
        yield _code_block(failure.get("message", ""))


def _escape_inline(text: str) -> str:
    """Return text as one line, with Markdown characters escaped."""
    return re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))


def _code_block(text: str, language: str = "") -> str:
    """Return text as a code block, with a fence of more backticks than the text contains."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def trial_files(found: FrozenTrial, folder: str | None) -> list[str]:
    """Return the names, within the artifacts, of the files that a trial may have.

    They are ``settings.json`` once it was claimed, ``epochs.csv`` once it has reported an epoch,
    ``traceback.txt`` if it failed, and its weights if they were kept. Whether they exist is not checked.

    Args:
        found: The trial.
        folder: The folder of its study, within the artifacts; None if it has none, then there are no files.
    """
    if folder is None:
        return []
    seen = found.user_attrs
    names = ["settings.json"] if "attempts" in seen else []
    names += ["epochs.csv"] if "epochs" in seen else []
    names += ["traceback.txt"] if found.state == TrialState.FAIL else []
    weights = [str(seen["weights"])] if seen.get("weights") else []
    return [f"{folder}/{found.number:04d}/{name}" for name in names] + weights
