"""What a page is made of: sections of figures and tables. Every figure has the table of what it shows.

Plotly reads a little HTML in its texts, so what comes from the store is escaped by ``text`` before it gets
into a figure. Tables hold plain values; the page escapes them, and CSV wants them as they are.
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
    """Values in rows; a text says a figure as it was printed."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_csv(self) -> bytes:
        """Give the table as CSV in UTF-8, every number with all its digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue().encode()


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure with its table; ``name`` is that of its CSV file."""

    name: str
    title: str
    figure: go.Figure
    table: Table
    caption: str = ""
    is_listed: bool = False  # the page shows its table open


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table that the page shows; ``name`` is that of its CSV file."""

    name: str
    title: str
    table: Table
    caption: str = ""
    shown: Table | None = None  # what the page shows of it, if not all columns


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; one without figures and tables says in ``text`` why."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    parts: tuple[Plot | Listing, ...] = ()
    narrow: bool = False  # its figures stand side by side


def make_table(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Give a table."""
    return Table(columns=tuple(columns), rows=tuple(tuple(row) for row in rows))


def figure_text(value: Any) -> str:
    """Give a value as a figure's text: escaped, and not too long."""
    plain = format_value(value)
    return html.escape(
        plain if len(plain) <= MAX_TEXT_LENGTH else f"{plain[: MAX_TEXT_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


def wrap_figure_text(value: str) -> str:
    """Give a text in full as a figure's, escaped, in lines that a legend and an axis have room for."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(value, MAX_TEXT_LENGTH))


def epoch_axis(most: int) -> dict[str, Any]:
    """Give the settings of an axis of epochs, from 1 to the last."""
    step = {"dtick": 1} if most <= 12 else {}
    return {"title": {"text": "epoch"}, "range": [0.6, most + 0.4], "tickformat": "d", **step}


def format_value(value: Any) -> str:
    """Give a value as people read it; a text, which may be a figure as printed, as it is."""
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
    """Give parameters as short text."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in params.items())


def make_figure(traces: Iterable[Any], *, x: Any = None, y: Any = None, height: int = 380) -> go.Figure:
    """Give a figure in the page's style; ``x`` and ``y`` are a title or an axis' settings."""
    made = go.Figure(list(traces))
    made.update_layout(
        template="none",
        height=height,
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#23303b"},
        margin={"l": 56, "r": 16, "t": 12, "b": 48},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hovermode="closest",
        xaxis=style_axis(x),
        yaxis=style_axis(y),
    )
    return made


def style_axis(given: Any) -> dict[str, Any]:
    """Give an axis' settings from its title, or from some of them."""
    settings = {"title": {"text": given}} if isinstance(given, str) else dict(given or {})
    return {
        "gridcolor": "#e6eaee",
        "linecolor": "#9aa5ad",
        "zeroline": False,
        "automargin": True,
        **settings,
    }


def write_csv_files(folder: Path, sections: Iterable[Section]) -> list[str]:
    """Write each figure's and table's CSV into a folder, and give the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for part in (part for section in sections for part in section.parts):
        names.append(f"{part.name}.csv")
        durable.write_file(folder / names[-1], part.table.to_csv())
    return names
