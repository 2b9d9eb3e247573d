"""The HTML page of the report: its numbers and sections, in a browser, and with hostile names."""

import base64
import gzip
import json
import re
from datetime import UTC, datetime
from statistics import fmean

import pytest
from optuna import importance
from optuna.trial import TrialState

from hpo.original import facts
from tests.support.report_page import numbers, points
from tests.support.reported_studies import (
    CPU,
    GPU,
    HOSTILE,
    IMAGES,
    REPEATED,
    store_grid,
    store_hostile,
    store_repeated,
    store_search,
)


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
def test_no_two_elements_have_the_same_id(reported, make):
    ids = re.findall(r' id="([^"]*)"', reported(make).text)
    assert len(ids) == len(set(ids)) > 20


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
    there, here = page.figures["plot-original-4-1"]["data"]
    assert there["y"] == [float(facts.POINTS[number].accuracy) for number in range(1, 7)]
    assert here["y"] == [by_point[number].value for number in range(1, 7)]
    assert there["x"] == here["x"]
    (table,) = [table for table in page.tables if table[0][2:3] == ["accuracy there"]]
    assert table[0][3] == "test accuracy here"
    assert [row[2] for row in table[1:]] == [row["accuracy there"] for row in tables["original-4.1"]]
    times = [(row["batch size"], row["s/epoch there"]) for row in tables["original-4.4-times"]]
    assert times == [("8", "115.7"), ("16", "96.25"), ("32", "84.2"), ("64", "82.65")]
    there, _ = page.figures["plot-original-4-4-times"]["data"]
    assert there["y"] == [float(seconds) for _, seconds in times]
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
    assert [name for name in table[0] if name != "point"][:3] == ["trial", "state", measure]


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

    several = ("parallel", "slice-", "rank-")
    for name, rows in tables.items():
        if name.startswith(several):
            assert [int(row["trial"]) for row in rows] == list(mean), name
            assert numbers(rows, "accuracy") == list(mean.values())
            assert numbers(rows, "seeds") == list(seeds.values())
        if name.startswith("rank-"):
            assert numbers(rows, "rank") == list(ranks.values())
            assert any("trial 2: rank 3 of 3" in t for t in page.figures[f"plot-{name}"]["data"][0]["text"])
    assert sum(name.startswith(several) for name in tables) == 1 + 2 + 1
    assert "No two of the most important numeric parameters vary together" in page.text
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
    assert "has the mean over its seeds" not in reported(store_search).page.text


def test_contours_are_drawn_between_numbers_only(reported):
    drawn = {name: rows for name, rows in reported(store_search).tables.items() if "contour" in name}
    assert list(drawn) == ["contour-1-lr-momentum"]
    assert all(len(rows) >= 8 for rows in drawn.values())


def test_differences_from_the_original_conditions_are_shown(reported):
    page, tables = reported(store_grid).page, reported(store_grid).tables
    assert (
        "did not run under the original's conditions: image size 64, not 224; epochs 4, not 30" in page.text
    )
    assert {row["verdict"] for row in tables["claims"]} == {"cannot tell"}
    assert len({row["claim"] for row in tables["claims"]}) == 7
    once = "Conclusions 1, 2, 3, 7 cannot be judged: other conditions than the original's"
    assert page.text.count("cannot be judged") == 2
    assert page.text.count(once) == 1


def test_the_page_of_a_study_that_is_not_a_replay_does_not_mention_the_original_report(reported):
    page, tables = reported(store_search).page, reported(store_search).tables
    assert "original" not in page.text
    assert not [name for name in tables if name.startswith(("original", "claims"))]


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
    assert len(names) == 11
    assert not list(found.folder.parent.glob("*.csv"))


def test_the_page_is_one_file_that_fetches_nothing(reported):
    found = reported(store_search)
    packed = re.findall(r'id="plotly">([A-Za-z0-9+/=]+)</script>', found.text)
    assert [gzip.decompress(base64.b64decode(each)).count(b"plotly.js v") for each in packed] == [1]
    assert len(found.text) < 2.3e6
    assert "<script src" not in found.text
    assert not {"iframe", "object", "embed"} & set(found.page.tags)


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
