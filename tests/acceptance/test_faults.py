"""Faults of network, disk and clock, and other tools, with real workers; network and disk need root."""

import contextlib
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from hpo.artifacts import checkpoint
from hpo.workers import worker
from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.disks import fill, mounted_disk
from tests.support.log_lines import messages
from tests.support.network import Link, network_link, require_root
from tests.support.processes import descendants, wait_for
from tests.support.workplace import HPO

OWN = """
import time
import torch


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(100_000)}
    while state["epoch"] < config.epochs:
        time.sleep(0.2)
        state["epoch"] += 1
        with open("progress", "a") as file:
            print(config.speed, state["epoch"], file=file)
        yield 1 - 1 / (1 + state["epoch"] * config.speed), state
"""


def study(*epochs: int) -> str:
    """Return a study with one point for each number of epochs."""
    head = '[train]\nobjective = "own:climb"\n\n[search]\nsampler = "grid"\n'
    points = (f"\n[[points]]\nspeed = {i}.0\nepochs = {n}\n" for i, n in enumerate(epochs, 1))
    return head + "".join(points)


def progress(place) -> list[list[str]]:
    """Return speed and number of every trained epoch, in the order of training."""
    path = place.path / "progress"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def epochs(place, speed: float) -> int:
    return sum(words[0] == str(speed) for words in progress(place))


def reports(sql, number: int) -> int:
    query = (
        "SELECT count(*) FROM trial_intermediate_values JOIN trials USING (trial_id) WHERE number = :number"
    )
    return sql(query, number=number)[0][0]


def check(url: str, planned: list[int], attempts: list[int]) -> None:
    """Check that each trial is complete with its planned epochs after its number of attempts."""
    trials = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * len(planned)
    for trial, epochs in zip(trials, planned, strict=True):
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
    assert [trial.user_attrs["attempts"] for trial in trials] == attempts


# The network


@pytest.fixture
def link() -> Iterator[Link]:
    with network_link() as created:
        yield created


