"""``hpo finish``: the best settings of a study over several seeds, in real processes."""

import json
import os
import re
import signal

import optuna
import pytest
import torch
from optuna.trial import TrialState

from hpo.analysis.finish import create_finish_study, plan_finish
from hpo.store import status, studies
from hpo.study.definition import Point
from hpo.training import datasets, loop
from hpo.training.config import FinalConfig
from tests.support.databases import closed_engines
from tests.support.processes import descendants, wait_for
from tests.support.workplace import artifact, load

OWN = """
import random, time


def noisy(config, state):
    # Best after epoch 3. Seeds differ by about 0.01. "twin" makes another setting that is no better.
    state = state or {"epoch": 0}
    drawn = random.Random(f"{config.quality}/{config.twin}/{config.seed}").gauss(0, 0.01)
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        if config.twin == "odd" and config.seed == 2:
            raise RuntimeError("an error")
        yield config.quality + drawn - 0.05 * abs(state["epoch"] - 3), state
"""

STUDY = """
[train]
objective = "own:noisy"
epochs = 5
quality = 0.8
twin = "a"
seconds = 0.0

[search]
sampler = "grid"
"""

DIGITS = """
[train]
dataset = "digits"
image_size = 16
limit = 120
weights = "none"
lr = 0.01
epochs = 6

[search]
sampler = "grid"

[[points]]
model = "resnet18"
augmentation = "crop+flip"
"""


def points(*settings: str) -> str:
    return STUDY + "".join("[[points]]\n" + setting.replace(", ", "\n") + "\n" for setting in settings)


def run_study(place, *settings: str) -> None:
    """Run a study of these points in this process."""
    place.here("create", place.study(points(*settings)))
    place.here("worker", "small")


def finish_study(place, top: int, seeds: int) -> dict:
    """Run the finish study in this process, and return the JSON that ``hpo finish`` then prints."""
    with closed_engines():
        storage = studies.open_storage(f"sqlite:///{place.path}/storage/hpo.db", create=False)
        create_finish_study(storage, plan_finish(storage, "small", top, seeds))
    place.here("worker", "small-finish")
    return place.here("finish", "small", "--top", str(top), "--seeds", str(seeds), "--json").json()


def test_the_better_of_two_settings_is_named(place):
    run_study(place, "quality = 0.75", "quality = 0.80")
    found = place.here("finish", "small", "--seeds", "5", "--devices", "cpu:2", "--json").json()
    assert found["decided"] is True
    assert [each["trial"] for each in found["settings"]] == [1, 0]
    assert found["conclusion"].startswith("The best is trial 1's setting: ")
    assert found["difference"]["low"] < 0.05 < found["difference"]["high"]
    assert found["difference"]["low"] > 0
    assert found["notes"] == ["study 'small' has 2 complete settings, not 3"]
    for each in found["settings"]:
        assert each["epochs"] == 3
        assert list(each["accuracies"]) == ["1", "2", "3", "4", "5"]
        assert each["low"] < sum(each["accuracies"].values()) / 5 < each["high"]
    assert found["split"] is None
    first = found["settings"][0]
    assert f"(95 % interval {first['low']:.4f} to {first['high']:.4f})" in place.here("best", "small").out

    done = place.here("finish", "small", "--top", "2", "--devices", "cpu:1")
    assert "0.05" in done.out
    assert "The best is trial 1's setting" in done.out
    assert "hpo knows no test split of it" in done.out
    assert done.err == ""
    assert len(load(place, "small-finish").trials) == 10


