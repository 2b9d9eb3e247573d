"""The HTML page of the report: its numbers and sections, in a browser, and with hostile names."""

import csv
import functools
import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
from optuna import importance
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.analysis import importance as hpo_importance
from hpo.analysis import records
from hpo.original import facts, match
from hpo.original.tables import original_section
from hpo.report import summary
from hpo.report.page import read_report, write_report
from hpo.search.replicates import REPLICATE_OF
from hpo.store import plan, studies
from hpo.store.storage import Storage
from hpo.study.definition import Definition, dump_definition
from hpo.study.file import load_study_file
from tests.support.databases import closed_engines
from tests.support.workplace import ROOT, Workplace

CPU = {"device": "Xeon", "host": "a", "torch": "2.14", "threads": 2, "precision": "fp32"}
GPU = {"device": "NVIDIA H100", "host": "b", "torch": "2.14", "threads": 8, "precision": "tf32"}
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
IMAGES = 10_000
SEARCH = """
[train]
dataset = "digits"
image_size = 64
weights = "none"
epochs = 6
[space]
model = ["resnet18", "alexnet"]
optimizer = ["sgd", "adam"]
lr = { low = 1e-4, high = 1e-1, log = true }
momentum = { low = 0.5, high = 0.95, when = { optimizer = "sgd" } }
batch_size = [16, 32]
[search]
trials = 2
"""


def make_trial(
    definition: Definition,
    params: dict[str, Any],
    curve: list[float],
    number: int,
    *,
    state: TrialState = TrialState.COMPLETE,
    seconds: float = 2.0,
    hardware: dict[str, Any] | None = None,
    **more: Any,
) -> FrozenTrial:
    """Return a finished trial with the attributes that a worker stores."""
    parameters = definition.parameters()
    durations = [round(seconds + 0.01 * epoch, 4) for epoch in range(len(curve))]
    attributes = {
        "epoch_seconds": durations,
        "wall_time_seconds": round(sum(durations), 4),
        "hardware": hardware or CPU,
        "images": IMAGES,
        "baseline": 0.1,
    }
    value = {TrialState.COMPLETE: max, TrialState.PRUNED: lambda values: values[-1]}.get(state)
    trial = create_trial(
        state=state,
        value=value(curve) if value else None,
        params=params,
        distributions={name: parameters[name].distribution() for name in params},
        intermediate_values=dict(enumerate(curve, 1)),
        user_attrs={"attempts": 1, "epochs": len(curve), **attributes, **more},
    )
    trial.datetime_start = (START + timedelta(seconds=30 * number)).astimezone().replace(tzinfo=None)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=25)
    return trial


def store_study(url: str, definition: Definition, trials: Iterable[FrozenTrial]) -> Storage:
    """Store a study with exactly these trials."""
    without_trials = definition.search.model_copy(update={"trials": 0})
    definition = definition.model_copy(update={"search": without_trials})
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, definition.model_copy(update={"points": ()}), "text")
    study_id = studies.find_study_id(storage, definition.name)
    storage.set_study_system_attr(study_id, plan.DEFINITION, dump_definition(definition))
    optuna.load_study(study_name=definition.name, storage=storage).add_trials(trials)
    return storage


def make_curve(rng: random.Random, count: int, best: float) -> list[float]:
    """Return a rising curve of accuracies that are fractions of IMAGES images."""
    rising = sorted(rng.uniform(0.5 * best, best) for _ in range(count - 1))
    return [round(value, 4) for value in rising] + [round(best, 4)]


def grid_definition() -> Definition:
    """Return the original's 14 points with fewer epochs and smaller images."""
    return load_study_file(ROOT / "studies/original-grid.toml", ["train.epochs=4", "train.image_size=64"])


def store_grid(url: str) -> Storage:
    """Store a replay of the original's points: those of site C on a CPU, those of site L on a GPU."""
    rng, definition, trials = random.Random(0), grid_definition(), []
    for number, point in enumerate(definition.points):
        curve = make_curve(rng, 4, rng.uniform(0.3, 0.97))
        hardware = CPU if point.attributes["site"] == "C" else GPU
        more = {"point": number + 1, **point.attributes, "hardware": hardware}
        trials.append(
            make_trial(definition, point.setting, curve, number, seconds=rng.uniform(1, 9), **more)
        )
    return store_study(url, definition, trials)


