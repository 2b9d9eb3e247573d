"""Budgets besides trials, with real workers: none is passed, each is told, a raised one goes on."""

from datetime import UTC, datetime, timedelta, timezone

import optuna
import pytest

from hpo.errors import DefinitionError
from hpo.study import definition, extension
from hpo.study import file as studyfile

OWN = """
import time


def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        time.sleep(0.1)
        state["epoch"] += 1
        yield state["epoch"] / 10, state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 4

[search]
sampler = "grid"
BUDGET
""" + "".join(f"[[points]]\nkind = {number}\n" for number in range(4))


def study(**budgets: object) -> str:
    return STUDY.replace("BUDGET", "\n".join(f"{name} = {value}" for name, value in budgets.items()))


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="small", storage=url).trials


def reported(url: str) -> int:
    return sum(len(trial.intermediate_values) for trial in trials(url))


def told(err: str) -> str:
    """Give the one line that says which budget is used up."""
    (line,) = [line for line in err.splitlines() if "; to continue, raise it" in line]
    assert line.startswith("hpo: study 'small': search.")
    return line


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_epochs_are_met_by_all_workers_together_and_raising_them_goes_on(place, url):
    file = place.study(study(epochs=6))
    done = place.hpo("run", file, "--devices", "cpu:2", HPO_STORE=url)
    at_once = url.startswith("postgresql")  # a claim at the same moment is not seen
    assert 6 <= reported(url) <= 6 + at_once
    assert "search.epochs is used up" in told(done.err)
    assert "raise it in the study file, or with --set search.epochs=..." in told(done.err)
    assert not {trial.state.name for trial in trials(url)} - {"COMPLETE", "WAITING"}
    status = place.here("status", "small", "--json", HPO_STORE=url).json()
    assert (status["state"], status["workers"]) == ("idle", [])
    assert status["budgets"] == {"epochs": {"used": reported(url), "limit": 6}}
    assert "trials for a larger budget: search.epochs is used up" in status["waits"][0]
    text = place.here("status", "small", HPO_STORE=url).out
    assert f"budgets: {reported(url)} of 6 epochs" in text

    before = reported(url)
    for verb in (("run", file), ("worker", "small")):
        assert "search.epochs is used up" in told(place.here(*verb, HPO_STORE=url).err)
    assert reported(url) == before, "nobody claims"

    refused = place.here("create", place.study(study(epochs=5)), code=1, HPO_STORE=url).err
    assert refused.count("\n") == 1
    assert "search.epochs: 6 -> 5" in refused

    done = place.hpo("run", place.study(study(epochs=16)), "--devices", "cpu:2", HPO_STORE=url)
    assert "to continue, raise it" not in done.err, "it is complete"
    assert [sorted(trial.intermediate_values) for trial in trials(url)] == [[1, 2, 3, 4]] * 4
    assert [trial.state.name for trial in trials(url)] == ["COMPLETE"] * 4
    assert "continues after epoch" in done.err, "what was under way kept its checkpoint"


def test_device_hours_are_summed_over_workers(place, url):
    done = place.hpo(
        "run", place.study(study(device_hours=0.7 / 3600)), "--devices", "cpu:2", HPO_STORE=url
    )
    assert "search.device_hours is used up" in told(done.err)
    spent = sum(trial.user_attrs.get("wall_time_seconds", 0.0) for trial in trials(url))
    assert spent >= 0.7
    assert reported(url) <= 9, "7 epochs of 0.1 s, and what was under way"
    used = place.here("status", "small", "--json", HPO_STORE=url).json()["budgets"]["device_hours"]
    assert used["used"] == pytest.approx(spent / 3600)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_target_stops_the_others_and_a_trial_that_goes_on(place, url):
    done = place.hpo("run", place.study(study(target=0.3)), "--devices", "cpu:2", HPO_STORE=url)
    assert "search.target is reached (accuracy 0.3000 of 0.3)" in told(done.err)
    assert 3 <= reported(url) <= 6
    assert {trial.state.name for trial in trials(url)} == {"WAITING"}
    assert "best trial" not in done.out, "there is none yet, which is no error"
    place.hpo("run", place.study(study(target=0.4)), HPO_STORE=url)
    assert {trial.state.name for trial in trials(url)} == {"COMPLETE", "WAITING"}


def test_a_deadline_ends_the_epochs_under_way_and_a_later_one_goes_on(place, url):
    text = study(deadline=moment(6)).replace("epochs = 4", "epochs = 1000")
    done = place.hpo("run", place.study(text), "--devices", "cpu:2", HPO_STORE=url)
    assert "search.deadline is past (deadline 20" in told(done.err)
    assert {trial.state.name for trial in trials(url)} == {"WAITING"}
    assert reported(url) < 2 * 70, "nobody goes on after it"
    later = text.replace(
        next(line for line in text.splitlines() if "deadline" in line), "deadline = 2100-01-01T00:00:00"
    )
    place.here("create", place.study(later), HPO_STORE=url)
    status = place.here("status", "small", "--json", HPO_STORE=url).json()
    assert status["budgets"]["deadline"]["limit"] == "2100-01-01T00:00:00Z", "without an offset it is UTC"
    assert "for a larger budget" not in status["waits"][0]


def moment(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def limited(**budgets: object) -> definition.Definition:
    found = studyfile.parse_document(
        {"name": "s", "space": {"lr": [0.1, 0.2]}, "search": budgets}, "s.toml"
    )
    return definition.load_definition(definition.dump_definition(found))


@pytest.mark.parametrize(
    ("name", "lower", "higher"),
    [
        ("epochs", 5, 6),
        ("device_hours", 0.5, 2),
        ("target", 0.8, 0.9),
        ("deadline", datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=-1)))),
    ],
)
def test_a_budget_may_be_raised_or_removed_and_neither_lowered_nor_set_afterwards(name, lower, higher):
    low, high, none = limited(**{name: lower}), limited(**{name: higher}), limited()
    assert extension.extend_definition(low, low) == low
    assert extension.extend_definition(low, high).search.budget_limits == high.search.budget_limits
    assert extension.extend_definition(low, none).search.budget_limits == {}
    for stored, new in ((high, low), (none, low)):
        with pytest.raises(DefinitionError, match=rf"\(search.{name}: [^;]* -> [^;]*\); only more"):
            extension.extend_definition(stored, new)
