"""Run rounds of random faults: python -m tests.soak [--seconds S] [--seed N]; ``make soak``.

First, eight processes share SQLite files for a minute, and a study's image folder is damaged in several
ways while it runs. Then each round launches the fourteen points of ``acceptance/test_chaos`` on SQLite or
on a new Postgres server and injects faults:

* killed and suspended workers, killed launchers, every signal to the launcher in turn;
* terminals of 40 and 80 columns and none, no home, a temporary folder that is missing or full;
* a checkpoint or the SQLite file that is moved away for seconds, locked or write-protected, and a
  checkpoint that is lost;
* a clock that jumps by an hour;
* orders to pause and to stop the study, after which it goes on, and artifacts on a full disk;
* on Postgres a server that stops for half a minute, crashes, or accepts connections and never answers, a
  wrong password and a user whom it does not know, and a password that is changed for a while.

At the end of a round it checks the guarantees, and that no process printed a traceback or the password. The
seed determines the kinds of faults; their times and the workers that they hit depend on the machine too.
Full and write-protected disks need a root that may mount.
"""

import argparse
import contextlib
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from PIL import Image

from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.disks import mounted_disk
from tests.support.launched_study import LaunchedStudy, hashes_without_faults
from tests.support.lease_study import LeaseStudy
from tests.support.processes import descendants, wait_for
from tests.support.workplace import epochs_reported, load, workplace_in

FAULTS_PER_ROUND = 20
# Kinds of faults, with their weights.
FAULTS = {"kill": 12, "suspend": 3, "restart": 2, "signal": 4, "spoil": 2, "move_surroundings": 2}
FAULTS |= {"lose_checkpoint": 2, "write_protect": 2, "jump_clock": 2, "look": 2}
FAULTS |= {"pause": 2, "stop": 1, "fill_disk": 2}
SQLITE_FAULTS = {"lock": 2}
POSTGRES_FAULTS = {"outage": 1, "crash": 1, "silence": 1, "wrong_login": 1, "change_password": 1}
PASSWORD = "correct-horse"
OUTAGE_SECONDS = 30.0
SQLITE_SECONDS = 60.0


def inject_fault(launched: LaunchedStudy, server: postgres.Server | None) -> str:
    """Inject one random fault and return its kind."""
    kinds = FAULTS | (SQLITE_FAULTS if server is None else POSTGRES_FAULTS)
    (kind,) = launched.random.choices([*kinds], [*kinds.values()])
    if server is not None and kind in POSTGRES_FAULTS:
        inject_server_fault(launched, server, kind)
    else:
        getattr(launched, kind)()
    return kind