def store_search(url: str, name: str = "search") -> Storage:
    """Store a search of 30 trials: some pruned, one failed, one with three attempts."""
    rng, path = random.Random(1), Path(url.removeprefix("sqlite:///")).with_name(f"{name}.toml")
    path.write_text(SEARCH)
    definition = load_study_file(path)
    trials = []
    for number in range(30):
        params: dict[str, Any] = {
            "model": rng.choice(["resnet18", "alexnet"]),
            "optimizer": rng.choice(["sgd", "adam"]),
            "lr": 10 ** rng.uniform(-4, -1),
            "batch_size": rng.choice([16, 32]),
        }
        if params["optimizer"] == "sgd":
            params["momentum"] = rng.uniform(0.5, 0.95)
        best = 0.95 - 0.1 * abs(math.log10(params["lr"]) + 2.5) + rng.uniform(0, 0.04)
        hardware = GPU if number % 3 == 0 else CPU
        more: dict[str, Any] = {"hardware": hardware, "seconds": rng.uniform(0.5, 1.5)}
        curve = make_curve(rng, 6, best)
        if number % 4 == 3:
            more |= {"state": TrialState.PRUNED, "pruned": "by hyperband after epoch 2"}
            curve = curve[:2]
        if number == 12:
            failure = {"class": "RuntimeError", "message": "an error"}
            more |= {"state": TrialState.FAIL, "failure": failure}
            curve = curve[:1]
        if number == 5:
            more["attempts"] = 3
        trials.append(make_trial(definition, params, curve, number, **more))
    return store_study(url, definition, trials)


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


@pytest.fixture(scope="module", autouse=True)
def few_bootstrap_samples():
    """Draw few samples and grow small forests for them; tests of importance check the number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpo_importance, "resample_count", lambda trials: 6)
        patch.setattr(hpo_importance, "BOOTSTRAP_TREES", 4)
        yield


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Return a function that stores a study and returns its report; it caches the result."""

    @functools.cache
    def report_of(make: Callable[[str], Storage]) -> Reported:
        folder = tmp_path_factory.mktemp(make.__name__)
        url = f"sqlite:///{folder}/hpo.db"
        storage = make(url)
        (name,) = studies.study_names(storage)
        page, tables = write_and_parse(storage, name, folder)
        text = (folder / "page.html").read_text()
        study = optuna.load_study(study_name=name, storage=url)
        return Reported(url=url, page=page, text=text, tables=tables, study=study, folder=folder)

    with closed_engines():
        yield report_of


@pytest.fixture
def sqlite_url(tmp_path):
    with closed_engines():
        yield f"sqlite:///{tmp_path}/hpo.db"


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
    storage: Storage, name: str, folder: Path
) -> tuple[Page, dict[str, list[dict[str, str]]]]:
    """Write a report; return its page, and the rows of its CSV files by name."""
    files = write_report(read_report(storage, name), folder / "page.html", folder / "csv")
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


