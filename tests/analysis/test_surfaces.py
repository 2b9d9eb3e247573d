"""Each place that shows a number shows the same one, which is what plain SQL finds in the store.

The study has complete, pruned, failed, resumed, replicated, tied and paused trials, and a final evaluation.
Its rows are written through Optuna and the store; nothing is trained.
"""

import csv
import json
import re
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpo.analysis import finish, records, results
from hpo.dashboard import notes
from hpo.search.asha import PAUSED_AT_RUNG
from hpo.search.replicates import REPLICATE_OF
from hpo.store import plan, status, studies
from hpo.study.file import load_study_file
from tests.support.databases import closed_engines, plain_sql
from tests.support.workplace import Workplace

STUDY = """
[train]
dataset = "digits"
image_size = 64
weights = "none"
epochs = 3
[space]
lr = { low = 1e-4, high = 1e-1, log = true }
[search]
trials = 1
replicates = 2
"""
CURVES = {
    0: (0.5, 0.8, 0.7),
    1: (0.5, 0.6, 0.8),
    2: (0.5, 0.6, 0.6),  # a replicate of 0
    3: (0.6, 0.5, 0.4),  # a replicate of 1
    4: (0.4444, 0.2778),  # pruned
    5: (0.3,),  # failed
    6: (0.2, 0.9, 0.1),  # resumed, and the luckiest of all, with one seed
    7: (0.1,),  # waits at a rung
}
STATES = {4: TrialState.PRUNED, 5: TrialState.FAIL, 7: TrialState.WAITING}
REPLICATES = {2: 0, 3: 1}
FINAL = {0: (0.5, 0.7), 1: (0.72, 0.2)}  # by the setting's rank, for each seed
Sql = Callable[..., list[tuple[Any, ...]]]


def study_trial(number: int) -> optuna.trial.FrozenTrial:
    curve, state = CURVES[number], STATES.get(number, TrialState.COMPLETE)
    value = {TrialState.COMPLETE: max(curve), TrialState.PRUNED: curve[-1]}.get(state)
    first = REPLICATES.get(number, number)
    system: dict[str, Any] = {PAUSED_AT_RUNG: 1} if number == 7 else {}
    if number in REPLICATES:
        system |= {REPLICATE_OF: first, plan.RUN_OPTIONS: {"seed": 1}}
    more = {5: {"failure": {"class": "ValueError", "message": "no"}}, 4: {"pruned": "by asha"}}
    hardware = {"device": "Xeon", "host": "here", "torch": "2", "threads": 1, "precision": "fp32"}
    return create_trial(
        state=state,
        value=value,
        params={"lr": 0.01 * (first + 1)},
        distributions={"lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)},
        intermediate_values=dict(enumerate(curve, 1)),
        user_attrs={
            "images": 180,
            "baseline": 0.75,
            "epochs": len(curve),
            "best_epoch": curve.index(max(curve)) + 1,
            "epoch_seconds": [2.0] * len(curve),
            "wall_time_seconds": 2.0 * len(curve),
            "attempts": 2 if number == 6 else 1,
            "hardware": hardware,
            **more.get(number, {}),
        },
        system_attrs=system,
    )


def write_store(place: Workplace, url: str) -> None:
    """Write the study, and the final evaluation of its two best settings with two seeds each."""
    definition = load_study_file(place.path / place.study(STUDY, "mine"))
    none_planned = definition.search.model_copy(update={"trials": 0})
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, definition.model_copy(update={"search": none_planned}), STUDY)
    optuna.load_study(study_name="mine", storage=storage).add_trials(map(study_trial, CURVES))
    chosen = finish.plan_finish(storage, "mine", 2, 2)
    finish.create_finish_study(storage, chosen)
    points = studies.read_definition(storage, chosen.name).points
    for trial in status.read_trials(storage, chosen.name):
        seed = points[trial.number].setting["seed"]
        value = FINAL[trial.number // 2][chosen.seeds.index(seed)]
        storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        storage.set_trial_intermediate_value(trial._trial_id, 2, value)
        storage.set_trial_user_attr(trial._trial_id, "images", 179)
        storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [value])


def stored_mean(sql: Sql, study: str, *numbers: int) -> float:
    values = sql(
        "SELECT number, value FROM trial_values JOIN trials USING (trial_id) JOIN studies USING (study_id) "
        "WHERE study_name = :study AND state = 'COMPLETE'",
        study=study,
    )
    chosen = [value for number, value in values if number in numbers]
    assert len(chosen) == len(numbers)
    return sum(chosen) / len(chosen)


def stored_curves(sql: Sql) -> dict[int, dict[int, float]]:
    curves: dict[int, dict[int, float]] = {}
    for number, step, value in sql(
        "SELECT number, step, intermediate_value FROM trial_intermediate_values "
        "JOIN trials USING (trial_id) JOIN studies USING (study_id) "
        "WHERE study_name = 'mine' ORDER BY number, step"
    ):
        curves.setdefault(number, {})[step] = value
    return curves