def test_settings_that_do_not_differ_are_not_ranked(place):
    run_study(place, 'twin = "a"', 'twin = "b"')
    found = finish_study(place, 2, 4)
    assert found["decided"] is False
    assert "is not decided" in found["conclusion"]
    assert found["difference"]["low"] < 0 < found["difference"]["high"]

    two = finish_study(place, 2, 2)
    assert (two["decided"], [each["low"] for each in two["settings"]]) == (False, [None, None])
    assert "two seeds cannot tell; raise --seeds" in two["conclusion"]
    assert -1 <= two["difference"]["low"] <= two["difference"]["high"] <= 1

    single = finish_study(place, 2, 1)
    assert (single["decided"], single["difference"]) == (False, None)
    assert "one run each cannot tell" in single["conclusion"]
    assert [(each["low"], each["high"]) for each in single["settings"]] == [(None, None)] * 2
    one = finish_study(place, 1, 2)
    assert one["conclusion"] == "There is one setting, and nothing to compare it with."


def test_equal_settings_count_once_and_incomplete_ones_are_excluded(place):
    run_study(
        place,
        "quality = 0.8",
        "quality = 0.8, seed = 7",
        'twin = "odd", quality = 0.9, seed = 2',
        "quality = 0.7",
    )
    found = finish_study(place, 5, 2)
    assert sorted(each["params"]["quality"] for each in found["settings"]) == [0.7, 0.8]
    assert found["notes"] == ["study 'small' has 2 complete settings, not 5"]


def test_more_settings_and_seeds_extend_the_finish_study(place):
    run_study(place, "quality = 0.8", "quality = 0.7", "quality = 0.6")
    first = finish_study(place, 2, 2)
    before = [(trial.number, trial.value) for trial in load(place, "small-finish").trials]
    found = finish_study(place, 3, 3)
    trials = load(place, "small-finish").trials
    assert len(trials) == 9
    assert [(trial.number, trial.value) for trial in trials[:4]] == before
    assert all(len(each["accuracies"]) == 3 for each in found["settings"])
    assert finish_study(place, 2, 2) == first
    assert len(load(place, "small-finish").trials) == 9


def test_a_failed_run_is_named_and_the_others_are_compared(place):
    run_study(place, 'twin = "odd"', 'quality = 0.6, twin = "b"')
    found = finish_study(place, 2, 3)
    (missing,) = found["missing"]
    assert missing == (
        "trial 0's setting lacks seed 2: its run is failed (an error); "
        "'hpo retry small-finish --failed' tries again"
    )
    assert list(found["settings"][0]["accuracies"]) == ["1", "3"]
    assert found["difference"] is not None


def test_the_setting_with_the_higher_mean_is_first_everywhere_also_if_it_lacks_a_seed(place):
    run_study(place, "quality = 0.75", "quality = 0.80")
    reached = {0.75: (0.5, 0.6, None), 0.8: (0.52, 0.62, 0.2)}  # by quality, for each seed
    with closed_engines():
        storage = studies.open_storage(f"sqlite:///{place.path}/storage/hpo.db", create=False)
        plan = plan_finish(storage, "small", 2, 3)
        create_finish_study(storage, plan)
        definition = studies.read_definition(storage, plan.name)
        quality = definition.parameters()["quality"].distribution()
        for trial in status.read_trials(storage, plan.name):
            setting = definition.points[trial.number].setting
            value = reached[setting["quality"]][setting["seed"] - 1]
            storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            storage.set_trial_param(
                trial._trial_id, "quality", quality.to_internal_repr(setting["quality"]), quality
            )
            state, values = (TrialState.FAIL, None) if value is None else (TrialState.COMPLETE, [value])
            storage.set_trial_state_values(trial._trial_id, state, values)
    found = place.here("finish", "small", "--top", "2", "--seeds", "3", "--json").json()
    assert [each["trial"] for each in found["settings"]] == [0, 1]
    assert found["settings"][0]["mean"] == pytest.approx(0.55)
    assert (found["difference"]["mean"], found["decided"]) == (pytest.approx(-0.02), False)
    assert "by the seeds that both have it is 0.0200 lower" in found["conclusion"]
    best = place.here("best", "small-finish", "--json").json()
    assert best["value"] == found["settings"][0]["mean"]
    assert "ranks trial 0's setting first" in place.here("best", "small").out
    assert re.search("small-finish .* 0.5500, mean of 2 seeds", place.here("studies").out)