@pytest.mark.parametrize("make", [store_grid, store_search])
def test_every_number_equals_what_optuna_reads_from_the_same_store(reported, make):
    found = reported(make)
    page, tables, study = found.page, found.tables, found.study
    trials, done = study.trials, found.complete

    assert f"{study.best_value:.4f}" in page.text
    assert f"trial {study.best_trial.number} " in page.text

    assert [int(row["trial"]) for row in tables["trials"]] == [trial.number for trial in trials]
    assert numbers(tables["trials"], "accuracy") == [trial.value for trial in trials]
    for attribute in ("wall_time_seconds", "attempts"):
        assert numbers(tables["trials"], attribute) == [trial.user_attrs[attribute] for trial in trials]
    for parameter in {name for trial in trials for name in trial.params}:
        values = [row[parameter] for row in tables["trials"]]
        assert values == [str(trial.params.get(parameter, "")) for trial in trials]

    valued = [trial for trial in trials if trial.value is not None]
    assert numbers(tables["history"], "accuracy") == [trial.value for trial in valued]
    best_so_far = [max(t.value for t in done if t.number <= trial.number) for trial in done]
    assert [n for n in numbers(tables["history"], "best so far") if n is not None] == best_so_far
    assert points(page, "history", "complete") == [(trial.number, trial.value) for trial in done]
    assert points(page, "history", "best so far") == list(
        zip([t.number for t in done], best_so_far, strict=True)
    )

    reports = [(t.number, step, v) for t in trials for step, v in t.intermediate_values.items()]
    assert [
        (int(row["trial"]), int(row["epoch"]), float(row["accuracy"])) for row in tables["curves"]
    ] == reports
    assert sorted(points(page, "curves")) == sorted((step, value) for _, step, value in reports)

    for table, rows in tables.items():
        parameter = list(rows[0])[1]
        if table.startswith("slice-"):
            having = [trial for trial in done if parameter in trial.params]
            assert [row[parameter] for row in rows] == [str(t.params[parameter]) for t in having]
            assert numbers(rows, "accuracy") == [trial.value for trial in having]
            assert [y for _, y in points(page, table)] == [trial.value for trial in having]
        if table.startswith("rank-"):
            order = sorted(done, key=lambda t: -t.value)
            assert [str(order[int(float(row["rank"])) - 1].number) for row in rows] == [
                row["trial"] for row in rows
            ]
        if table.startswith(("rank-", "contour-")):
            by_number = {str(trial.number): trial for trial in done}
            assert numbers(rows, "accuracy") == [by_number[row["trial"]].value for row in rows]
            assert [row[parameter] for row in rows] == [
                str(by_number[row["trial"]].params[parameter]) for row in rows
            ]
            assert len(points(page, table)) >= len(rows)

    for row, trial in zip(tables["timeline"], trials, strict=True):
        utc = trial.datetime_start.astimezone(UTC).replace(tzinfo=None)
        assert datetime.fromisoformat(row["started"]) == utc

    for row in tables["pareto"]:
        trial = trials[int(row["trial"])]
        assert (float(row["wall_time_seconds"]), float(row["accuracy"])) == (
            trial.user_attrs["wall_time_seconds"],
            trial.value,
        )
        same = [t for t in done if t.user_attrs["hardware"] == trial.user_attrs["hardware"]]
        beaten = any(
            t.user_attrs["wall_time_seconds"] <= trial.user_attrs["wall_time_seconds"]
            and t.value >= trial.value
            and t.number != trial.number
            for t in same
        )
        assert row["on the front"] == str(not beaten)
    assert len(tables["pareto"]) == len(done)


@pytest.mark.parametrize("make", [store_grid, store_search])
def test_importances_equal_those_of_optuna_and_have_bootstrap_intervals(reported, make):
    found = reported(make)
    page, tables, study, count = found.page, found.tables, found.study, len(found.complete)
    quantile = min(max(10 / count, 0.1), 0.5)
    evaluators = {
        "ped-anova": importance.PedAnovaImportanceEvaluator(target_quantile=quantile),
        "fanova": importance.FanovaImportanceEvaluator(seed=0),
        "mdi": importance.MeanDecreaseImpurityImportanceEvaluator(seed=0),
    }
    for name, evaluator in evaluators.items():
        expected = importance.get_param_importances(study, evaluator=evaluator)
        rows = [row for row in tables["importance"] if row["evaluator"] == name]
        assert {row["parameter"]: float(row["importance"]) for row in rows} == pytest.approx(expected)
        assert {int(row["trials"]) for row in rows} == {count}
        shares = dict(zip([row["parameter"] for row in rows], numbers(rows, "importance"), strict=True))
        (trace,) = [t for t in page.figures["plot-importance"]["data"] if t["name"] == name]
        assert sorted(trace["x"]) == pytest.approx(sorted(shares.values()))
        assert all(0 <= float(row["low"]) <= float(row["high"]) <= 1 for row in rows)
        assert any(float(row["low"]) < float(row["high"]) for row in rows)
    assert f"Over {count} complete trials" in page.text


