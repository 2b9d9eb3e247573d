"""A launched study, by default of fourteen points, into which tests inject faults."""

import contextlib
import fcntl
import hashlib
import os
import pty
import random
import signal
import sqlite3
import struct
import subprocess
import termios
import threading
import time
from collections import Counter
from pathlib import Path
from typing import BinaryIO, ClassVar

import optuna

from tests.support.databases import plain_sql
from tests.support.disks import fill, mounted_disk, read_only
from tests.support.processes import descendants
from tests.support.workplace import HPO, Workplace

OWN = """
import hashlib
import time
import torch


def step(weight, config, epoch):
    text = f"{config.speed} {epoch} {weight.tolist()}".encode()
    return torch.tensor(list(hashlib.sha256(text).digest()), dtype=torch.float32)


def chain(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(32)}
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        state["weight"] = step(state["weight"], config, state["epoch"])
        yield 1 - 1 / (1 + state["epoch"] * config.speed), state
"""


EPOCHS, POINTS, WORKERS, KILLS = 12, 14, 4, 10


MOMENTS = {"claim", "epoch", "checkpoint", "end"}  # at which a worker is killed
LEASE_SECONDS = 5.0


STUDY = f"""
[train]
objective = "own:chain"
epochs = {EPOCHS}
seconds = 0.25

[search]
sampler = "grid"
max_attempts = 1000
""" + "".join(f"[[points]]\nspeed = {number}.0\n" for number in range(1, POINTS + 1))


