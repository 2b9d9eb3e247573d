"""A setting in a figure and in its table: one mark and one row, whatever the number of its seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpo.analysis import sections
from hpo.analysis.results import SettingResult, describe_value
from hpo.analysis.sections import Table


def noun(settings: Iterable[SettingResult]) -> str:
    """Return what the marks of a figure are: settings if they ran with several seeds, else trials."""
    return "setting" if any(each.is_repeated for each in settings) else "trial"


def seeds_note(settings: Iterable[SettingResult], text: str = "") -> str:
    """Return a sentence on what settings with several seeds are drawn as, before a text; else the text."""
    if not any(each.is_repeated for each in settings):
        return text
    note = "A setting is called by its first trial, and has the mean over its seeds."
    return f"{note} {text}".strip()


def hover_text(found: SettingResult) -> str:
    """Return the hover text of a setting: escaped, one parameter per line."""
    diverged = f"; {found.diverged} more diverged" if found.diverged else ""
    return mark_text(
        f"trial {found.trial.number}, complete: {describe_value(found)}{diverged}", found.trial.params
    )


def mark_text(headline: str, params: Mapping[str, Any]) -> str:
    """Return a hover text: a headline that needs no escaping, and one parameter per line."""
    lines = (
        f"{sections.figure_text(name)} {sections.figure_text(value)}" for name, value in params.items()
    )
    return "<br>".join([headline, *lines])


def setting_table(columns: Iterable[str], rows: Iterable[tuple[SettingResult, Sequence[Any]]]) -> Table:
    """Return a table with a row for each setting; in a study that repeats settings, with their seeds.

    Args:
        columns: The names of the columns.
        rows: Each setting with its values in these columns.
    """
    found = list(rows)
    if not any(each.is_repeated for each, _ in found):
        return sections.make_table(columns, (row for _, row in found))
    return sections.make_table((*columns, "seeds"), ((*row, len(each.runs)) for each, row in found))