def test_device_time_is_divided_by_hardware_and_by_the_outcome_of_trials(reported):
    report = reported(store_search)
    page, tables, trials = report.page, report.tables, report.study.trials
    found = {
        (r["hardware"], r["use"]): (int(r["trials"]), float(r["seconds"])) for r in tables["device-time"]
    }
    for kind, hardware in (("Xeon, 2 threads", CPU), ("NVIDIA H100, TF32", GPU)):
        these = [trial for trial in trials if trial.user_attrs["hardware"] == hardware]
        for use, state in (("complete", TrialState.COMPLETE), ("pruned", TrialState.PRUNED)):
            wall = [t.user_attrs["wall_time_seconds"] for t in these if t.state == state]
            assert found.pop((kind, use)) == (len(wall), pytest.approx(sum(wall)))
        pruned = [t.user_attrs["epoch_seconds"] for t in these if t.state == TrialState.PRUNED]
        saved = sum((6 - len(each)) * sum(each) / len(each) for each in pruned)
        assert found.pop((kind, "saved by pruning, estimated")) == (len(pruned), pytest.approx(saved))
    failed, again = trials[12], trials[5]
    assert found.pop(("NVIDIA H100, TF32", "failed")) == (1, failed.user_attrs["wall_time_seconds"])
    lost = 25 - again.user_attrs["wall_time_seconds"]
    kind = "Xeon, 2 threads"
    assert found.pop((kind, "repeated or waited for, at most")) == (1, pytest.approx(lost))
    assert not found
    assert "The work lost by workers that died is not recorded" in page.text


def test_the_tables_of_the_original_show_its_printed_values_beside_those_of_this_study(reported):
    found = reported(store_grid)
    page, tables, trials = found.page, found.tables, found.study.trials
    by_point = {trial.user_attrs["point"]: trial for trial in trials}
    for row, number in zip(tables["original-4.1"], range(1, 7), strict=True):
        point, seconds = facts.POINTS[number], by_point[number].user_attrs["epoch_seconds"]
        mean = sum(seconds) / len(seconds)
        assert list(row.values()) == [
            *(facts.MODELS[point.model], facts.OPTIMIZERS[point.optimizer]),
            *(point.accuracy, f"{by_point[number].value:.4f}", point.epoch_seconds, f"{mean:.4g}"),
        ]
    assert [row["accuracy there"] for row in tables["original-4.1"]] == [
        *("0.9466", "0.6171", "0.9455", "0.1201", "0.9568", "0.9233"),
    ]
    (table,) = [table for table in page.tables if table[0][2:3] == ["accuracy there"]]
    assert table[0][3] == "test accuracy here"
    assert [row[2] for row in table[1:]] == [row["accuracy there"] for row in tables["original-4.1"]]
    times = [(row["batch size"], row["s/epoch there"]) for row in tables["original-4.4-times"]]
    assert times == [("8", "115.7"), ("16", "96.25"), ("32", "84.2"), ("64", "82.65")]
    for part, numbers_ in (("4.2", (7, 8, 9)), ("4.3", (8, 10, 11)), ("4.4", (12, 8, 13, 14))):
        expected = [
            (str(number), str(step), value)
            for number in numbers_
            for step, value in by_point[number].intermediate_values.items()
        ]
        rows = tables[f"original-{part}"]
        assert [(row["point"], row["epoch"], float(row["accuracy"])) for row in rows] == expected
        plotted = sorted(points(page, f"original-{part.replace('.', '-')}"))
        assert plotted == sorted((int(step), value) for _, step, value in expected)


@pytest.mark.parametrize(("make", "measure"), [(store_grid, "test accuracy"), (store_search, "accuracy")])
def test_the_trials_table_names_the_accuracy_that_it_shows(reported, make, measure):
    (table,) = [table for table in reported(make).page.tables if "settings" in table[0]]
    assert table[0][:3] == ["trial", "state", measure]


