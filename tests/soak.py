"""Inject faults at random: python -m tests.soak [--seconds S] [--seed N]; ``make soak``.

First, eight processes share SQLite files for a minute. Then each round launches the fourteen points of
``acceptance/test_chaos`` on SQLite or on a new Postgres server and injects faults: killed workers, workers
stopped for longer than their lease, killed launchers and (on Postgres) a database that is down for half a
minute or crashes. At the end of a round, the results are checked. The seed decides which faults are
injected. Their time, and the process that they hit, depend on the machine too.
"""

import argparse
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.lease_study import LeaseStudy
from tests.support.storm import Storm, undisturbed

FAULTS_PER_ROUND = 20
OUTAGE_SECONDS = 30.0
SQLITE_SECONDS = 60.0


def inject_fault(storm: Storm, server: postgres.Server | None) -> str:
    """Inject one fault and return its name."""
    names = ["kill"] * 12 + ["freeze"] * 3 + ["restart"] * 2
    names += [] if server is None else ["outage", "crash"]
    name = storm.chance.choice(names)
    if server is not None and name in ("outage", "crash"):
        server.stop("fast" if name == "outage" else "immediate")
        time.sleep(OUTAGE_SECONDS if name == "outage" else 0.0)
        server.start()
    else:
        getattr(storm, name)()
    return name


def run_round(folder: Path, url: str, seed: int, server: postgres.Server | None, hashes: list[str]) -> str:
    """Run one round and check it; return the names of its faults, in order."""
    faults: list[str] = []
    with closed_engines(), Storm(folder, url, seed) as storm:
        while storm.launcher.poll() is None and len(faults) < FAULTS_PER_ROUND:
            faults.append(inject_fault(storm, server))
        assert storm.launcher.wait(300) == 0, storm.said()
        storm.check(hashes)
    return " ".join(faults)


def share_sqlite_files(folder: Path) -> int:
    """Let eight processes share SQLite files for ``SQLITE_SECONDS``; return the number of their trials."""
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
    """Print the seed, then run rounds until the time is up. A failed check raises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="start no round after that time")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chance, end, rounds = random.Random(options.seed), time.monotonic() + options.seconds, 0
    with tempfile.TemporaryDirectory(prefix="hpo-soak-") as root:
        trials = share_sqlite_files(Path(root, "shared"))
        print(f"8 processes on SQLite for a minute: {trials} trials, no error", flush=True)
        hashes = undisturbed(Path(root, "undisturbed"))
        while time.monotonic() < end:
            rounds += 1
            folder, seed, begun = Path(root, str(rounds)), chance.randrange(10**6), time.monotonic()
            if rounds % 2:
                with postgres.running() as server:
                    faults = run_round(folder, server.url, seed, server, hashes)
            else:
                faults = run_round(folder, f"sqlite:///{folder}/hpo.db", seed, None, hashes)
            seconds = time.monotonic() - begun
            print(
                f"round {rounds}, {'postgres' if rounds % 2 else 'sqlite'}: {seconds:.0f} s, {faults}",
                flush=True,
            )
    print(f"{rounds} rounds: no trial lost, run twice or with another result", flush=True)


if __name__ == "__main__":
    sys.exit(main())
