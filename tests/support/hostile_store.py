"""A finished store with artifacts, and files beside them that nothing may read, change or remove.

Every case of ``tests.mutated_attributes`` begins with the same store: ``HostileStore.restore`` puts rows
and files back, and ``HostileStore.damage`` says which files a case has changed that it may not change.
"""

import json
import os
import re
import secrets
import shutil
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import safetensors.torch
import sqlalchemy as sa
import torchvision
from optuna.storages._rdb import models
from optuna.trial import TrialState
from PIL import Image

from hpo.analysis import finish
from hpo.artifacts.folders import Artifacts
from hpo.artifacts.optuna_store import ADDED_FOLDER
from hpo.export.folder import export_trial
from hpo.store import process, queue, rows, studies, tables, waiting_workers
from hpo.store.storage import Storage
from hpo.store.tables import leases
from hpo.study import file
from hpo.training import catalog
from hpo.workers import worker
from tests.support.databases import closed_engines

OWN = """
def climb(config, state):
    done = state["epoch"] if isinstance(state, dict) and isinstance(state.get("epoch"), int) else 0
    for epoch in range(done + 1, min(config.epochs, 5) + 1):
        if config.speed == 4:
            raise RuntimeError("no luck")
        yield config.speed / 10 + epoch / 100, {"epoch": epoch}
"""
SMALL = """
[train]
objective = "own:climb"
epochs = 4
[space]
speed = [1, 2, 3, 4]
rate = { low = 0.1, high = 1.0, log = true }
kind = { choices = ["a", "b"], when = { speed = [1, 2] } }
[search]
trials = 8
pruner = { name = "asha", min_epochs = 1, reduction_factor = 2 }
keep_weights = 2
device_hours = 5.0
[[points]]
speed = 3
rate = 0.5
site = "C"
attributes = { room = 3 }
"""
GRID = """
[train]
objective = "own:climb"
epochs = 3
[search]
sampler = "grid"
replicates = 2
""" + "".join(f"[[points]]\nspeed = {speed}\nsite = 'L'\n" for speed in (1, 2, 3))
VISION = """
[train]
dataset = "digits"
image_size = 32
weights = "none"
epochs = 2
[search]
sampler = "grid"
[[points]]
model = "shufflenet_v2_x0_5"
lr = 0.01
"""
OURS = (leases, tables.attempts, tables.events, tables.workers, tables.schema)
TABLES = [table.name for table in (*models.BaseModel.metadata.sorted_tables, *OURS)]
MODEL = "model"  # the folder of an exported model
CLASSES = [str(digit) for digit in range(10)]


