"""The page of a report and its CSV files, read back."""

import csv
import json
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.artifacts.folders import Artifacts
from hpo.report.page import read_report, write_report
from hpo.store.storage import Storage
from tests.support.workplace import Workplace


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A stored study and its report."""

    url: str
    page: "Page"
    text: str
    tables: dict[str, list[dict[str, str]]]
    study: optuna.Study  # as Optuna reads it
    folder: Path

    @property
    def complete(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.trials if trial.state == TrialState.COMPLETE]


class Page(HTMLParser):
    """The tables of a page as text, its figures by id, and the names of its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.figures: dict[str, Any] = {}
        self.words: list[str] = []
        self._figure: str | None = None
        self._skips = False
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._figure = dict(attrs).get("data-for") if tag == "script" else None
        self._skips = tag in ("script", "style")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._skips, self._figure = False, None

    def handle_data(self, data: str) -> None:
        if self._figure:
            self.figures[self._figure] = json.loads(data)
        elif not self._skips:
            self.words.append(data)
            if self.tables and self.tables[-1] and self.tables[-1][-1]:
                self.tables[-1][-1][-1] = f"{self.tables[-1][-1][-1]} {data.strip()}".strip()


def write_and_parse(
    storage: Storage, name: str, folder: Path, artifacts: Path | None = None
) -> tuple[Page, dict[str, list[dict[str, str]]]]:
    """Write a report; return its page, and the rows of its CSV files by name."""
    found = read_report(storage, name, Artifacts(str(artifacts or folder / "artifacts")))
    files = write_report(found, folder / "page.html", folder / "csv")
    tables = {}
    for file in files:
        with (folder / "csv" / file).open(newline="") as lines:
            tables[file.removesuffix(".csv")] = list(csv.DictReader(lines))
    return Page((folder / "page.html").read_text()), tables


def numbers(rows: list[dict[str, str]], column: str) -> list[float | None]:
    return [float(row[column]) if row[column] else None for row in rows]


def points(page: Page, figure: str, name: str | None = None) -> list[tuple[Any, Any]]:
    """Return the points of a figure's scatter traces, or of those with a name."""
    data = page.figures[f"plot-{figure}"]["data"]
    traces = [trace for trace in data if name in (None, trace.get("name")) and trace["type"] == "scatter"]
    return [
        pair for trace in traces for pair in zip(trace["x"], trace["y"], strict=True) if pair[1] is not None
    ]


def table_of(place: Workplace, name: str) -> list[dict[str, str]]:
    """Return the rows of a table that ``hpo report --csv tables`` wrote."""
    with (place.path / f"tables/{name}.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))