def test_mixed_hardware_has_a_column_of_seconds_per_kind(reported):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    params = {"model": "alexnet", "optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "batch_size": 16}
    more = make_trial(definition, params, [0.5, 0.75], 20, site="C", point=1, hardware=GPU, seconds=0.5)
    found = match.match_trials(records.trial_records(definition, [*trials, more]))
    models = original_section(found, IMAGES, "test accuracy").parts[0].table
    assert models.columns[-2:] == ("s/epoch here, Xeon, 2 threads", "s/epoch here, NVIDIA H100, TF32")
    seconds = trials[0].user_attrs["epoch_seconds"]
    assert models.rows[0][-2:] == (f"{sum(seconds) / len(seconds):.4g}", "0.505")
    assert models.rows[1][-1] is None


def test_points_of_one_epoch_are_bars_rather_than_single_dots(reported):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    short = [
        make_trial(definition, t.params, [t.value], t.number, site=t.user_attrs["site"]) for t in trials
    ]
    found = match.match_trials(records.trial_records(definition, short))
    rates = original_section(found, IMAGES, "test accuracy").parts[1]
    assert rates.title == "4.2 Test accuracy after each epoch, by learning rate"
    (bars,) = rates.figure.data
    assert (bars.type, list(bars.y)) == ("bar", [short[number - 1].value for number in (7, 8, 9)])
    assert [row[-1] for row in rates.table.rows] == list(bars.y)


@pytest.mark.parametrize("curve", [[0.1], [0.05, 0.1]])
def test_several_seeds_of_a_point_are_one_mean_with_its_interval(reported, curve):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    seeds = [(-0.01, 0), (0.0, 1), (0.01, 2)]
    again = [
        make_trial(definition, t.params, [a + gap for a in curve], 3 * t.number + seed, **facts_of(t))
        for t in trials
        for gap, seed in seeds
    ]
    for number, trial in enumerate(again):
        trial.system_attrs = {plan.RUN_OPTIONS: {"seed": number % 3}}
    found = match.match_trials(records.trial_records(definition, again))
    section = original_section(found, IMAGES, "test accuracy")
    half = 4.302653 * 0.01 / 3**0.5  # Student's 0.975 quantile at 2 degrees of freedom
    for part in section.parts[1:4]:
        for trace in part.figure.data:
            assert list(trace.y) == pytest.approx([0.1] * len(trace.y) if len(curve) == 1 else curve)
            for errors in (trace.error_y.array, trace.error_y.arrayminus):
                assert list(errors) == pytest.approx([half] * len(trace.y), rel=1e-4)
        places = [place for trace in part.figure.data for place in zip(trace.x, trace.y, strict=True)]
        assert len(places) == len(set(places)) or len(curve) > 1, "one bar for each point"
        assert "drawn as their mean" in part.caption


REPEATED = {  # by number: curve, and the first trial of its setting
    0: ([0.5, 0.8], 0),
    1: ([0.7, 0.75], 1),
    2: ([0.4, 0.9], 2),  # the luckiest of all, with one seed
    3: ([0.6, 0.5], 0),
    4: ([0.72, 0.74], 1),
    5: ([0.3, 0.2], 5),  # pruned
}


def store_repeated(url: str) -> Storage:
    """Store three settings, two of them with two seeds, of which one run moved to another machine."""
    path = Path(url.removeprefix("sqlite:///")).with_name("repeated.toml")
    path.write_text(SEARCH.replace("trials = 2", "trials = 4\nreplicates = 2"))
    definition, trials = load_study_file(path), []
    for number, (curve, first) in REPEATED.items():
        params = {"model": "alexnet", "optimizer": "adam", "lr": 0.01 * (first + 1)}
        params["batch_size"] = 32 if first == 1 else 16
        hardware = {**CPU, "earlier_devices": "Abacus"} if number == 4 else CPU
        more: dict[str, Any] = {"hardware": hardware, "seconds": 1.0 + number}
        more |= {"state": TrialState.PRUNED} if number == 5 else {}
        trials.append(make_trial(definition, params, curve, number, **more))
        if first != number:
            trials[-1].system_attrs = {REPLICATE_OF: first, plan.RUN_OPTIONS: {"seed": 1}}
    return store_study(url, definition, trials)


def test_a_setting_with_several_seeds_is_one_mark_with_their_mean(reported):
    found = reported(store_repeated)
    page, tables = found.page, found.tables
    mean = {0: fmean([0.8, 0.6]), 1: fmean([0.75, 0.74]), 2: 0.9}
    ranks, seeds = {0: 2.0, 1: 1.0, 2: 3.0}, {0: 2, 1: 2, 2: 1}
    history = [tuple(row.values()) for row in tables["history"]]
    so_far = {0: mean[0], 1: mean[1], 2: mean[1]}  # not that of the lucky trial, which ran once
    settings = [(str(n), "complete", f"{mean[n]}", f"{so_far[n]}", f"{seeds[n]}") for n in mean]
    assert history == [*settings, ("5", "pruned", "0.2", "", "1")]
    assert points(page, "history", "complete") == list(mean.items())
    assert points(page, "history", "best so far") == list(so_far.items())
    assert f"{so_far[2]:.4f} best accuracy, mean of 2 seeds on the validation split" in page.text

    several = ("parallel", "slice-", "contour-", "rank-")
    for name, rows in tables.items():
        if name.startswith(several):
            assert [int(row["trial"]) for row in rows] == list(mean), name
            assert numbers(rows, "accuracy") == list(mean.values())
            assert numbers(rows, "seeds") == list(seeds.values())
        if name.startswith("rank-"):
            assert numbers(rows, "rank") == list(ranks.values())
            assert any("trial 2: rank 3 of 3" in t for t in page.figures[f"plot-{name}"]["data"][0]["text"])
    assert sum(name.startswith(several) for name in tables) == 1 + 2 + 1 + 1
    fifths = {trace["name"]: trace["text"][0] for trace in page.figures["plot-parallel"]["data"]}
    assert fifths["best fifth"].startswith("trial 1, complete: 0.7450, mean of 2 seeds")
    assert fifths["second fifth"].startswith("trial 0, complete: 0.7000, mean of 2 seeds")

    # The setting of trial 1 is as fast as its trial 1: the other run moved to another machine.
    expected = {0: (2 * 1.0 + 0.01 + 2 * 4.0 + 0.01) / 2, 1: 2 * 2.0 + 0.01, 2: 2 * 3.0 + 0.01}
    rows = {int(row["trial"]): row for row in tables["pareto"]}
    assert {n: float(row["wall_time_seconds"]) for n, row in rows.items()} == pytest.approx(expected)
    assert numbers(list(rows.values()), "accuracy") == [mean[n] for n in rows]
    assert [n for n, row in rows.items() if row["on the front"] == "True"] == [1, 2]
    assert page.text.count("Trial 4 ran on several kinds of hardware") == 2

    assert {int(row["trial"]) for row in tables["curves"]} == set(REPEATED)
    assert "Each curve is a trial with one seed." in page.text
    names = [trace["name"] for trace in page.figures["plot-curves"]["data"]]
    assert [name for name in names if name.startswith("trial ")] == ["trial 1", "trial 0", "trial 2"]
    assert "has the mean accuracy over its seeds" not in reported(store_search).page.text


def facts_of(trial: FrozenTrial) -> dict[str, Any]:
    return {"site": trial.user_attrs["site"], "point": trial.user_attrs["point"]}


def test_differences_from_the_original_conditions_are_shown(reported):
    page, tables = reported(store_grid).page, reported(store_grid).tables
    assert (
        "did not run under the original's conditions: image size 64, not 224; epochs 4, not 30" in page.text
    )
    assert {row["verdict"] for row in tables["claims"]} == {"cannot tell"}
    assert len({row["claim"] for row in tables["claims"]}) == 7


def test_the_page_of_a_study_that_is_not_a_replay_says_so_in_one_sentence(reported):
    page, tables = reported(store_search).page, reported(store_search).tables
    assert "No complete trial of this study is one of the original report's 14 points" in page.text
    assert [row["reason"] for row in tables["claims"]] == ["no complete trial of any of its points"] * 7


def test_the_uncertainty_of_the_best_counts_images_and_close_trials(reported):
    page, done = reported(store_search).page, reported(store_search).complete
    best = max(t.value for t in done)
    close = sum(
        best - t.value <= 1.96 * ((best * (1 - best) + t.value * (1 - t.value)) / IMAGES) ** 0.5
        for t in done
    )
    assert f"On {IMAGES} images" in page.text
    expected = (
        f"{close - 1} of {len(done) - 1} other complete trials"
        if close > 1
        else "No other trial is so close"
    )
    assert expected in page.text


def store_single_trial(url: str) -> Storage:
    """Store a study with one trial of one epoch."""
    definition = load_study_file(ROOT / "studies/quickstart.toml")
    params = {"optimizer": "adam", "lr": 1e-3, "batch_size": 16}
    return store_study(url, definition, [make_trial(definition, params, [0.5], 0)])


def test_every_section_has_content_or_states_why_not(url, tmp_path):
    storage = store_single_trial(url)
    found = read_report(storage, "quickstart")
    for section in found.sections:
        assert section.parts or len(section.text) == 1, section.name
    empty = {section.name for section in found.sections if not section.parts}
    assert empty == {"original", "importance", "curves", "parallel", "slices", "contours", "ranks"}
    assert set(found.sections[-2].text[0].split()) >= {"No", "14", "points"}
    page, _ = write_and_parse(storage, "quickstart", tmp_path)
    axes = [
        page.figures[f"plot-{name}"]["layout"][a]
        for name, a in (("history", "xaxis"), ("timeline", "yaxis"))
    ]
    assert [axis["dtick"] for axis in axes] == [1, 1], "there is no trial 0.5"


def test_equal_accuracies_have_one_rank_and_one_colour(sqlite_url, tmp_path):
    definition = grid_definition()
    curves = [[0.9], *[[0.5]] * 9, [0.2], [0.3], [0.8], [0.7]]
    trials = [
        make_trial(definition, point.setting, curve, number)
        for number, (point, curve) in enumerate(zip(definition.points, curves, strict=True))
    ]
    page, tables = write_and_parse(store_study(sqlite_url, definition, trials), definition.name, tmp_path)
    name = next(name for name in tables if name.startswith("rank-"))
    assert {row["rank"] for row in tables[name] if row["accuracy"] == "0.5"} == {"8.0"}
    assert any("rank 8 of 14" in text for text in page.figures[f"plot-{name}"]["data"][0]["text"])
    texts_by_band = {trace["name"]: trace["text"] for trace in page.figures["plot-parallel"]["data"]}
    holding = [name for name, texts in texts_by_band.items() if any(": 0.5000" in text for text in texts)]
    assert holding == ["middle fifth"]
    assert any(": 0.9000" in text for text in texts_by_band["best fifth"])


def test_trials_without_a_report_are_counted_in_the_section_on_device_time(reported):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    trial = make_trial(definition, trials[0].params, [], 14, state=TrialState.FAIL)
    trial.user_attrs.pop("hardware")
    found = records.trial_records(definition, [*trials, trial, trial])
    assert any(
        "2 trials have not reported an epoch" in text for text in summary.device_time_section(found).text
    )
    assert not any("have not reported" in text for text in summary.device_time_section(found[:-2]).text)


def test_savings_by_pruning_are_right_for_trials_that_diverged_in_their_first_epoch(reported):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    assert "No trial was pruned" in reported(store_grid).page.text
    trial = make_trial(definition, trials[0].params, [0.1], 14, state=TrialState.PRUNED, epoch_seconds=[])
    (sentence, *_) = summary.device_time_section(records.trial_records(definition, [*trials, trial])).text
    assert sentence.startswith("The pruned trials ended within their first epoch")


HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>&amp;\u2028"


def store_hostile(url: str) -> Storage:
    """Store a study whose names, values and messages contain HTML."""
    path = Path(url.removeprefix("sqlite:///")).with_name("hostile.toml")
    quoted = json.dumps(HOSTILE)
    path.write_text(
        f'[train]\nobjective = "os.path:join"\nepochs = 2\n[space]\n'
        f'word = [{quoted}, "../../../x"]\nnumber = {{ low = 0.0, high = 1.0 }}\n'
    )
    definition, rng = load_study_file(path), random.Random(0)
    # A study file does not allow such names of studies and parameters, but other tools can store them.
    names = {"word": HOSTILE, "number": "../up"}
    space = tuple(each.model_copy(update={"name": names[each.name]}) for each in definition.space)
    definition = definition.model_copy(update={"space": space, "name": HOSTILE})
    trials = []
    for number in range(12):
        params = {HOSTILE: rng.choice([HOSTILE, "../../../x"]), "../up": rng.random()}
        more: dict[str, Any] = {"hardware": {**CPU, "device": HOSTILE}}
        if number == 7:
            more |= {"state": TrialState.FAIL, "failure": {"class": "x", "message": HOSTILE}}
        trials.append(make_trial(definition, params, make_curve(rng, 2, rng.random()), number, **more))
    return store_study(url, definition, trials)


def test_hostile_names_values_and_messages_stay_text(reported):
    found, plain = reported(store_hostile), reported(store_search)
    page, text = found.page, found.text
    for each in (page, plain.page):
        assert each.tags.count("script") == 2 + len(each.figures)
    assert "img" not in page.tags
    assert HOSTILE.split("\u2028")[0] in page.text
    assert len(page.figures) == text.count("data-for=")
    assert "<script>window" not in text
    # Plotly interprets HTML in texts, so a figure contains none of the study's. Its JSON contains no '<'.
    assert "<script" not in json.dumps(page.figures)
    scripts = re.findall(r'data-for="[^"]*">(.*)</script>$', text, re.MULTILINE)
    assert len(scripts) == len(page.figures)
    assert not [script for script in scripts if "<" in script]
    names = [path.name for path in (found.folder / "csv").iterdir()]
    assert sorted(names) == sorted(f"{name}.csv" for name in found.tables)
    assert len(names) == 12
    assert not list(found.folder.parent.glob("*.csv"))


def test_the_page_is_one_file_that_fetches_nothing(reported):
    found = reported(store_search)
    assert found.text.count("plotly.js v") == 1
    assert "<script src" not in found.text
    assert not {"iframe", "object", "embed"} & set(found.page.tags)


def test_times_are_utc_whatever_the_local_time_zone(sqlite_url, workplace):
    store_single_trial(sqlite_url)
    for zone in ("UTC", "Asia/Seoul"):
        done = workplace.hpo(
            "report", "quickstart", "-o", "page.html", "--csv", zone[:3], "--store", sqlite_url, TZ=zone
        )
        assert done.out.startswith("report of study quickstart: page.html\n")
    tables = [(workplace.path / zone / "timeline.csv").read_text() for zone in ("UTC", "Asi")]
    assert tables[0] == tables[1]
    assert "2026-01-01 12:00:00" in tables[0]


def test_the_report_changes_nothing_in_the_store(sqlite_url, tmp_path):
    storage = store_single_trial(sqlite_url)
    storage.engine.dispose()
    before = hashlib.sha256((tmp_path / "hpo.db").read_bytes()).hexdigest()
    write_and_parse(studies.open_storage(sqlite_url, create=False), "quickstart", tmp_path)
    assert hashlib.sha256((tmp_path / "hpo.db").read_bytes()).hexdigest() == before


def test_a_report_that_cannot_be_written_is_refused_in_one_line(sqlite_url, workplace: Workplace):
    store_single_trial(sqlite_url)
    empty = workplace.study(SEARCH, "empty")
    workplace.here("create", empty, "--store", sqlite_url)
    (workplace.path / "file").write_text("")
    cases = [
        (("report", "quikstart", "-o", "x.html"), "did you mean 'quickstart'?"),
        (
            ("report", "empty", "-o", "x.html"),
            "has no complete trial yet; 'hpo trials empty' lists the others",
        ),
        (("report", "quickstart", "-o", "file/x.html"), "-o file/x.html: File exists; want a file"),
        (
            ("report", "quickstart", "-o", "x.html", "--csv", "file"),
            "--csv file: File exists; want a folder",
        ),
        (("report", "quickstart", "-o", "."), "-o .: "),
    ]
    for command, message in cases:
        done = workplace.here(*command, "--store", sqlite_url, code=1)
        assert done.err.startswith("hpo: ")
        assert done.err.count("\n") == 1, done.err
        assert message in done.err
        assert done.out == ""
    assert "no store at" in workplace.here("report", "search", "-o", "x.html", code=1).err
    assert "Missing option" in workplace.here("report", "search", "--store", sqlite_url, code=2).err


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("make", [store_grid, store_search, store_hostile])
def test_a_browser_shows_every_plot_without_errors_or_overflow(reported, make, width, chromium):
    found = reported(make)
    messages: list[str] = []
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    tab.set_default_timeout(120_000)  # the machine may be busy
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on(
        "request", lambda request: messages.append(request.url) if request.url.startswith("http") else None
    )
    tab.goto((found.folder / "page.html").as_uri())
    count = len(found.page.figures)
    tab.wait_for_function(f"document.querySelectorAll('.plot .main-svg:first-child').length >= {count}")
    assert messages == []
    assert tab.evaluate("window.hacked") is None
    if make is store_hostile:
        texts = tab.evaluate("[...document.querySelectorAll('.plot text')].map(text => text.textContent)")
        assert any(HOSTILE[:20] in text for text in texts), "no figure shows the name as text"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    marks = (
        "plot => plot.querySelectorAll('.point, .scatterlayer path, .barlayer path, .contourlayer path')"
    )
    empty = f"[...document.querySelectorAll('.plot')].filter(p => !({marks})(p).length).map(p => p.id)"
    assert tab.evaluate(empty) == []
    outside = """[...document.querySelectorAll('.plot')].filter(plot => {
        const box = plot.getBoundingClientRect();
        const svg = plot.querySelector('.main-svg').getBoundingClientRect();
        const around = plot.parentElement, scrolls = around.scrollWidth > around.clientWidth;
        const inside = scrolls ? around.getBoundingClientRect() : box;
        return svg.width > box.width + 1 || inside.right > innerWidth + 1;
    }).map(plot => plot.id)"""
    assert tab.evaluate(outside) == []
    tab.close()