class StopWhenIdle(threading.Event):
    """Ends a worker that would wait for something."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


def run_worker(storage: Storage, name: str, artifacts: Artifacts) -> None:
    """Run the trials of a study in this process, until the worker would wait."""
    settings = worker.WorkerSettings(
        artifacts=artifacts, data=Path("data"), device="cpu", shown_as="cpu", lease_seconds=60
    )
    for _ in worker.run_worker(storage, name, settings, StopWhenIdle()):
        pass


class HostileStore:
    """The store, its artifacts, and the files beside them.

    Args:
        place: An empty folder: the working directory of every command.
        url: The store; an empty database.
        remote: Keep the artifacts in an object store (of fsspec, in memory), not in a folder.
    """

    def __init__(self, place: Path, url: str, *, remote: bool = False) -> None:
        self.place, self.url = place, url
        self.root = f"memory://{place.name}/artifacts" if remote else str(place / "storage/artifacts")
        self.artifacts = Artifacts(self.root)
        self.secret = secrets.token_hex(16)  # in every file that nobody may read
        self.folders: dict[str, str] = {}  # of each study, by name
        self.names: dict[str, str] = {"root": str(place)}  # for the texts of a mutator
        self._build()
        self._saved_rows = self._read_rows()
        self._saved_files = self._read_files()

    # Building

    def _build(self) -> None:
        (self.place / "own.py").write_text(OWN)
        with closed_engines():
            storage = studies.open_storage(self.url, create=True)
            for name, text in (("small", SMALL), ("grid", GRID), ("other", GRID), ("vision", VISION)):
                (self.place / f"{name}.toml").write_text(text)
                definition = file.load_study_file(Path(self.place / f"{name}.toml"))
                studies.create_study(storage, definition, text)
            for name in ("small", "grid", "other"):
                run_worker(storage, name, self.artifacts)
            wanted = finish.plan_finish(storage, "small", 2, 2)
            finish.create_finish_study(storage, wanted)
            run_worker(storage, wanted.name, self.artifacts)
            self._add_open_trials(storage)
            self.study_names = ["small", "grid", "other", "vision", wanted.name, "plain"]  # by their ids
            for name in self.study_names[:-1]:
                self.folders[name] = studies.artifacts_folder(storage, name)
            self._complete_vision(storage)
            self.names |= {"own": self.folders["small"], "other": self.folders["other"]}
            self.names |= {
                "attached": self._attach(storage, "small"),
                "foreign": self._attach(storage, "other"),
            }
            optuna.create_study(study_name="plain", storage=storage).optimize(
                lambda trial: trial.suggest_float("x", 0, 1), n_trials=2
            )
        self._add_canaries()
        Image.new("L", (8, 8)).save(self.place / "image.png")
        with closed_engines():
            storage = studies.open_storage(self.url, create=False)
            export_trial(storage, "vision", None, self.artifacts, self.place / MODEL)

    def _add_open_trials(self, storage: Storage) -> None:
        """Add a worker, a waiting trial, one whose lease has expired, and one that waits at a rung."""
        study_id = studies.find_study_id(storage, "small")
        definition = studies.read_definition(storage, "small")
        for _ in range(2):
            studies.enqueue_setting(
                storage, "small", file.point_from_texts(definition, ["speed=2", "kind=a", "rate=0.5"])
            )
        owner = process.current_owner("cpu")
        waiting_workers.Presence(storage, study_id, owner, 60).renew()
        queue.claim_trial(storage, study_id, owner, lease_seconds=60, max_attempts=9)
        with storage.transaction() as session:
            session.execute(
                sa.update(leases).where(leases.c.owner.is_not(None)).values(expires=1.0, process=None)
            )
            pruned = (rows.trials.c.study_id == study_id) & (rows.trials.c.state == TrialState.PRUNED)
            trial_id = session.execute(
                sa.select(rows.trials.c.trial_id).where(pruned).limit(1)
            ).scalar_one()
            session.execute(
                sa.update(rows.trials)
                .where(rows.trials.c.trial_id == trial_id)
                .values(state=TrialState.WAITING)
            )
            session.execute(sa.delete(rows.values).where(rows.values.c.trial_id == trial_id))
            rows.write_attributes(session, trial_id, {"hpo:paused": 1}, system=True)

    def _complete_vision(self, storage: Storage) -> None:
        """Complete the trial of the image model as a worker does, but without training it."""
        study_id = studies.find_study_id(storage, "vision")
        claim = queue.claim_trial(
            storage, study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=9
        )
        assert claim is not None
        parameters = studies.read_definition(storage, "vision").parameters()
        given = {"model": "shufflenet_v2_x0_5", "lr": 0.01}
        stored = {name: (parameters[name].distribution(), value) for name, value in given.items()}
        claim.commit(
            parameters={
                name: (kind.to_internal_repr(value), kind) for name, (kind, value) in stored.items()
            }
        )
        folder = f"{self.folders['vision']}/0000"
        model = torchvision.models.get_model(
            given["model"], **catalog.builder_arguments(str(given["model"]), len(CLASSES))
        )
        weights = f"{folder}/weights-0001-001.safetensors"
        self.artifacts.write(weights, safetensors.torch.save(model.state_dict()))
        images = {"train": 100, "valid": 20, "test": 20}
        data = {"classes": CLASSES, "channels": 1, "pixels": 32, "images": images, "skipped": 0}
        settings = {"trial": 0, "params": given, "settings": {}, "data": data}
        self.artifacts.write(f"{folder}/settings.json", json.dumps(settings).encode())
        facts = {"weights": weights, "epochs": 1, "best_epoch": 1, "wall_time_seconds": 1.0, "images": 20}
        facts["hardware"] = {"device": "cpu", "host": "h", "torch": "2", "threads": 1}
        with storage.transaction() as session:
            rows.write_report(session, claim.trial_id, 1, 0.5)
        claim.end(TrialState.COMPLETE, value=0.5, user_attributes=facts)

    def _attach(self, storage: Storage, study: str) -> str:
        """Attach a file to the first trial of a study, as a user of the dashboard does; return its id."""
        given = str(uuid.UUID(bytes=study.encode().ljust(16, b"-")[:16]))
        self.artifacts.write(f"{ADDED_FOLDER}/{given}", b"attached")
        entry = {"artifact_id": given, "filename": "a.txt", "mimetype": "text/plain", "encoding": None}
        trial = storage.get_all_trials(studies.find_study_id(storage, study))[0]
        with storage.transaction() as session:
            attached = {f"artifacts:{given}": json.dumps(entry)}
            rows.write_attributes(session, trial._trial_id, attached, system=True)
        return given

    def _add_canaries(self) -> None:
        text = f"secret {self.secret}\n".encode()
        for path in (
            "secret.txt",
            "storage/secret.txt",
            "outside/secret.txt",
            "outside/0000/settings.json",
        ):
            (self.place / path).parent.mkdir(parents=True, exist_ok=True)
            (self.place / path).write_bytes(text)
        for name in ("../secret.txt", "secret.txt", "victim/settings.json", "victim/0000/settings.json"):
            self._put(name, text)
        # The folder of a study in another store: its form is right, so it may be read.
        for each in ("settings.json", "epochs.csv", "weights-0001-001.pt", "checkpoint-0001-001-ab.pt"):
            self._put(f"victim-0123abcd/0000/{each}", b"of another store")
        if self.artifacts.is_local:
            own = Path(self.root, self.folders["small"])
            for link in (
                "0000/weights-0009-001.pt",
                "0000/secret.txt",
                "0001/settings.json",
                "0002/epochs.csv",
            ):
                (own / link).unlink(missing_ok=True)
                (own / link).symlink_to(self.place / "outside/secret.txt")
            (own / "0010").symlink_to(self.place / "outside")  # of the trial that waits
            Path(self.root, "link").symlink_to(self.place / "outside")

    def _put(self, name: str, content: bytes) -> None:
        path = f"{self.artifacts.root}/{name}".replace("artifacts/../", "")
        self.artifacts.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.artifacts.filesystem.pipe_file(path, content)

    # Putting back, and comparing

    def restore(self) -> None:
        """Put rows and files back to what they were before the first case."""
        shutil.rmtree(self.place / "out", ignore_errors=True)
        (self.place / "out").mkdir()
        self._restore_rows()
        now, before = self._read_files(), self._saved_files
        for name in [name for name in now if before.get(name) != now[name]]:
            self._remove(name)
        for name in [name for name in before if before[name] != now.get(name)]:
            self._write(name, before[name])

    def damage(self, allowed: Sequence[str]) -> list[str]:
        """Return what has happened to files beside those that a command may change, a text for each.

        Args:
            allowed: Regular expressions of the names within the artifacts that may change.
        """
        now, before = self._read_files(), self._saved_files
        may_change = re.compile(rf"(storage|remote)/artifacts/({'|'.join(allowed) or '(?!)'})")
        changed = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
        return [
            f"{'removed' if name not in now else 'changed' if name in before else 'made'} {name}"
            for name in changed
            if not may_change.fullmatch(name)
        ]

    def files_of(self, *studies: str) -> list[str]:
        """Return regular expressions of the files of studies, for ``damage``."""
        folders = [re.escape(self.folders[name]) for name in studies if name in self.folders]
        folders += [rf"{re.escape(name)}-(?!0123abcd)[0-9a-f]{{8}}" for name in studies]
        return [f"{folder}/.*" for folder in folders]

    def tracebacks(self) -> list[str]:
        """Return the tracebacks of the trials that have failed since the store was put back."""
        changed = self._read_files().items() - self._saved_files.items()
        return [str(text, "utf-8") for name, text in changed if name.endswith("traceback.txt")]

    def leaked(self) -> list[str]:
        """Return the files that a command has written although they contain the secret."""
        paths = (path for path in (self.place / "out").rglob("*") if path.is_file())
        return [str(path) for path in paths if self.secret.encode() in path.read_bytes()]

    def _read_rows(self) -> Any:
        if self._database is not None:
            return self._database.read_bytes()
        engine = sa.create_engine(self.url)
        with engine.connect() as connection:
            found = {
                name: connection.execute(sa.text(f"SELECT * FROM {name}")).mappings().all()
                for name in TABLES
            }
        engine.dispose()
        return {name: [dict(row) for row in each] for name, each in found.items()}

    @property
    def _database(self) -> Path | None:
        return Path(self.url.removeprefix("sqlite:///")) if self.url.startswith("sqlite") else None

    def _restore_rows(self) -> None:
        if self._database is not None:
            for suffix in ("-wal", "-shm", "-journal"):
                Path(f"{self._database}{suffix}").unlink(missing_ok=True)
            self._database.write_bytes(self._saved_rows)
            return
        engine = sa.create_engine(self.url)
        with engine.begin() as connection:
            for name in reversed(TABLES):
                connection.execute(sa.text(f"DELETE FROM {name}"))
            for name, each in self._saved_rows.items():
                if each:
                    values = ", ".join(f":{column}" for column in each[0])
                    connection.execute(
                        sa.text(f"INSERT INTO {name} ({', '.join(each[0])}) VALUES ({values})"), each
                    )
        engine.dispose()

    def _read_files(self) -> dict[str, bytes | Path]:
        """Return every file by its path: its content, or where a link leads; of the database nothing."""
        found: dict[str, bytes | Path] = {}
        for top, folders, files in os.walk(self.place):
            for each in [*files, *folders]:
                path = os.path.join(top, each)
                name = path[len(str(self.place)) + 1 :]
                if name.startswith(("storage/hpo.db", "out/", "__pycache__/")):
                    continue
                if os.path.islink(path):
                    found[name] = Path(os.readlink(path))
                elif each in files:
                    with open(path, "rb") as opened:
                        found[name] = opened.read()
        for key, each in self._objects.items():
            if key.startswith(self._bucket):
                found[f"remote/{key.removeprefix(self._bucket)}"] = each.getvalue()
        return found

    @property
    def _objects(self) -> dict[str, Any]:
        return {} if self.artifacts.is_local else dict(self.artifacts.filesystem.store)

    @property
    def _bucket(self) -> str:
        return f"/{self.place.name}/"

    def _remove(self, name: str) -> None:
        if name.startswith("remote/"):
            self.artifacts.filesystem.rm_file(self._bucket + name.removeprefix("remote/"))
        else:
            (self.place / name).unlink()

    def _write(self, name: str, content: bytes | Path) -> None:
        if name.startswith("remote/"):
            self.artifacts.filesystem.pipe_file(self._bucket + name.removeprefix("remote/"), content)
            return
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