def stored_attribute(sql: Sql, key: str) -> dict[int, Any]:
    rows = sql(
        "SELECT number, value_json FROM trial_user_attributes JOIN trials USING (trial_id) "
        "JOIN studies USING (study_id) WHERE study_name = 'mine' AND key = :key",
        key=key,
    )
    return {number: json.loads(text) for number, text in rows}


def check_best(place: Workplace, url: str, sql: Sql) -> None:
    """Check the best setting in every place: a mean over two seeds, of 180 images, with ties."""
    means = {first: stored_mean(sql, "mine", first, first + 2) for first in (0, 1)}
    value = max(means.values())
    tied = [first for first, mean in means.items() if mean == value]
    best = place.here("best", "mine", "--json", HPO_STORE=url).json()
    (images,) = set(stored_attribute(sql, "images").values())
    (baseline,) = set(stored_attribute(sql, "baseline").values())
    assert (best["trial"], best["value"], best["accuracy"], best["seeds"]) == (tied[0], value, value, 2)
    assert (best["images"], best["baseline"]) == (images, baseline)
    assert best["best_epoch"] == stored_attribute(sql, "best_epoch")[tied[0]]
    assert best["tied"] == (tied if len(tied) > 1 else [])
    assert place.here("status", "mine", "--json", HPO_STORE=url).json()["best"] == best
    listed = {each["study"]: each["best"] for each in place.here("studies", "--json", HPO_STORE=url).json()}
    assert listed["mine"] == best

    shown = f"{value:.4f}, mean of 2 seeds"
    phrases = [shown, f"not above {baseline:.4f}, which always answering with the largest class gives"]
    phrases += ["2 settings share this value: those of trials 0, 1"] if len(tied) > 1 else []
    storage = studies.open_storage(url, create=False)
    definition = studies.read_definition(storage, "mine")
    found = records.trial_records(definition, status.read_trials(storage, "mine"))
    texts = {
        "best": place.here("best", "mine", HPO_STORE=url).out,
        "status": place.here("status", "mine", HPO_STORE=url).out,
        "dashboard": notes.study_note(definition, "", results.best_settings(definition, found, 1)[0], ""),
    }
    for where, text in texts.items():
        assert [phrase for phrase in phrases if phrase not in text] == [], (where, text)
    assert re.search(rf"mine +idle .* {shown}", place.here("studies", HPO_STORE=url).out)

    place.here("report", "mine", "-o", "page.html", "--csv", "csv", HPO_STORE=url)
    page = " ".join(re.sub("<[^>]*>", " ", (place.path / "page.html").read_text()).split())
    assert all(phrase in page for phrase in phrases[1:]), "the report"
    assert f"{value:.4f}" in page
    assert "mean of 2 seeds on the validation split" in page


def check_final(place: Workplace, url: str, sql: Sql) -> None:
    """Check the winner of the final evaluation: the mean over its seeds."""
    means = {first: stored_mean(sql, "mine-finish", first, first + 1) for first in (0, 2)}
    value = max(means.values())
    result = place.here("finish", "mine", "--top", "2", "--seeds", "2", "--json", HPO_STORE=url).json()
    assert result["settings"][0]["mean"] == value
    assert place.here("best", "mine-finish", "--json", HPO_STORE=url).json()["value"] == value
    line = rf"mine-finish .* {value:.4f}, mean of 2 seeds on the test split"
    assert re.search(line, place.here("studies", HPO_STORE=url).out)


