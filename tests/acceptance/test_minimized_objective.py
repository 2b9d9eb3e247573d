"""A study of an objective that is minimized, from its file to its final evaluation."""

import pytest

from hpo.errors import DefinitionError
from hpo.study import extension
from hpo.study.file import parse_document
from tests.support.workplace import load

OWN = """
import random


def cost(config, state):
    state = state or {"epoch": 0}
    luck = random.Random(f"{config.size}/{config.seed}").gauss(0, 0.01)
    while state["epoch"] < config.epochs:
        state["epoch"] += 1
        yield config.size / 10 + 1 / state["epoch"] + luck, state
"""

STUDY = """
[train]
objective = "own:cost"
epochs = 4
[search]
sampler = "grid"
direction = "minimize"
metric_name = "word_error"
SEARCH
[[points]]
size = 5
[[points]]
size = 3
[[points]]
size = 8
"""


def study_text(search: str = "", direction: str = "minimize") -> str:
    return STUDY.replace("SEARCH", search).replace("minimize", direction)


def test_every_verb_names_the_metric_and_takes_the_lowest_value(place):
    place.here("create", place.study(study_text()))
    done = place.here("worker", "small")
    assert "trial 0 epoch 4/4: word error " in done.err
    study = load(place)
    assert (study.direction.name, study.metric_names) == ("MINIMIZE", ["word_error"])
    assert [t.value for t in study.trials] == [min(t.intermediate_values.values()) for t in study.trials]
    best = place.here("best", "small", "--json").json()
    assert (best["trial"], best["value"]) == (1, study.best_value)
    assert (best["metric"], best["direction"]) == ("word_error", "minimize")
    assert not {"accuracy", "accuracies"} & best.keys()
    for words in (("best", "small"), ("status", "small"), ("trials", "small"), ("studies",)):
        out = place.here(*words).out
        assert "accuracy" not in out, words
        assert "word error" in out or words == ("studies",)
        assert f"{study.best_value:.4f}" in out, words
    listed = place.here("trials", "small", "--json").json()
    assert [each["value"] for each in listed] == [trial.value for trial in study.trials]


def test_a_final_evaluation_says_by_how_much_the_best_is_lower(place):
    place.here("create", place.study(study_text()))
    place.here("worker", "small")
    found = place.here("finish", "small", "--seeds", "4", "--devices", "cpu:1", "--json").json()
    assert [each["trial"] for each in found["settings"]] == [1, 0, 2]
    means = [each["mean"] for each in found["settings"]]
    assert means == sorted(means)
    assert found["decided"] is True
    assert found["difference"]["low"] > 0
    assert found["conclusion"].startswith("The best is trial 1's setting: 0.")
    assert "lower than trial 0's setting" in found["conclusion"]
    assert "accuracies" not in found["settings"][0]
    assert found["metric"] == "word_error"


def test_a_target_is_reached_from_above_and_a_lower_one_extends_the_study(place):
    place.here("create", place.study(study_text("target = 0.9")))
    done = place.here("worker", "small")
    assert "search.target is reached (word error 0." in done.err
    first, *others = load(place).trials
    assert first.intermediate_values[2] > 0.9 >= first.intermediate_values[3]
    assert not any(trial.intermediate_values for trial in others)
    refused = place.here("create", place.study(study_text("target = 1.0")), code=1).err
    assert "search.target: 0.9 -> 1.0" in refused
    assert refused.count("\n") == 1
    place.here("create", place.study(study_text("target = 0.0")))
    place.here("worker", "small")
    assert [trial.state.name for trial in load(place).trials] == ["COMPLETE"] * 3


def test_a_study_of_the_other_direction_is_no_start(place):
    searched = study_text().split("[[points]]")[0].replace('"grid"', '"tpe"')
    searched += "trials = 3\n[space]\nsize = [1, 2, 3, 4]\n"
    place.here("create", place.study(searched, "old"))
    place.here("worker", "old")
    for name, text in (("same", searched), ("other", searched.replace("minimize", "maximize"))):
        file = place.study(text.replace("trials = 3", 'trials = 3\nstart_from = ["old"]'), name)
        done = place.here("create", file, code=0 if name == "same" else 1)
        assert done.err.count("\n") == 1, done.err
    assert "the metric is word_error (minimized) there and word_error (maximized) here" in done.err


def test_the_directions_of_two_definitions_differ():
    document = {"name": "s", "train": {"objective": "a:b"}, "space": {"x": [1, 2]}}
    higher, lower = (
        parse_document(document | {"search": {"direction": each}}, "s.toml")
        for each in ("maximize", "minimize")
    )
    with pytest.raises(DefinitionError, match=r"search\.direction: 'maximize' -> 'minimize'"):
        extension.extend_definition(higher, lower)
