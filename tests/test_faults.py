"""The network, the disk and the clock against real workers; the first two want root, as CI has."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

import conftest
import postgres
from hpo import checkpoint
from test_lease_processes import wait_for

OWN = """
import time
import torch


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(config.numbers)}
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        with open("progress", "a") as file:
            print(config.speed, state["epoch"], file=file)
        yield 1 - 1 / (1 + state["epoch"] * config.speed), state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 20
seconds = 0.2
numbers = 100_000

[search]
sampler = "grid"

[[points]]
speed = 1.0

[[points]]
speed = 2.0
"""


@pytest.fixture
def place(workplace):
    (workplace.path / "own.py").write_text(OWN)
    return workplace


def progress(place) -> int:
    path = place.path / "progress"
    return len(path.read_text().splitlines()) if path.exists() else 0


def check(url: str, attempts: list[int]) -> None:
    """Check that both trials are complete, with each epoch once, after so many attempts."""
    trials = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    for trial in trials:
        assert sorted(trial.intermediate_values) == list(range(1, trial.user_attrs["epochs"] + 1))
    assert [trial.user_attrs["attempts"] for trial in trials] == attempts


def want_root(*tools: str) -> None:
    """Skip a test that wants root and tools where they are not; never in CI."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        why = f"wants root and {', '.join(tools)}"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)


# The network


@dataclass(frozen=True, kw_only=True)
class Link:
    """A cable between this machine and a network namespace, which can be cut without a sign of it."""

    namespace: str
    here: str  # interfaces and addresses at both ends
    there: str
    address: str
    peer: str

    def cut(self) -> None:
        """Send what goes there to nobody: no error, no reset, packets just vanish."""
        self._neighbour("02:00:00:00:00:99")

    def heal(self) -> None:
        self._neighbour(self.hardware())

    def _neighbour(self, hardware: str) -> None:
        ip("neigh", "replace", self.peer, "lladdr", hardware, "dev", self.here, "nud", "permanent")

    def hardware(self) -> str:
        words = ip("-n", self.namespace, "-o", "link", "show", self.there).split()
        return words[words.index("link/ether") + 1]


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@pytest.fixture
def link() -> Iterator[Link]:
    want_root("ip")
    mark, net = os.getpid() % 100_000, f"10.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}"
    found = Link(
        namespace=f"hpo{mark}",
        here=f"hpoa{mark}",
        there=f"hpob{mark}",
        address=f"{net}.1",
        peer=f"{net}.2",
    )
    ip("netns", "add", found.namespace)
    try:
        ip("link", "add", found.here, "type", "veth", "peer", "name", found.there, "netns", found.namespace)
        ip("addr", "add", f"{found.address}/24", "dev", found.here)
        ip("link", "set", found.here, "up")
        for device in (found.there, "lo"):
            ip("-n", found.namespace, "link", "set", device, "up")
        ip("-n", found.namespace, "addr", "add", f"{found.peer}/24", "dev", found.there)
        yield found
    finally:
        ip("netns", "delete", found.namespace)  # its end of the cable goes with it, and so does ours


def test_a_network_cut_is_noticed_and_made_up_for_and_training_goes_on(place, link):
    settings = {"listen_addresses": link.address, "trusted": f"{link.address}/24"}
    with postgres.running(**settings) as server, conftest.closed_engines():
        url = sa.make_url(server.url).set(host=link.address).render_as_string(hide_password=False)
        sql = conftest.asking(url)
        place.hpo("create", place.study(STUDY), "--set", "train.epochs=60", HPO_STORE=url)
        with (place.path / "err").open("w") as err:
            worker = subprocess.Popen(
                ["ip", "netns", "exec", link.namespace, *conftest.HPO, "worker", "small"],
                cwd=place.path,
                env={**place.environment, "HPO_STORE": url},
                stderr=err,
            )
        try:
            wait_for(lambda: progress(place) >= 5)
            link.cut()
            cut = time.monotonic()
            wait_for(lambda: "trying again" in (place.path / "err").read_text())
            noticed = time.monotonic() - cut
            before, reported = progress(place), reports(sql)
            wait_for(lambda: progress(place) >= before + 10)
            assert reports(sql) == reported
            link.heal()
            healed = time.monotonic()
            wait_for(lambda: reports(sql) > reported)
            made_up = time.monotonic() - healed
            assert worker.wait(120) == 0, (place.path / "err").read_text()
        finally:
            worker.kill()
            worker.wait()
        print(f"noticed after {noticed:.1f} s, made up for {made_up:.1f} s after the heal")
        assert noticed < 6
        assert made_up < 3
        check(url, [1, 1])
        assert progress(place) == 120, "no epoch was run twice"


def reports(sql) -> int:
    return sql("SELECT count(*) FROM trial_intermediate_values")[0][0]


# The disk


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of eight megabytes."""
    want_root("mount")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def run_into_a_full_disk(place, disk: Path, **settings: str) -> conftest.Done:
    """Launch the study, fill the disk meanwhile, and give what the launcher said."""
    launcher = place.start("launch", "small", "--devices", "cpu:1", **settings)
    wait_for(lambda: progress(place) >= 5)
    fill(disk)
    out, err = launcher.communicate(timeout=60)
    assert "Traceback" not in err
    return conftest.Done(code=launcher.returncode, out=out, err=err)


def test_a_full_disk_under_the_artifacts_costs_a_line_and_no_epoch(place, disk, url):
    settings = {"HPO_STORE": url, "HPO_ARTIFACTS": str(disk)}
    place.hpo("create", place.study(STUDY), **settings)
    done = run_into_a_full_disk(place, disk, **settings)
    assert done.code == 78
    assert done.err.splitlines()[-1].startswith(f"hpo: {disk}/")
    assert "No space left on device" in done.err.splitlines()[-1]
    trial = optuna.load_study(study_name="small", storage=url).trials[0]
    assert trial.state.name == "WAITING"
    assert checkpoint.load(disk / trial.user_attrs["checkpoint"]) is not None
    assert list(disk.rglob("*.draft")) == []
    (disk / "ballast").unlink()
    again = place.hpo("launch", "small", "--devices", "cpu:1", **settings)
    assert "trial 0 starts" in again.err
    assert "goes on after epoch" in again.err
    check(url, [2, 1])


def test_a_full_disk_under_sqlite_costs_a_line_and_no_epoch(place, disk):
    url = f"sqlite:///{disk}/hpo.db"
    place.hpo("create", place.study(STUDY), HPO_STORE=url)
    done = run_into_a_full_disk(place, disk, HPO_STORE=url)
    assert done.code == 78
    assert done.err.splitlines()[-1].startswith(f"hpo: store {url}: ")
    (disk / "ballast").unlink()
    with contextlib.closing(sqlite3.connect(disk / "hpo.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    place.hpo("launch", "small", "--devices", "cpu:1", HPO_STORE=url)
    check(url, [2, 1])


# The clock


def test_a_worker_in_another_time_zone_keeps_and_takes_leases_like_any(place):
    with postgres.running(timezone="Asia/Tokyo") as server, conftest.closed_engines():
        settings = {"HPO_STORE": server.url, "HPO_LEASE_SECONDS": "3"}
        place.hpo("create", place.study(STUDY), "--set", "train.epochs=30", **settings)
        zones = ("America/New_York", "Australia/Sydney")
        workers = [place.start("worker", "small", PGTZ=zone, TZ=zone, **settings) for zone in zones]
        outputs = [worker.communicate(timeout=90) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], outputs
        check(server.url, [1, 1])
        assert progress(place) == 60, "no epoch was run twice"
