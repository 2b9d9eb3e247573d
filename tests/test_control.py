"""Studies under control, with real workers: pause, resume, stop, retry; one trial spoils no other."""

import time

import optuna

import conftest
from test_chaos import EPOCHS, POINTS, Storm
from test_lease_processes import wait_for

OWN = """
import pathlib
import time
import torch


def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        time.sleep(0.2)
        state["epoch"] += 1
        if config.kind == "fragile" and state["epoch"] == 3 and pathlib.Path("broken").exists():
            raise RuntimeError("no such luck")
        while config.kind == "patient" and not pathlib.Path("put back").exists():
            time.sleep(0.1)
        if config.kind == "huge":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        yield state["epoch"] / 100, state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 10

[search]
sampler = "grid"
"""


def points(*kinds: str) -> str:
    return STUDY + "".join(f'[[points]]\nkind = "{kind}"\n' for kind in kinds)


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="small", storage=url).trials


def test_pause_resume_and_stop_under_four_workers_lose_and_double_nothing(url, tmp_path):
    with Storm(tmp_path, url, seed=0) as storm:

        def hpo(*words: str, code: int = 0) -> conftest.Done:
            return storm.place.hpo(*words, code=code, HPO_STORE=url)

        wait_for(lambda: len(storm.running()) == 4, 60)
        assert "paused" in hpo("pause", "small").out
        wait_for(lambda: not storm.running(), 30)
        now = hpo("status", "small", "--json").json()
        assert (now["state"], now["workers"]) == ("paused", [])
        assert 1 <= storm.said().count("(the study is paused)") <= 4, "some trial may just have ended"
        assert storm.launcher.poll() is None, "workers wait"
        hpo("resume", "small")
        wait_for(lambda: len(storm.running()) == 4)

        hpo("stop", "small")
        at_most = reports(storm) + 4
        assert storm.launcher.wait(30) == 0
        assert reports(storm) <= at_most, "no worker ends more than the epoch it is in"
        assert "study 'small' was stopped" in storm.said()
        assert hpo("status", "small", "--json").json()["state"] == "stopped"
        assert "'hpo resume small' first" in hpo("launch", "small", code=78).err
        hpo("resume", "small")
        storm.start()
        assert storm.launcher.wait(120) == 0, storm.said()
        assert hpo("status", "small", "--json").json()["state"] == "complete"
    storm.check()
    assert max(trial.user_attrs["attempts"] for trial in trials(url)) > 1, "interrupted trials went on"


def reports(storm: Storm) -> int:
    return storm.sql("SELECT count(*) FROM trial_intermediate_values")[0][0]


def test_a_failed_trial_is_put_back_and_goes_on_from_its_checkpoint_under_a_worker_that_saw_it_fail(
    place, url
):
    (place.path / "broken").touch()
    place.hpo("create", place.study(points("fragile", "patient")), HPO_STORE=url)
    refused = place.hpo("retry", "small", "--trial", "0", code=1, HPO_STORE=url)
    assert "has no failed trial 0" in refused.err
    worker = place.start("worker", "small", HPO_STORE=url)
    wait_for(lambda: trials(url)[0].state.name == "FAIL", 60)
    failed = trials(url)[0]
    assert failed.user_attrs["failure"] == {"class": "RuntimeError", "message": "no such luck"}
    (place.path / "broken").unlink()
    assert "trial 0 of study small" in place.hpo("retry", "small", "--failed", HPO_STORE=url).out
    (place.path / "put back").touch()
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 0
    first, second = trials(url)
    assert (first.state.name, second.state.name) == ("COMPLETE", "COMPLETE")
    assert sorted(first.intermediate_values) == list(range(1, 11))
    assert "failure" not in first.user_attrs
    assert first.user_attrs["attempts"] == 2
    assert "attempt 2, goes on after epoch" in err
    assert "has no failed trial" in place.hpo("retry", "small", "--failed", code=1, HPO_STORE=url).err
    assert place.hpo("retry", "small", code=2, HPO_STORE=url).out == ""


def test_a_trial_that_runs_out_of_memory_fails_alone_and_says_what_to_try(place, url):
    file = place.study(points("huge", "sound").replace("epochs = 10", "epochs = 1\nbatch_size = 64"))
    place.hpo("create", file, HPO_STORE=url)
    place.hpo("worker", "small", HPO_STORE=url)
    huge, sound = trials(url)
    assert (huge.state.name, sound.state.name) == ("FAIL", "COMPLETE")
    assert huge.user_attrs["failure"]["class"] == "out_of_memory"
    message = huge.user_attrs["failure"]["message"]
    assert message.startswith("out of memory on cpu: peak ")
    assert "with batch_size 64; batch_size 32 takes about half" in message
    assert huge.user_attrs["attempts"] == 1, "it is not tried again by itself"


def test_status_is_followed_until_the_study_is_complete(place):
    place.hpo("create", place.study(points("sound")), "--set", "train.epochs=3")
    follower = place.start("status", "small", "--watch")
    time.sleep(1.0)
    place.hpo("worker", "small")
    out, err = follower.communicate(timeout=30)
    lines = out.splitlines()
    assert (follower.returncode, err) == (0, "")
    assert lines[0].startswith("study small is idle: 1 waiting")
    assert lines[-1].startswith("study small is complete: 1 complete")
    assert len(lines) < POINTS * EPOCHS, "a line per change, not per look"
