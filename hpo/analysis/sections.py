"""Sections of figures and tables, of which a report's page is made. Every figure comes with its table.

Plotly reads some HTML in its texts. Text from the store is therefore escaped by ``figure_text`` before it
goes into a figure. Tables hold plain values: the page escapes them, and CSV files want them unescaped.
"""

import csv
import html
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from hpo.artifacts import durable
from hpo.errors import quote_value

COLORS = ("#1f5fa8", "#d9822b", "#2e8b57", "#a83250", "#6b4fa0", "#5b6770", "#b8860b", "#008b8b")
STATE_COLORS = {
    "complete": "#2e8b57",
    "pruned": "#d9a21b",
    "failed": "#c0392b",
    "running": "#1f8fb8",
    "waiting": "#9aa5ad",
}
GREY = "#c3cad0"
COLOR_SCALE = [[0.0, "#dfe8f2"], [0.5, "#5d93c8"], [1.0, "#0b2f5c"]]
MAX_TEXT_LENGTH = 28  # characters of a text in a figure


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of values; a number that was printed elsewhere is kept as text, as it was printed."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_csv(self) -> bytes:
        """Return the table as CSV in UTF-8: every number with all its digits, an empty field for None."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue().encode()


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure with its table. Its CSV file is called ``name``."""

    name: str
    title: str
    figure: go.Figure
    table: Table
    caption: str = ""
    is_listed: bool = False  # the page shows the table unfolded
    min_width: int = 0  # pixels; on a narrower screen the figure scrolls


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table that the page shows. Its CSV file is called ``name``."""

    name: str
    title: str
    table: Table
    caption: str = ""
    shown: Table | None = None  # the columns that the page shows, if not all of them


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """Pictures with one label."""

    label: str
    pngs: tuple[bytes, ...]  # PNG files


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures that the page shows; they have no table and no CSV file."""

    name: str
    title: str
    rows: tuple[PictureRow, ...]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page. If it has no figures and no tables, ``text`` says why."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    parts: tuple[Plot | Listing | Pictures, ...] = ()
    narrow: bool = False  # its figures are placed side by side


def make_table(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table of these columns and rows."""
    return Table(columns=tuple(columns), rows=tuple(tuple(row) for row in rows))


def figure_text(value: Any) -> str:
    """Return a value as text for a figure: shortened to ``MAX_TEXT_LENGTH`` characters, then escaped."""
    text = format_value(value)
    if len(text) > MAX_TEXT_LENGTH:
        text = f"{text[: MAX_TEXT_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
    return html.escape(text)


def wrap_figure_text(value: str) -> str:
    """Return a text in full for a figure: in lines of ``MAX_TEXT_LENGTH`` characters at most, escaped."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(value, MAX_TEXT_LENGTH))


def epoch_axis(most: int) -> dict[str, Any]:
    """Return Plotly's settings for an axis of epochs, from 1 to ``most``; up to 12, each has a tick."""
    step = {"dtick": 1} if most <= 12 else {}
    return {"title": {"text": "epoch"}, "range": [0.6, most + 0.4], "tickformat": "d", **step}


def format_value(value: Any) -> str:
    """Return a value as readable text, not escaped.

    None is an en dash, a float has four digits, a time has its seconds, a text stays as it is. Anything
    else is written as in TOML, and shortened to 80 characters.
    """
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, float):
        return f"{value:.4g}"
    return quote_value(value)


def format_setting(params: Mapping[str, Any]) -> str:
    """Return parameters as short text, such as ``lr 0.001, batch_size 16``; see ``format_value``."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in params.items())


def make_figure(traces: Iterable[Any], *, x: Any = None, y: Any = None, height: int = 380) -> go.Figure:
    """Return a figure in the style of the page.

    Args:
        traces: Plotly's traces.
        x: The title of the x axis, or Plotly's settings for it.
        y: The same for the y axis.
        height: Pixels.
    """
    figure = go.Figure(list(traces))
    figure.update_layout(
        template="none",
        height=height,
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#23303b"},
        margin={"l": 56, "r": 16, "t": 12, "b": 48},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hovermode="closest",
        xaxis=style_axis(x),
        yaxis=style_axis(y),
    )
    return figure


def style_axis(given: Any) -> dict[str, Any]:
    """Return the settings of an axis in the style of the page.

    Args:
        given: The axis' title, or settings that add to the style or replace parts of it; None for neither.
    """
    settings = {"title": {"text": given}} if isinstance(given, str) else dict(given or {})
    return {
        "gridcolor": "#e6eaee",
        "linecolor": "#9aa5ad",
        "zeroline": False,
        "automargin": True,
        **settings,
    }


def write_csv_files(folder: Path, sections: Iterable[Section]) -> list[str]:
    """Write a CSV file for each figure and table, and return the files' names.

    Args:
        folder: Where to write; it is made if it does not exist. Files of the same names are replaced.
        sections: The sections of the page.

    Raises:
        OSError: The folder or a file cannot be written; files before it are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for part in (part for section in sections for part in section.parts):
        if not isinstance(part, Pictures):
            names.append(f"{part.name}.csv")
            durable.write_file(folder / names[-1], part.table.to_csv())
    return names
