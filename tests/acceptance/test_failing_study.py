"""Real workers of a study whose first trials all fail, and of the same study once the cause is gone."""

import optuna
import pytest

OWN = """
import pathlib


def climb(config, state):
    if pathlib.Path("broken").exists():
        raise ValueError(f"no column {config.x}")
    yield config.x, None
"""
STUDY = """
[train]
objective = "own:climb"
[space]
x = { low = 0.0, high = 1.0 }
[search]
trials = 20
sampler = "random"
pruner = "none"
"""


@pytest.mark.parametrize(
    "url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
def test_a_study_whose_first_trials_all_fail_stops_and_continues_after_a_retry(place, url):
    (place.path / "broken").touch()
    file = place.study(STUDY)
    err = place.hpo("run", file, "--devices", "cpu:2", code=1, HPO_STORE=url).err
    assert err.count("has stopped (search.max_failures)") == 1
    assert "trials failed, each time: ValueError: no column 0." in err
    assert "0000/traceback.txt" in err
    trials = optuna.load_study(study_name="small", storage=url).trials
    failed = [trial.number for trial in trials if trial.state.name == "FAIL"]
    assert len(failed) in (5, 6), "each of the two workers had a trial when the fifth failed"

    for words in (("run", file), ("launch", "small")):
        again = place.here(*words, code=1, HPO_STORE=url).err
        assert "run 'hpo retry small --failed' and start it again" in again
    assert "has stopped" in place.here("worker", "small", HPO_STORE=url).err

    (place.path / "broken").unlink()
    place.here("retry", "small", "--failed", HPO_STORE=url)
    place.hpo("launch", "small", "--devices", "cpu:2", HPO_STORE=url)
    trials = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 20
    assert [trial.user_attrs["attempts"] for trial in trials] == [1 + (n in failed) for n in range(20)]


def test_a_study_may_go_on_whatever_fails_also_one_that_has_stopped(place, url):
    (place.path / "broken").touch()
    place.here("create", place.study(STUDY), HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    file = place.study(STUDY + "max_failures = 0\n")
    place.here("create", file, HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    trials = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.state.name for trial in trials] == ["FAIL"] * 20