def check_trials(place: Workplace, url: str, sql: Sql) -> None:
    """Check each trial's value, best and last accuracy, epochs and time."""
    curves, seconds = stored_curves(sql), stored_attribute(sql, "wall_time_seconds")
    values: dict[int, float] = dict(
        sql(
            "SELECT number, value FROM trial_values JOIN trials USING (trial_id) "
            "JOIN studies USING (study_id) WHERE study_name = 'mine'"
        )
    )
    trials = place.here("trials", "mine", "--json", HPO_STORE=url).json()
    assert {t["number"]: t["value"] for t in trials if t["value"] is not None} == values
    texts = place.here("trials", "mine", HPO_STORE=url).out.splitlines()[1:]
    with (place.path / "csv/trials.csv").open(newline="") as lines:
        report = {int(row["trial"]): row for row in csv.DictReader(lines)}
    rows = {
        int(row["number"]): row
        for row in csv_rows(place.here("trials", "mine", "--csv", HPO_STORE=url).out)
    }
    storage = studies.open_storage(url, create=False)
    definition = studies.read_definition(storage, "mine")
    for trial, text in zip(status.read_trials(storage, "mine"), texts, strict=True):
        number, curve = trial.number, curves[trial.number]
        value, last = values.get(number), curve[max(curve)]
        best = value if trial.state == TrialState.COMPLETE else max(curve.values())
        epoch = min(each for each in curve if curve[each] == max(curve.values()))
        row, line = rows[number], report[number]
        assert (row["value"], line["accuracy"]) == ("" if value is None else str(value),) * 2
        assert (row["best_value"], line["best accuracy"]) == (str(best),) * 2
        assert (row["best_epoch"], row["epochs"]) == (str(epoch), str(max(curve)))
        assert (line["best epoch"], line["epochs"]) == (row["best_epoch"], row["epochs"])
        assert float(row["wall_time_seconds"]) == float(line["wall_time_seconds"]) == seconds[number]
        shown = f"{last if value is None else value:.4f}"
        shown += f" (best {best:.4f}, epoch {epoch})" if f"{best:.4f}" != shown else ""
        assert f" {shown} " in text, "the table of trials"
        if value is not None:
            assert shown in place.here("trials", "mine", "--trial", str(number), HPO_STORE=url).out
            assert shown in notes.trial_note(trial, definition), "the dashboard"


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_every_place_shows_what_is_stored_before_and_after_a_stored_value_changes(workplace, tmp_path):
    url = f"sqlite:///{tmp_path}/numbers.db"
    with closed_engines():
        write_store(workplace, url)
        sql = plain_sql(url)
        for check in (check_best, check_final, check_trials):
            check(workplace, url, sql)
        changed = {("mine", 2): 0.66, ("mine", 4): 0.1111, ("mine-finish", 1): 0.9}
        for (study, number), value in changed.items():
            sql(
                "UPDATE trial_values SET value = :value WHERE trial_id = (SELECT trial_id FROM trials "
                "JOIN studies USING (study_id) WHERE study_name = :study AND number = :number)",
                value=value,
                study=study,
                number=number,
            )
        for check in (check_best, check_final, check_trials):
            check(workplace, url, sql)
    assert stored_mean(sql, "mine", 0, 2) == pytest.approx(0.73)


TRAINED = """
[train]
dataset = "digits"
image_size = 32
limit = 60
model = "squeezenet1_1"
weights = "none"
epochs = 2
[search]
sampler = "grid"
replicates = 2
[[points]]
lr = 0.001
[[points]]
lr = 0.01
"""


def check_after_training(place: Workplace, sql: Sql, study: str, folder: str) -> None:
    """Check what ``run`` and ``simulate`` print of a complete study, and an exported folder."""
    curves, images = stored_curves(sql), stored_attribute(sql, "images")
    firsts = stored_attribute(sql, "repeats")
    means = {
        first: stored_mean(sql, "mine", first, *(n for n in firsts if firsts[n] == first))
        for first in (0, 1)
    }
    winner = max(means, key=lambda first: (means[first], -first))
    text = place.here("run", study).out
    assert f"best trial {winner} of study mine" in text
    assert f"{means[winner]:.4f}, mean of 2 seeds on the validation split" in text
    assert f"images     {images[winner]}\n" in text

    simulated = place.here("simulate", "mine", "--repeats", "2", "--json").json()
    assert (simulated["curves"], simulated["epochs"]) == (2, 2)
    assert simulated["best"] == max(value for first in (0, 1) for value in curves[first].values())

    place.here("export", "mine", "--to", folder)
    metrics = json.loads((place.path / folder / "metrics.json").read_text())
    number = metrics["trial"]
    assert firsts.get(number, number) == winner
    assert metrics["accuracy"] == curves[number][metrics["epoch"]]
    assert metrics["accuracies"] == list(curves[number].values())
    assert (metrics["images"], metrics["epochs"]) == (images[number], max(curves[number]))
    seconds = stored_attribute(sql, "wall_time_seconds")[number]
    assert metrics["wall_time_seconds"] == seconds
    card = (place.path / folder / "README.md").read_text()
    assert (
        f"| accuracy | {metrics['accuracy']:.4f} on the validation split ({images[number]} images) |"
        in card
    )
    assert f"| training and evaluation | {seconds:.0f} seconds |" in card


def test_run_simulate_model_card_and_tensorboard_show_what_is_stored(workplace):
    study = workplace.study(TRAINED, "mine")
    workplace.here("create", study)
    workplace.here("worker", "mine")
    sql = plain_sql(f"sqlite:///{workplace.path}/storage/hpo.db")
    for number, curve in stored_curves(sql).items():
        (folder,) = workplace.path.glob(f"storage/artifacts/*/{number:04d}")
        events = EventAccumulator(str(folder)).Reload()
        shown = {each.step: each.value for each in events.Scalars("accuracy/selection")}
        assert shown == pytest.approx(curve)
        assert events.Scalars("accuracy/best")[-1].value == pytest.approx(stored_mean(sql, "mine", number))
    check_after_training(workplace, sql, study, "first")
    sql("UPDATE trial_values SET value = value / 2 WHERE trial_id = 1")
    reports = "trial_intermediate_values SET intermediate_value = intermediate_value / 2"
    sql(f"UPDATE {reports} WHERE trial_id = 1")
    sql("UPDATE trial_user_attributes SET value_json = '7' WHERE key = 'images'")
    sql("UPDATE trial_user_attributes SET value_json = '77.0' WHERE key = 'wall_time_seconds'")
    check_after_training(workplace, sql, study, "second")