def test_a_run_has_the_accuracy_after_its_last_epoch(place):
    run_study(place, "quality = 0.8, epochs = 3")
    storage = studies.open_storage(f"sqlite:///{place.path}/storage/hpo.db", create=False)
    create_finish_study(storage, plan_finish(storage, "small", 1, 1))
    definition = studies.read_definition(storage, "small-finish")
    assert definition.trial_config(definition.points[0].setting).epochs == 3
    longer = definition.model_copy(
        update={"points": (*definition.points, Point(setting={"quality": 0.8, "epochs": 5, "seed": 1}))}
    )
    studies.create_study(storage, longer, "")
    place.here("worker", "small-finish")
    third, fifth = load(place, "small-finish").trials
    assert fifth.value == fifth.intermediate_values[5] == pytest.approx(third.value - 0.1)
    assert (fifth.user_attrs["best_epoch"], fifth.user_attrs["epochs"]) == (5, 5)
    assert "weights-0005-" in fifth.user_attrs["weights"]


def load_if_there(workplace) -> list[optuna.trial.FrozenTrial]:
    try:
        return load(workplace, "small-finish").trials
    except KeyError:
        return []


def test_a_built_in_study_is_scored_once_on_its_test_images_after_a_kill(
    workplace,
):
    workplace.here("create", workplace.study(DIGITS))
    workplace.here("worker", "small")
    (chosen,) = load(workplace).trials
    epochs = chosen.user_attrs["best_epoch"]
    assert epochs > 3, "else the run may be over before it is killed"
    process = workplace.start("finish", "small", "--top", "1", "--seeds", "2", "--devices", "cpu:1")

    def has_reported() -> bool:
        found = load_if_there(workplace)
        return bool(found) and "epochs" in found[0].user_attrs

    wait_for(has_reported)
    for pid in [*descendants(process.pid), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    killed = load(workplace, "small-finish").trials[0]
    assert killed.state.name == "RUNNING"

    worker = workplace.here("worker", "small-finish")
    assert "attempt 2" in worker.err
    assert f"trial 0 epoch {epochs}/{epochs}: test accuracy" in worker.err
    assert worker.err.count("test accuracy") == 4, "each run prints it after its last epoch, and at its end"

    study = load(workplace, "small-finish")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    storage = studies.open_storage(f"sqlite:///{workplace.path}/storage/hpo.db", create=False)
    definition = studies.read_definition(storage, "small-finish")
    for trial, point in zip(study.trials, definition.points, strict=True):
        assert trial.intermediate_values == {epochs: trial.value}
        assert trial.params == chosen.params
        config = definition.trial_config(point.setting)
        assert isinstance(config, FinalConfig)
        images = datasets.load_dataset(config, workplace.path)
        stored = json.loads(
            artifact(workplace, trial.user_attrs["weights"]).parent.joinpath("settings.json").read_text()
        )
        assert stored["data"]["images"] == {"train": len(images.train), "test": len(images.test)}
        plain = loop.TrainingRun(config, images, torch.device("cpu"))
        assert [epoch.value for epoch in plain.epochs()] == [None] * (epochs - 1) + [trial.value]

    done = workplace.here("finish", "small", "--top", "1", "--seeds", "2")
    assert "scored on the 15 test images once" in done.out
    assert done.err == ""
    found = workplace.here("finish", "small", "--top", "1", "--seeds", "2", "--json").json()
    (setting,) = found["settings"]
    assert 0 <= setting["mean"] <= 1
    assert (setting["low"], setting["high"]) == (None, None), "two seeds give no interval"
    assert_split_is_shown(workplace, epochs)


def assert_split_is_shown(workplace, epochs: int) -> None:
    """Check that every command that shows such an accuracy says what it is."""
    meaning = "on the test split, once, after the last epoch"
    assert meaning in workplace.here("status", "small-finish").out
    assert meaning in workplace.here("best", "small-finish").out
    assert "test accuracy" in workplace.here("trials", "small-finish").out
    assert "on the test split" in workplace.here("studies").out
    workplace.here("report", "small-finish", "-o", "report.html")
    assert meaning in (workplace.path / "report.html").read_text()
    assert meaning in workplace.here("export", "small-finish", "--to", "again").out
    shown = workplace.here("export", "small", "--to", "winner").out
    assert "trial 0 of study small-finish is in winner" in shown
    assert "chosen     'hpo finish small' ranks trial 0's setting first" in shown
    metrics = json.loads((workplace.path / "winner/metrics.json").read_text())
    assert (metrics["split"], metrics["optimistic"], metrics["epochs"]) == ("test", False, epochs)
    card = (workplace.path / "winner/README.md").read_text()
    assert "split: test" in card
    assert "ranks trial 0's setting first" in card
    workplace.here("report", "small", "-o", "report.html")
    page = (workplace.path / "report.html").read_text()
    assert "ranks trial 0&#39;s setting first" in page
    assert "hpo finish small --top" not in page
    assert "In the search its setting ran with one seed only; in the final evaluation, over 2 seeds" in page


def test_a_study_that_cannot_be_finished_is_refused_in_one_line(place):
    def refused(*arguments: str) -> str:
        done = place.here(*arguments, code=1)
        assert done.err.count("\n") == 1
        assert done.out == ""
        return done.err

    place.here("create", place.study(points("quality = 0.8")))
    assert "no study 'smal' in the store; did you mean 'small'?" in refused("finish", "smal")
    assert "no complete trial yet; 'hpo trials small' lists the others" in refused("finish", "small")
    assert "--devices 'gpu': want" in refused("finish", "small", "--devices", "gpu")
    place.here("finish", "small", "--top", "0", code=2)

    on_test = DIGITS.replace("epochs = 6", 'epochs = 6\nselection = "test"')
    place.here("create", place.study(on_test, "mirror"))
    assert "has chosen on the test split already" in refused("finish", "mirror")
    final = DIGITS.replace("epochs = 6", 'epochs = 6\nselection = "final"')
    assert "train.selection" in refused("create", place.study(final, "reserved"))

    place.here("worker", "small")
    place.here("create", "small.toml", "--name", "small-finish")
    assert "not made by 'hpo finish small'; 'hpo delete small-finish' first" in refused("finish", "small")
    place.here("delete", "small-finish", "--yes")
    finish_study(place, 3, 1)
    assert "only 'hpo finish small' can add to it" in refused("enqueue", "small-finish", "quality=0.9")
    assert "'hpo finish small' reports it" in refused("finish", "small-finish")
    assert "finish.of: 'small' -> nothing" in refused("create", "small.toml", "--name", "small-finish")


def test_an_incomplete_study_is_finished_with_its_best_so_far_and_a_note(place):
    run_study(place, "quality = 0.8")
    place.here("create", place.study(points("quality = 0.8", "quality = 0.9")))
    finish_study(place, 1, 2)
    done = place.here("finish", "small", "--top", "1", "--seeds", "2", "--devices", "cpu:1")
    assert "hpo: study 'small' is idle, not complete: these are its best settings so far\n" in done.err
    assert "0.8" in done.out


def test_an_interrupted_finish_is_resumed_by_the_same_command(place):
    run_study(place, "quality = 0.8, seconds = 0.2")
    process = place.start("finish", "small", "--top", "1", "--seeds", "4", "--devices", "cpu:1")
    assert process.stderr is not None
    while "epoch 1/3" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert "run the same command again to continue" in err
    place.here("worker", "small-finish")
    again = ("finish", "small", "--top", "1", "--seeds", "4", "--json")
    assert len(place.here(*again).json()["settings"][0]["accuracies"]) == 4