def test_a_network_cut_is_noticed_training_goes_on_and_reports_catch_up(place, link):
    """One worker reports all the time; the other claims and ends one small trial after another."""
    planned = [60] + [1] * 16
    settings = {"listen_addresses": link.here.address, "trusted": f"{link.there.address}/29"}
    with contextlib.ExitStack() as cleanup:
        server = cleanup.enter_context(postgres.running(**settings))
        cleanup.enter_context(closed_engines())
        url = sa.make_url(server.url).set(host=link.here.address).render_as_string(hide_password=False)
        file = place.study(study(*planned))
        with (place.path / "err").open("w") as err:
            launcher = subprocess.Popen(
                ["ip", "netns", "exec", link.namespace, *HPO, "run", file, "--devices", "cpu:2"],
                cwd=place.path,
                env={**place.environment, "HPO_STORE": url},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        cleanup.callback(kill_launcher, launcher)
        wait_for(lambda: epochs(place, 1.0) >= 5 and len({words[0] for words in progress(place)}) >= 4)
        link.cut()
        cut = time.monotonic()
        wait_for(lambda: count_lines(place, "trying again") == 2)  # both workers
        noticed = time.monotonic() - cut
        sql = plain_sql(url)
        before, reported = epochs(place, 1.0), reports(sql, 0)
        wait_for(lambda: epochs(place, 1.0) >= before + 10)
        assert reports(sql, 0) == reported
        assert count_lines(place, "is back after") == 0
        link.heal()
        healed = time.monotonic()
        wait_for(lambda: reports(sql, 0) > reported)
        caught_up = time.monotonic() - healed
        wait_for(lambda: count_lines(place, "is back after") == 2)
        back = time.monotonic() - healed
        assert launcher.wait(120) == 0, (place.path / "err").read_text()
        print(
            f"noticed after {noticed:.1f} s; a report {caught_up:.1f} s after the heal, both {back:.1f} s"
        )
        assert count_lines(place, "died") == 0
        shown = [
            each
            for each in messages((place.path / "err").read_text())
            if each.startswith("hpo: ") and "lease of trial" not in each
        ]
        away = [each for each in shown if "trying again" in each]
        assert away, "the workers' connections may break in different ways, which are told apart"
        assert len(away) == len(set(away))
        assert any("is back after" in each for each in shown)
        check(url, planned, [1] * len(planned))
        assert len(progress(place)) == sum(planned), "no epoch ran twice"
        # Seconds on an idle machine. Without keep-alives and timeouts, TCP takes a quarter of an hour.
        assert max(noticed, caught_up) < 100


def test_a_worker_that_starts_while_the_database_is_unavailable_is_restarted(place):
    with contextlib.ExitStack() as cleanup:
        server = cleanup.enter_context(postgres.running())
        cleanup.enter_context(closed_engines())
        place.here("create", place.study(study(20, 1)), HPO_STORE=server.url)
        launcher = place.start("launch", "small", "--devices", "cpu:1", HPO_STORE=server.url)
        cleanup.enter_context(launcher)  # closes its pipes
        err = cleanup.enter_context(following(launcher))
        cleanup.callback(kill_launcher, launcher)
        wait_for(lambda: epochs(place, 1.0) >= 2)
        server.stop("fast")
        os.kill(descendants(launcher.pid)[0], 9)
        wait_for(lambda: any("Connection refused; starting it again" in line for line in err))
        server.start()
        assert launcher.wait(120) == 0, "".join(err)
        check(server.url, [20, 1], [2, 1])


REFUSALS = {
    "password": ("ALTER ROLE postgres PASSWORD 'another'", "PGPASSWORD or ~/.pgpass"),
    "role": ("ALTER ROLE postgres NOLOGIN", "let the role log in"),
}


@pytest.mark.parametrize(
    ("verb", "code", "changed"),
    [("worker", 78, "password"), ("launch", 78, "role"), ("run", 1, "password")],
)
def test_workers_that_the_server_no_longer_lets_in_end_with_one_line(place, verb, code, changed):
    """A Slurm array, or a Job, would otherwise restart them for ever."""
    statement, advice = REFUSALS[changed]
    file = place.study(study(1000))
    with contextlib.ExitStack() as cleanup:
        server = cleanup.enter_context(postgres.running(password="right"))
        cleanup.enter_context(closed_engines())
        url = sa.make_url(server.url).set(password="right").render_as_string(hide_password=False)
        place.here("create", file, HPO_STORE=url)
        process = place.start(verb, file if verb == "run" else "small", HPO_STORE=url)
        cleanup.callback(kill_launcher, process)
        wait_for(lambda: epochs(place, 1.0) >= 2)
        plain_sql(url)(statement)
        server.stop("fast")
        server.start()
        _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    *_, last = [line for line in messages(err) if line.startswith("hpo: store")]  # it was away before
    assert advice in last
    assert sum(advice in line for line in messages(err)) == 1
    assert "right" not in err


@contextlib.contextmanager
def following(process: subprocess.Popen[str]) -> Iterator[list[str]]:
    """Yield the growing list of the lines that a process writes to stderr."""
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    reader.start()
    try:
        yield lines
    finally:
        reader.join(60)


def count_lines(place, text: str) -> int:
    """Return how many lines about the store in the workers' log files contain a text."""
    files = place.path.glob("storage/artifacts/*/logs/*.log")
    lines = [line for file in files for line in file.read_text().splitlines()]
    return sum(text in line for line in lines if "lease of trial" not in line)


def kill_launcher(launcher: subprocess.Popen) -> None:
    """Kill a launcher and all its workers, if it still runs."""
    if launcher.poll() is None:
        for pid in [*descendants(launcher.pid), launcher.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        launcher.wait()


# The disk


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """Return a disk of eight megabytes."""
    require_root("mount", "umount")
    with mounted_disk(tmp_path / "disk", 8) as path:
        yield path


def run_into_a_full_disk(place, disk: Path, **settings: str) -> str:
    """Run the study while the disk fills up and stays full; return the last line of stderr."""
    launcher = place.start("run", place.study(study(10, 2)), "--devices", "cpu:1", **settings)
    try:
        wait_for(lambda: len(progress(place)) >= 5)
        wait_for(lambda: fill(disk) or launcher.poll() is not None)
    finally:
        kill_launcher(launcher)
    _, err = launcher.communicate()
    assert launcher.returncode == 1, err
    assert "Traceback" not in err
    (disk / "ballast").unlink()
    return messages(err)[-1]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_full_disk_under_the_artifacts_prints_one_line_and_loses_no_epoch(place, disk, url):
    settings = {"HPO_STORE": url, "HPO_ARTIFACTS": str(disk)}
    line = run_into_a_full_disk(place, disk, **settings)
    assert line.startswith(f"hpo: {disk}/")
    assert line.endswith("No space left on device")
    trial = optuna.load_study(study_name="small", storage=url).trials[0]
    assert trial.state.name == "WAITING"
    saved = checkpoint.load(disk / trial.user_attrs["checkpoint"])
    assert saved is not None
    assert list(disk.rglob("*.draft")) == []
    again = place.here("worker", "small", **settings)
    assert "trial 0 starts" in again.err
    assert "continues after epoch" in again.err
    check(url, [10, 2], [worker.MAX_FAILURES + 1, 1])


def test_a_full_disk_under_sqlite_prints_one_line_and_loses_no_epoch(place, disk):
    url = f"sqlite:///{disk}/hpo.db"
    line = run_into_a_full_disk(place, disk, HPO_STORE=url)
    assert line.startswith(f"hpo: store {url}: ")
    with contextlib.closing(sqlite3.connect(disk / "hpo.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    place.here("worker", "small", HPO_STORE=url)
    check(url, [10, 2], [2, 1])


# The clock


def test_a_worker_in_another_time_zone_claims_and_keeps_leases(place):
    with postgres.running(timezone="Asia/Tokyo") as server, closed_engines():
        settings = {"HPO_STORE": server.url, "HPO_LEASE_SECONDS": "5"}
        place.here("create", place.study(study(20, 20)), **settings)
        zones = ("America/New_York", "Australia/Sydney")
        workers = [place.start("worker", "small", PGTZ=zone, TZ=zone, **settings) for zone in zones]
        outputs = [worker.communicate(timeout=120) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], outputs
        check(server.url, [20, 20], [1, 1])
        assert len(progress(place)) == 40, "no epoch ran twice"


# Other tools


def test_a_trial_run_by_another_tool_is_listed_and_not_claimed(place):
    url = f"sqlite:///{place.path}/hpo.db"
    with closed_engines():
        place.here("create", place.study(study(2, 2)), HPO_STORE=url)
        foreign = optuna.load_study(study_name="small", storage=url).ask()
        done = place.hpo("launch", "small", "--devices", "cpu:1", HPO_STORE=url)
        assert f"trial {foreign.number} " not in done.err
        trials = optuna.load_study(study_name="small", storage=url).trials
        states = {trial.number: trial.state.name for trial in trials}
        assert states == {foreign.number: "RUNNING", 1 - foreign.number: "COMPLETE"}
        status = place.here("status", "small", "--json", HPO_STORE=url).json()
        assert (status["trials"]["running"], status["trials"]["complete"]) == (1, 1)
        assert status["workers"] == []
