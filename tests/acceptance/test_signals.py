"""Signals to the process that supervises workers: they reach the workers, whatever it is waiting for."""

import signal
import subprocess

import optuna
import pexpect
import pytest
import sqlalchemy as sa

from tests.support.processes import descendants, process_state, wait_for
from tests.support.workplace import HPO, epochs_reported, load

OWN = """
import pathlib
import signal
import time


def climb(config, state):
    stop = signal.getsignal(signal.SIGTERM)

    def note(number, frame):
        pathlib.Path("asked").touch()
        stop(number, frame)

    signal.signal(signal.SIGTERM, note)
    for epoch in range(state or 0, config.epochs):
        while epoch == 2 and not pathlib.Path("asked").exists():
            time.sleep(0.01)
        yield config.x, epoch + 1
"""
STUDY = """
[train]
objective = "own:climb"
epochs = 10
[space]
x = { low = 0.0, high = 1.0 }
[search]
trials = 1
pruner = "none"
sampler = "random"
"""


WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_sigterm_reaches_the_workers_while_the_live_view_waits_for_the_database(place, url):
    file, engine = place.study(STUDY), sa.create_engine(url)
    settings = {**place.environment, "HPO_STORE": url}
    run = pexpect.spawn(HPO[0], [*HPO[1:], "run", file], cwd=place.path, env=settings, timeout=120)
    try:
        run.expect("2/10")  # the worker trains, and asks nothing of the database
        with engine.connect() as other:
            other.exec_driver_sql("LOCK TABLE trials IN ACCESS EXCLUSIVE MODE")
            wait_for(lambda: other.exec_driver_sql(WAITS).scalar())
            run.kill(signal.SIGTERM)
            # Long before the lock could end the wait (``database.LOCK_TIMEOUT_SECONDS``).
            wait_for((place.path / "asked").exists, seconds=30)
        run.expect(pexpect.EOF)
    finally:
        run.close(force=True)
        engine.dispose()
    assert run.exitstatus == 143
    (trial,) = optuna.load_study(study_name="small", storage=url).trials
    assert (trial.state.name, sorted(trial.intermediate_values)) == ("WAITING", [1, 2, 3])


def test_a_run_whose_terminal_closes_lets_its_workers_save(place):
    run = place.start("run", place.study(STUDY), "--devices", "cpu:1")
    wait_for(lambda: epochs_reported(place) == 2)
    workers = descendants(run.pid)
    run.send_signal(signal.SIGHUP)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 143, err
    assert "run the same command again to continue" in err
    assert not any(process_state(pid) for pid in workers)
    (trial,) = load(place).trials
    assert (trial.state.name, sorted(trial.intermediate_values)) == ("WAITING", [1, 2, 3])


def test_a_run_under_nohup_outlives_its_terminal(place):
    words = ["nohup", *HPO, "run", place.study(STUDY), "--devices", "cpu:1"]
    with (place.path / "err").open("w") as err:
        run = subprocess.Popen(
            words, cwd=place.path, env=place.environment, stdin=subprocess.DEVNULL, stdout=err, stderr=err
        )
    wait_for(lambda: epochs_reported(place) == 2)
    run.send_signal(signal.SIGHUP)
    (place.path / "asked").touch()  # lets the worker go on
    assert run.wait(120) == 0, (place.path / "err").read_text()
    assert load(place).trials[0].state.name == "COMPLETE"
