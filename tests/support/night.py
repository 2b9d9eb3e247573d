"""A study with three workers, its server and its disk, and what may happen to them in a night."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from tests.support import postgres
from tests.support.databases import plain_sql
from tests.support.disks import fill
from tests.support.morning import is_outage, read_lines
from tests.support.processes import descendants, wait_for
from tests.support.workplace import HPO, Workplace

EPOCHS, POINTS = 16, 4
PASSWORDS = "sEcret-1", "sEcret-2"

OWN = """
import pathlib
import time
import torch


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(100_000)}
    while state["epoch"] < config.epochs:
        while int(pathlib.Path("allowed").read_text()) <= state["epoch"]:
            time.sleep(0.02)
        state["epoch"] += 1
        yield state["epoch"] / 100 + config.speed / 1000, state
"""

STUDY = f"""
[train]
objective = "own:climb"
epochs = {EPOCHS}

[search]
sampler = "grid"
""" + "".join(f"[[points]]\nspeed = {number}.0\n" for number in range(POINTS))


@dataclass
class Night:
    """A study with its workers, its server and its disk, and what is done to them."""

    place: Workplace
    server: postgres.Server
    disk: Path
    allowed: int = 0  # the last epoch that trials may train
    launchers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    did: dict[str, Any] = field(default_factory=dict)  # whom the night met: process ids and trials
    times: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)  # from and to

    def __post_init__(self) -> None:
        self.log_in(PASSWORDS[0])

    def log_in(self, password: str) -> None:
        """Let what follows use a password."""
        self.password = password
        self.sql = plain_sql(self.settings["HPO_STORE"])

    @property
    def settings(self) -> dict[str, str]:
        url = sa.make_url(self.server.url).set(password=self.password)
        store = url.render_as_string(hide_password=False)
        return {"HPO_STORE": store, "HPO_ARTIFACTS": str(self.disk), "HPO_LOG_FORMAT": "json"}

    def hpo(self, *words: str) -> Any:
        return self.place.here(*words, **self.settings)

    @contextlib.contextmanager
    def timed(self, deed: str) -> Iterator[None]:
        began = datetime.now(UTC)
        yield
        self.times[deed] = (began, datetime.now(UTC))

    def launch(self, name: str, workers: int) -> None:
        """Start workers, with stderr in the file NAME.jsonl."""
        options = ("--backoff-seconds", "0.1", "--grace-seconds", "600")
        with (self.place.path / f"{name}.jsonl").open("wb") as err:
            self.launchers[name] = subprocess.Popen(
                [*HPO, "launch", "small", "--devices", f"cpu:{workers}", *options],
                cwd=self.place.path,
                env={**self.place.environment, **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )

    def kill_all(self) -> None:
        for launcher in self.launchers.values():
            if launcher.poll() is None:
                for pid in [*descendants(launcher.pid), launcher.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                launcher.wait()

    def has_told_of_outage(self, process: int) -> bool:
        lines = read_lines(self.disk.glob("*/logs/*.log"))
        return any(line["process"] == process and is_outage(line) for line in lines)

    def said(self, name: str, text: str) -> int:
        """Return how many lines of a launcher have a text."""
        return (self.place.path / f"{name}.jsonl").read_text().count(text)

    def holders(self) -> dict[int, int]:
        """Return the process of each trial that has a lease."""
        rows = self.sql(
            "SELECT number, owner FROM hpo_leases JOIN trials USING (trial_id) WHERE owner IS NOT NULL"
        )
        return {number: int(owner.rpartition("/")[2]) for number, owner in rows}

    def let_train(self, epochs: int = 1) -> None:
        self.allowed += epochs
        draft = self.place.path / "allowed.draft"
        draft.write_text(str(self.allowed))
        draft.rename(self.place.path / "allowed")

    def wait_for_epoch(self, workers: int) -> None:
        """Wait until so many trials are held and have reported the last epoch that is allowed."""
        query = "SELECT count(*) FROM hpo_leases WHERE owner IS NOT NULL AND epoch = "
        wait_for(lambda: self.sql(f"{query}{self.allowed}") == [(workers,)], 300)

    def kill_a_worker(self) -> None:
        """Kill the worker of one trial; another process takes the trial over."""
        trial, process = min(self.holders().items())
        self.did["killed"] = (trial, process)
        with self.timed("killed"):
            os.kill(process, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(process)] if psutil.pid_exists(process) else [], 60)
        wait_for(lambda: self.holders().get(trial, process) != process)
        self.wait_for_epoch(3)

    def restart_database(self) -> None:
        self.did["outage"] = [*self.holders().values()]
        with self.timed("outage"):
            self.server.stop("fast")
            self.let_train()
            wait_for(lambda: all(map(self.has_told_of_outage, self.did["outage"])))
            self.server.start()
        self.wait_for_epoch(3)

    def stop_a_trial(self) -> None:
        trial = max(self.holders())
        self.did["trial stopped"] = (trial, self.holders()[trial])
        with self.timed("trial stopped"):
            self.hpo("stop", "small", "--trial", str(trial))
            self.let_train()
            wait_for(lambda: trial not in self.holders() and len(self.holders()) == 3)
        self.wait_for_epoch(3)

    def pause(self) -> None:
        self.did["paused"] = [*self.holders().items()]
        with self.timed("paused"):
            self.hpo("pause", "small")
            self.let_train()
            wait_for(lambda: not self.holders())

    def stop_a_worker(self) -> None:
        """Ask a launcher of one worker to stop, as a scheduler does."""
        (process,) = descendants(self.launchers["one"].pid)
        (trial,) = [trial for trial, each in self.holders().items() if each == process]
        self.did["worker stopped"] = (trial, process)
        with self.timed("worker stopped"):
            self.launchers["one"].terminate()
            wait_for(lambda: self.launchers["one"].poll() is not None or self.let_train_if_idle())
        assert self.launchers["one"].returncode == 128 + signal.SIGTERM

    def let_train_if_idle(self) -> None:
        """Allow one more epoch if a worker that is told to stop waits for it."""
        query = "SELECT 1 FROM hpo_leases WHERE epoch = {} AND owner LIKE '%/{}'"
        waiting = query.format(self.allowed, self.did["worker stopped"][1])
        if self.said("one", "is asked to stop") and self.sql(waiting):
            self.let_train()

    def resume_on_full_disk(self) -> None:
        """Resume the paused study while its disk is full, until the launcher gives up."""
        self.did["full disk"] = descendants(self.launchers["many"].pid)
        with self.timed("full disk"):
            fill(self.disk)
            self.let_train()
            self.hpo("resume", "small")
            wait_for(lambda: fill(self.disk) or self.launchers["many"].poll() is not None)
            (self.disk / "ballast").unlink()
        assert self.launchers["many"].returncode == 78
        self.launch("again", 1)
        self.wait_for_epoch(1)

    def change_password(self) -> None:
        self.did["new password"] = [*self.holders().items()]
        with self.timed("new password"):
            self.sql(f"ALTER ROLE postgres PASSWORD '{PASSWORDS[1]}'")
            self.log_in(PASSWORDS[1])
            self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            self.let_train()
            wait_for(lambda: self.launchers["again"].poll() is not None)
        assert self.launchers["again"].returncode == 78
        self.launch("last", 1)
        self.let_train(EPOCHS)
        assert self.launchers["last"].wait(240) == 0
