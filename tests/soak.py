"""Run rounds of random faults: python -m tests.soak [--seconds S] [--seed N]; ``make soak``.

First, eight processes share SQLite files for a minute. Then each round launches the fourteen points of
``acceptance/test_chaos`` on SQLite or on a new Postgres server and injects faults:

* killed and suspended workers, killed launchers, any signal to the launcher;
* terminals of 40 and 80 columns and none, no home, no temporary folder;
* a checkpoint or the SQLite file that is moved away for seconds, or locked;
* on Postgres a server that stops for half a minute, crashes, or accepts connections and never answers, and
  a user whom it does not know.

At the end of a round it checks the guarantees, and that no process printed a traceback. The seed determines
the kinds of faults; their times and the workers that they hit depend on the machine too.
"""

import argparse
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.launched_study import LaunchedStudy, hashes_without_faults
from tests.support.lease_study import LeaseStudy

FAULTS_PER_ROUND = 20
OUTAGE_SECONDS = 30.0
SQLITE_SECONDS = 60.0


def inject_fault(launched: LaunchedStudy, server: postgres.Server | None) -> str:
    """Inject one random fault and return its kind."""
    kinds = ["kill"] * 12 + ["suspend"] * 3 + ["restart"] * 2
    kinds += ["signal", "spoil", "move_surroundings"] * 2
    kinds += ["lock"] * 2 if server is None else ["outage", "crash", "silence", "stranger"]
    kind = launched.random.choice(kinds)
    if server is not None and kind in ("outage", "crash"):
        server.stop("fast" if kind == "outage" else "immediate")
        time.sleep(OUTAGE_SECONDS if kind == "outage" else 0.0)
        server.start()
    elif server is not None and kind == "silence":
        server.suspend(launched.random.uniform(5.0, 15.0))
    elif server is not None and kind == "stranger":
        stranger = sa.make_url(server.url).set(username="stranger").render_as_string()
        err = launched.place.hpo("worker", "small", code=78, HPO_STORE=stranger).err
        assert "PGPASSWORD" in err, err
        assert err.count("\n") == 1, err
    else:
        getattr(launched, kind)()
    return kind


def run_round(folder: Path, url: str, seed: int, server: postgres.Server | None, hashes: list[str]) -> str:
    """Run one round, check it, and return the kinds of its faults in order."""
    faults: list[str] = []
    with closed_engines(), LaunchedStudy(folder, url, seed) as launched:
        while launched.launcher.poll() != 0 and len(faults) < FAULTS_PER_ROUND:
            if launched.launcher.poll() is not None:
                launched.start()
            faults.append(inject_fault(launched, server))
        for _ in range(3):  # the last faults may have ended the launcher
            if launched.launcher.wait(300) != 0:
                launched.start()
        assert launched.launcher.wait(300) == 0, launched.stderr_text()
        assert "Traceback" not in launched.stderr_text(), launched.stderr_text()
        launched.check(hashes)
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


def main() -> None:
    """Run rounds until the time is over; a failed check raises, after the seed was printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="no round starts after this time")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    generator, end, rounds = random.Random(arguments.seed), time.monotonic() + arguments.seconds, 0
    with tempfile.TemporaryDirectory(prefix="hpo-soak-") as root:
        print(
            f"8 processes on SQLite for a minute: {load_sqlite(Path(root, 'sqlite'))} trials, no error",
            flush=True,
        )
        hashes = hashes_without_faults(Path(root, "without-faults"))
        while time.monotonic() < end:
            rounds += 1
            folder, seed, started = Path(root, str(rounds)), generator.randrange(10**6), time.monotonic()
            if rounds % 2:
                with postgres.running() as server:
                    faults = run_round(folder, server.url, seed, server, hashes)
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