class LaunchedStudy:
    """A launched study and its faults; the launcher runs within the context."""

    signals: ClassVar[list[int]] = []  # for launchers, still to be sent; shared by all studies

    def __init__(self, path: Path, url: str, seed: int, study: str = STUDY) -> None:
        self.place, self.url, self.random = prepare_workplace(path), url, random.Random(seed)
        self.sql = plain_sql(url)
        self.kills: Counter[str] = Counter()
        self.orders: Counter[str] = Counter()  # that the store has taken, by verb
        self.left_drafts: set[Path] = set()  # of killed workers
        self.settings: dict[
            str, str
        ] = {}  # more environment variables of the launcher; empty ones are unset
        self.columns = 0  # width of the launcher's terminal; 0 for none
        self.place.here("create", self.place.study(study), HPO_STORE=url)

    def __enter__(self) -> "LaunchedStudy":
        self.mounts = contextlib.ExitStack()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.launcher.poll() is None:
            for pid in [*descendants(self.launcher.pid), self.launcher.pid]:
                os.kill(pid, signal.SIGKILL)
            self.launcher.wait()
        self.mounts.close()

    def start(self) -> None:
        self.launcher = self._run("launch", "small", "--devices", f"cpu:{WORKERS}")

    def _run(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start a command, on the terminal if there is one; what it prints goes to the file ``err``."""
        settings = {"HPO_STORE": self.url, "HPO_LEASE_SECONDS": str(LEASE_SECONDS), **self.settings}
        environment = {**self.place.environment, **settings}
        with (self.place.path / "err").open("ab") as err:
            terminal = self._open_terminal(err) if self.columns else None
            output = err if terminal is None else terminal
            started = subprocess.Popen(
                [*HPO, *words],
                cwd=self.place.path,
                env={key: value for key, value in environment.items() if value},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if terminal is not None:
            os.close(terminal)
        return started

    def _open_terminal(self, copy: BinaryIO) -> int:
        """Open a terminal of ``columns`` columns, what is written to which goes to a file as well."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self.columns, 0, 0))
        name = copy.name

        def drain() -> None:
            with (
                contextlib.suppress(OSError),  # raised once every writer has closed the terminal
                open(ours, "rb", buffering=0) as reader,
                open(name, "ab", buffering=0) as writer,
            ):
                while text := reader.read(65536):
                    writer.write(text)

        threading.Thread(target=drain, daemon=True).start()
        return theirs

    def stderr_text(self) -> str:
        return (self.place.path / "err").read_text()

    def running(self) -> list[tuple[int, int, int, int]]:
        """Return worker, trial, attempt and reported epoch of every lease that a live process holds."""
        rows = self.sql(
            "SELECT owner, number, token, epoch FROM hpo_leases JOIN trials USING (trial_id) "
            "WHERE owner IS NOT NULL AND state = 'RUNNING' ORDER BY number"
        )
        held = [(int(owner.rpartition("/")[2]), *rest) for owner, *rest in rows]
        return [row for row in held if Path(f"/proc/{row[0]}").exists()]

    def choose_worker(self, moment: str) -> int | None:
        """Return a worker at a moment: just after its claim, writing a file, in its last epoch, or any."""
        held = self.running()
        if moment == "claim":
            held = [row for row in held if row[1:3] not in self.seen_claims]
            self.seen_claims |= {row[1:3] for row in held}
        elif moment == "end":
            held = [row for row in held if row[3] >= EPOCHS - 1]
        if not held:
            return None
        pid, number, *_ = self.random.choice(held)
        return pid if moment != "checkpoint" or self._stops_while_writing(pid, number) else None

    def _stops_while_writing(self, pid: int, number: int) -> bool:
        """Suspend a worker and return whether it is writing a file; if it is not, let it continue.

        A file is written in milliseconds, which nobody could wait for on a busy machine.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            if self._drafts(f"{number:04d}") - self.left_drafts:
                return True
            os.kill(pid, signal.SIGCONT)
        return False

    def _drafts(self, trial: str = "*") -> set[Path]:
        return set(self.place.path.glob(f"storage/artifacts/*/{trial}/*.draft"))

    def kill(self) -> None:
        """Kill a worker at a random moment; after three seconds without such a worker, at any moment."""
        self.seen_claims = {row[1:3] for row in self.running()}
        moment = self.random.choice(sorted(MOMENTS - self.kills.keys()) or sorted(MOMENTS))
        end = time.monotonic() + 3.0
        pid = None
        while pid is None and self.launcher.poll() is None:
            if time.monotonic() > end:
                moment = "epoch"
            pid = self.choose_worker(moment)
            time.sleep(0.002)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills[moment] += 1
            self.left_drafts |= self._drafts()
            time.sleep(self.random.uniform(0.0, 0.5))

    def suspend(self) -> None:
        """Suspend a worker for longer than its lease, then continue it."""
        pid = self.choose_worker("epoch")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(LEASE_SECONDS + self.random.uniform(0.5, 2.0))
                os.kill(pid, signal.SIGCONT)

    def signal(self) -> None:
        """Send the launcher the next of all signals, in random order; if it ends, start another one."""
        if not self.signals:
            unwanted = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGKILL}
            self.signals += sorted(signal.valid_signals() - unwanted)
            self.random.shuffle(self.signals)
        if self.launcher.poll() is None:
            self.launcher.send_signal(self.signals.pop())
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.launcher.wait(5)
            self.start_again()

    def move_surroundings(self) -> None:
        """Start the launcher again in another terminal, without a home, or without room for other files."""
        full = self.place.path / "full"
        if not full.exists():
            fill(self.mounts.enter_context(mounted_disk(full, 1)))
        self.columns = self.random.choice([0, 40, 80])
        self.settings = self.random.choice(
            [{}, {"HOME": ""}, {"TMPDIR": "/dev/null"}, {"TMPDIR": str(full), "HOME": str(full)}]
        )
        self.restart()

    def lock(self) -> None:
        """Lock an SQLite file for some seconds, as a backup or another tool does."""
        with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=60)) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(self.random.uniform(1.0, LEASE_SECONDS))
            other.rollback()

    def spoil(self) -> None:
        """Make the store or a running trial's checkpoint unusable, wait, mend it, and start again."""
        files = [*self.place.path.glob("storage/artifacts/*/*/checkpoint-*.pt")]
        if self.url.startswith("sqlite"):
            files.append(Path(self.url.removeprefix("sqlite:///")))
        if not files:
            return
        file = self.random.choice(files)
        moved = file.with_name(f"{file.name}.moved")
        with contextlib.suppress(FileNotFoundError):  # the worker has just written the next one
            file.rename(moved)
            time.sleep(self.random.uniform(0.5, 3.0))
            moved.rename(file)
        self.start_again()

    def lose_checkpoint(self) -> None:
        """Delete a running trial's checkpoint for good, and kill a worker."""
        if files := [*self.place.path.glob("storage/artifacts/*/*/checkpoint-*.pt")]:
            self.random.choice(files).unlink(missing_ok=True)
        self.kill()

    def write_protect(self) -> None:
        """Let nobody write to the artifacts, or to the folder of an SQLite file, for some seconds."""
        folders = [self.place.path / "storage/artifacts"]
        if self.url.startswith("sqlite"):
            folders.append(Path(self.url.removeprefix("sqlite:///")).parent)
        if existing := [folder for folder in folders if folder.is_dir()]:
            with read_only(self.random.choice(existing)):
                time.sleep(self.random.uniform(1.0, LEASE_SECONDS))
            self.start_again()

    def jump_clock(self) -> None:
        """Set the clock of the leases, the database's, an hour on or back, by moving the leases."""
        self.sql(
            "UPDATE hpo_leases SET expires = expires + :seconds, renewed = renewed + :seconds",
            seconds=self.random.choice([-3600.0, 3600.0]),
        )
        time.sleep(self.random.uniform(0.5, 2.0))

    def give_order(self, verb: str) -> bool:
        """Give an order on the study, and return whether it was taken: none is once the study has ended."""
        code = self._run(verb, "small").wait(120)
        assert code in (0, 1), (verb, code, self.stderr_text())
        self.orders[verb] += code == 0
        return code == 0

    def pause(self) -> None:
        """Pause the study for some seconds, and perhaps start its launcher again meanwhile."""
        if self.give_order("pause"):
            time.sleep(self.random.uniform(0.2, LEASE_SECONDS))
            if self.random.random() < 0.3:
                self.restart()
            assert self.give_order("resume"), self.stderr_text()

    def stop(self) -> None:
        """Stop the study, wait until its launcher has ended, and let it go on under another one."""
        if self.give_order("stop"):
            assert self.launcher.wait(120) == 0, self.stderr_text()
            assert self.give_order("resume"), self.stderr_text()
            self.start()

    def fill_disk(self) -> None:
        """Leave no room for artifacts, for some seconds; their folder must be a disk of its own."""
        disk = self.place.path / "storage/artifacts"
        fill(disk)
        time.sleep(self.random.uniform(1.0, LEASE_SECONDS))
        (disk / "ballast").unlink()
        self.start_again()

    def look(self) -> None:
        """Show the study on a narrow terminal or none, in whatever state it is."""
        self.columns = self.random.choice([0, 40, 80])
        verb = self.random.choice(["status", "trials", "best", "importance", "studies", "doctor"])
        code = self._run(verb, *([] if verb in ("studies", "doctor") else ["small"])).wait(120)
        assert code in (0, 1), (verb, code, self.stderr_text())

    def start_again(self) -> None:
        """Start another launcher if the last one ended before the study was complete.

        One that finds the study paused ends with 0.
        """
        if self.launcher.poll() is not None and not self.is_complete():
            self.start()

    def is_complete(self) -> bool:
        """Return whether the last launcher has ended well, and no trial is open."""
        return self.launcher.poll() == 0 and not self.sql(
            "SELECT number FROM trials WHERE state IN ('WAITING', 'RUNNING')"
        )

    def restart(self) -> None:
        """Kill the launcher, so that its workers save and exit, and start another one at once."""
        if self.launcher.poll() is None:
            self.launcher.kill()
            self.launcher.wait()
            self.start()

    def check(self, hashes: list[str] | None = None) -> None:
        """Check the guarantees that hold after any fault."""
        trials = optuna.load_study(study_name="small", storage=self.url).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * POINTS
        assert [trial.params for trial in trials] == [{"speed": float(n)} for n in range(1, POINTS + 1)]
        for trial in trials:
            assert sorted(trial.intermediate_values) == list(range(1, EPOCHS + 1))
            assert trial.value == max(trial.intermediate_values.values())
        rows = self.sql("SELECT trial_id, step, count(*) FROM trial_intermediate_values GROUP BY 1, 2")
        assert [count for _, _, count in rows] == [1] * (POINTS * EPOCHS)
        assert self.sql("SELECT count(*) FROM hpo_leases WHERE owner IS NOT NULL") == [(0,)]
        attempts = self.sql("SELECT trial_id, outcome FROM hpo_attempts ORDER BY trial_id, token")
        last = dict(attempts)  # of each trial
        assert [*last.values()] == ["complete"] * POINTS, attempts
        assert Counter(outcome for _, outcome in attempts)["complete"] == POINTS, attempts
        if hashes is not None:
            assert [weights_hash(self.place, trial) for trial in trials] == hashes

    def check_orders(self) -> None:
        """Check that the events are the orders that ``give_order`` gave."""
        told = dict(self.sql("SELECT kind, count(*) FROM hpo_events GROUP BY kind"))
        ordered = {"paused": "pause", "stopped": "stop", "resumed": "resume"}
        assert {kind: told.get(kind, 0) for kind in ordered} == {
            kind: self.orders[verb] for kind, verb in ordered.items()
        }


def weights_hash(place: Workplace, trial: optuna.trial.FrozenTrial) -> str:
    path = place.path / "storage/artifacts" / trial.user_attrs["weights"]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepare_workplace(path: Path) -> Workplace:
    path.mkdir(exist_ok=True)
    (path / "own.py").write_text(OWN)
    return Workplace(path=path, environment=dict(os.environ))


def hashes_without_faults(path: Path) -> list[str]:
    """Return the hashes of the weights of a run without faults."""
    place = prepare_workplace(path)
    place.here("create", place.study(STUDY), "--set", "train.seconds=0.0")
    place.here("worker", "small")
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{place.path}/storage/hpo.db")
    return [weights_hash(place, trial) for trial in study.trials]