def inject_server_fault(launched: LaunchedStudy, server: postgres.Server, kind: str) -> None:
    if kind in ("outage", "crash"):
        server.stop("fast" if kind == "outage" else "immediate")
        time.sleep(OUTAGE_SECONDS if kind == "outage" else 0.0)
        server.start()
    elif kind == "silence":
        server.suspend(launched.random.uniform(5.0, 15.0))
    elif kind == "wrong_login":
        wrong = launched.random.choice([{"username": "stranger"}, {"password": "wrong"}])
        url = sa.make_url(launched.url).set(**wrong).render_as_string(hide_password=False)
        err = launched.place.hpo("worker", "small", code=78, HPO_STORE=url).err
        assert "PGPASSWORD" in err, err
        assert err.count("\n") == 1, err
    else:
        worker = launched.choose_worker("epoch")
        engine = sa.create_engine(launched.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("ALTER ROLE postgres PASSWORD 'another'")
            if worker is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            time.sleep(launched.random.uniform(1.0, 5.0))
            connection.exec_driver_sql(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
        engine.dispose()
        launched.start_again()


def run_round(folder: Path, url: str, seed: int, server: postgres.Server | None, hashes: list[str]) -> str:
    """Run one round, check it, and return the kinds of its faults in order."""
    faults: list[str] = []
    (folder / "storage").mkdir(parents=True)
    with (
        closed_engines(),
        mounted_disk(folder / "storage/artifacts", 32),
        LaunchedStudy(folder, url, seed) as launched,
    ):
        while not launched.is_complete() and len(faults) < FAULTS_PER_ROUND:
            launched.start_again()
            faults.append(inject_fault(launched, server))
        for _ in range(3):  # the last faults may have ended the launcher
            launched.launcher.wait(300)
            launched.start_again()
        launched.launcher.wait(300)
        assert launched.is_complete(), launched.stderr_text()
        for word in ("Traceback", PASSWORD):
            assert word not in launched.stderr_text(), launched.stderr_text()
        launched.check(hashes)
        launched.check_orders()
    return " ".join(faults)


def load_sqlite(folder: Path) -> int:
    """Let eight busy processes share SQLite files for ``SQLITE_SECONDS``; return how many trials ran."""
    end, trials = time.monotonic() + SQLITE_SECONDS, 0
    while time.monotonic() < end:
        trials += 100
        place = folder / str(trials)
        place.mkdir(parents=True)
        url = f"sqlite:///{place}/hpo.db"
        with closed_engines():
            study = LeaseStudy(url, plain_sql(url), 100, place)
            with study.workers(8, seconds=300.0, epochs=5) as workers:
                pass
            study.check(100, 5)
            assert workers.err.read_text() == ""
    return trials


IMAGES_STUDY = """
[train]
dataset = "folder:./pets"
model = "squeezenet1_1"
image_size = 32
weights = "none"
epochs = 400
[search]
sampler = "grid"
[[points]]
lr = 0.01
[[points]]
lr = 0.001
"""


def write_images(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog", "fox"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def damage_images(folder: Path) -> None:
    """Damage a study's image folder while it runs: it is refused, and once restored the study completes."""
    pets, copy = folder / "pets", folder / "copy"
    write_images(copy)
    damages: dict[str, Callable[[], object]] = {
        "removed": (pets / "cat/3.png").unlink,
        "emptied": lambda: (pets / "cat/3.png").write_bytes(b""),
        "added": lambda: shutil.copy(pets / "dog/0.png", pets / "dog/new.png"),
        "renamed": lambda: (pets / "fox").rename(pets / "wolf"),
        "gone": lambda: pets.rename(folder / "elsewhere"),
        "dead": lambda: (pets / "dog/dead.png").symlink_to("nowhere.png"),
    }
    place = workplace_in(folder)
    launch = ("launch", "small", "--devices", "cpu:2", "--lease-seconds", "5")
    shutil.copytree(copy, pets)
    place.hpo("create", place.study(IMAGES_STUDY))
    for name, damage in damages.items():
        before = epochs_reported(place)
        launcher = place.start(*launch)
        try:
            wait_for(lambda before=before: epochs_reported(place) > before)
            damage()
            os.kill(descendants(launcher.pid)[0], signal.SIGKILL)
            _, err = launcher.communicate(timeout=120)
        finally:
            launcher.kill()
        assert launcher.returncode == 78, (name, err)
        assert "Traceback" not in err, (name, err)
        assert "pets" in err.splitlines()[-1], (name, err)
        for each in (pets, folder / "elsewhere"):
            shutil.rmtree(each, ignore_errors=True)
        shutil.copytree(copy, pets)
    place.hpo(*launch)
    assert {trial.state.name for trial in load(place).trials} == {"COMPLETE"}


def main() -> None:
    """Run rounds until the time is over; a failed check raises, after the seed was printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="no round starts after so long")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    generator, rounds = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="hpo-soak-") as root:
        print(
            f"8 processes on SQLite for a minute: {load_sqlite(Path(root, 'sqlite'))} trials, no error",
            flush=True,
        )
        (folder := Path(root, "images")).mkdir()
        damage_images(folder)
        print("an image folder was damaged in six ways, refused and restored", flush=True)
        hashes = hashes_without_faults(Path(root, "without-faults"))
        end = time.monotonic() + arguments.seconds
        while time.monotonic() < end:
            rounds += 1
            folder, seed, started = Path(root, str(rounds)), generator.randrange(10**6), time.monotonic()
            if rounds % 2:
                with postgres.running(password=PASSWORD) as server:
                    url = sa.make_url(server.url).set(password=PASSWORD)
                    text = url.render_as_string(hide_password=False)
                    faults = run_round(folder, text, seed, server, hashes)
            else:
                faults = run_round(folder, f"sqlite:///{folder}/hpo.db", seed, None, hashes)
            seconds = time.monotonic() - started
            print(
                f"round {rounds}, {'postgres' if rounds % 2 else 'sqlite'}: {seconds:.0f} s, {faults}",
                flush=True,
            )
    print(f"{rounds} rounds; nothing was lost, repeated or different", flush=True)


if __name__ == "__main__":
    sys.exit(main())
