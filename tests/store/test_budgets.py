"""Budgets other than trials, with real workers.

No budget is exceeded, a used-up budget is reported, and raising it resumes the study.
"""

from datetime import UTC, datetime, timedelta, timezone

import optuna
import pytest

from hpo.errors import DefinitionError
from hpo.study import extension
from hpo.study.definition import Definition, dump_definition, load_definition
from hpo.study.file import parse_document
from tests.support.log_lines import messages

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


def study_text(**budgets: object) -> str:
    return STUDY.replace("BUDGET", "\n".join(f"{name} = {value}" for name, value in budgets.items()))


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="small", storage=url).trials


def reported_epochs(url: str) -> int:
    return sum(len(trial.intermediate_values) for trial in trials(url))


def used_up_line(err: str) -> str:
    """Return the one line that says which budget is used up."""
    (line,) = [line for line in messages(err) if "; to continue, raise it" in line]
    assert line.startswith("hpo: study 'small': search.")
    return line


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_an_epoch_budget_is_shared_by_all_workers_and_raising_it_resumes_the_study(place, url):
    file = place.study(study_text(epochs=6))
    done = place.hpo("run", file, "--devices", "cpu:2", HPO_STORE=url)
    # Two workers that commit at the same moment do not see each other's epoch: each may begin one more.
    assert 6 <= reported_epochs(url) <= 6 + 2
    assert "search.epochs is used up" in used_up_line(done.err)
    assert "raise it in the study file, or with --set search.epochs=..." in used_up_line(done.err)
    assert not {trial.state.name for trial in trials(url)} - {"COMPLETE", "WAITING"}
    status = place.here("status", "small", "--json", HPO_STORE=url).json()
    assert (status["state"], status["workers"]) == ("idle", [])
    assert status["budgets"] == {"epochs": {"used": reported_epochs(url), "limit": 6}}
    assert "trials for a larger budget: search.epochs is used up" in status["waits"][0]
    text = place.here("status", "small", HPO_STORE=url).out
    assert f"budgets: {reported_epochs(url)} of 6 epochs" in text

    before = reported_epochs(url)
    for verb in (("run", file), ("worker", "small")):
        assert "search.epochs is used up" in used_up_line(place.here(*verb, HPO_STORE=url).err)
    assert reported_epochs(url) == before, "no worker claims a trial"

    refused = place.here("create", place.study(study_text(epochs=5)), code=1, HPO_STORE=url).err
    assert refused.count("\n") == 1
    assert "search.epochs: 6 -> 5" in refused

    place.here("create", place.study(study_text(epochs=16)), HPO_STORE=url)
    done = place.here("worker", "small", HPO_STORE=url)
    assert "to continue, raise it" not in done.err, "the study is complete"
    assert [sorted(trial.intermediate_values) for trial in trials(url)] == [[1, 2, 3, 4]] * 4
    assert [trial.state.name for trial in trials(url)] == ["COMPLETE"] * 4
    assert "continues after epoch" in done.err, "interrupted trials kept their checkpoints"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_device_hours_are_summed_over_workers(place, url):
    done = place.hpo(
        "run", place.study(study_text(device_hours=0.7 / 3600)), "--devices", "cpu:2", HPO_STORE=url
    )
    assert "search.device_hours is used up" in used_up_line(done.err)
    spent = sum(trial.user_attrs.get("wall_time_seconds", 0.0) for trial in trials(url))
    assert spent >= 0.7
    assert reported_epochs(url) <= 9, "7 epochs of 0.1 s, and the epochs that were running"
    used = place.here("status", "small", "--json", HPO_STORE=url).json()["budgets"]["device_hours"]
    assert used["used"] == pytest.approx(spent / 3600)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_reached_target_stops_all_workers_and_a_higher_one_resumes_the_study(place, url):
    done = place.hpo("run", place.study(study_text(target=0.3)), "--devices", "cpu:2", HPO_STORE=url)
    assert "search.target is reached (accuracy 0.3000 of 0.3)" in used_up_line(done.err)
    assert 3 <= reported_epochs(url) <= 6
    assert {trial.state.name for trial in trials(url)} == {"WAITING"}
    assert "best trial" not in done.out, "there is no best trial yet, which is not an error"
    place.here("create", place.study(study_text(target=0.4)), HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    assert {trial.state.name for trial in trials(url)} == {"COMPLETE", "WAITING"}


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_a_deadline_stops_running_epochs_and_can_be_moved_to_a_later_time(place, url):
    text = study_text(deadline=time_after(6)).replace("epochs = 4", "epochs = 1000")
    done = place.hpo("run", place.study(text), "--devices", "cpu:2", HPO_STORE=url)
    assert "search.deadline is past (deadline 20" in used_up_line(done.err)
    assert {trial.state.name for trial in trials(url)} == {"WAITING"}
    assert reported_epochs(url) < 2 * 70, "no worker continues after the deadline"
    later = text.replace(
        next(line for line in text.splitlines() if "deadline" in line), "deadline = 2100-01-01T00:00:00"
    )
    place.here("create", place.study(later), HPO_STORE=url)
    status = place.here("status", "small", "--json", HPO_STORE=url).json()
    assert status["budgets"]["deadline"]["limit"] == "2100-01-01T00:00:00Z", "without an offset it is UTC"
    assert "for a larger budget" not in status["waits"][0]


def time_after(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def definition_with(**budgets: object) -> Definition:
    definition = parse_document({"name": "s", "space": {"lr": [0.1, 0.2]}, "search": budgets}, "s.toml")
    return load_definition(dump_definition(definition))


@pytest.mark.parametrize(
    ("name", "lower", "higher"),
    [
        ("epochs", 5, 6),
        ("device_hours", 0.5, 2),
        ("target", 0.8, 0.9),
        ("deadline", datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=-1)))),
    ],
)
def test_a_budget_can_be_raised_or_removed_but_not_lowered_or_added_later(name, lower, higher):
    low, high, none = definition_with(**{name: lower}), definition_with(**{name: higher}), definition_with()
    assert extension.extend_definition(low, low) == low
    assert extension.extend_definition(low, high).budget_limits == high.budget_limits
    assert extension.extend_definition(low, none).budget_limits is None
    for stored, new in ((high, low), (none, low)):
        with pytest.raises(DefinitionError, match=rf"\(search.{name}: [^;]* -> [^;]*\); only more"):
            extension.extend_definition(stored, new)
