"""Rounds of faults for as long as wanted: python -m tests.soak [--seconds S] [--seed N]; ``make soak``.

First eight processes share SQLite files for a minute. Then each round launches the fourteen points of
``acceptance/test_chaos`` on SQLite or on a Postgres of its own, strikes them with kills, sleeps past the
lease, killed launchers and (on Postgres) a database that is away for half a minute or crashes, and checks
what is promised. The seed decides what strikes where it can; when, and whom, the machine decides too.
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

STRIKES = 20
AWAY_SECONDS = 30.0
CROWD_SECONDS = 60.0


def strike(storm: Storm, server: postgres.Server | None) -> str:
    """Strike once; give what it was."""
    names = ["kill"] * 12 + ["freeze"] * 3 + ["restart"] * 2
    names += [] if server is None else ["away", "crash"]
    name = storm.chance.choice(names)
    if server is not None and name in ("away", "crash"):
        server.stop("fast" if name == "away" else "immediate")
        time.sleep(AWAY_SECONDS if name == "away" else 0.0)
        server.start()
    else:
        getattr(storm, name)()
    return name


def play(folder: Path, url: str, seed: int, server: postgres.Server | None, hashes: list[str]) -> str:
    """Play one round and check it; give what struck, in order."""
    struck: list[str] = []
    with closed_engines(), Storm(folder, url, seed) as storm:
        while storm.launcher.poll() is None and len(struck) < STRIKES:
            struck.append(strike(storm, server))
        assert storm.launcher.wait(300) == 0, storm.said()
        storm.check(hashes)
    return " ".join(struck)


def crowd(folder: Path) -> int:
    """Let eight busy processes share SQLite files for ``CROWD_SECONDS``; give the trials they ran."""
    end, trials = time.monotonic() + CROWD_SECONDS, 0
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
    """Play rounds until the time is up; a broken promise raises, and its seed is on the screen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="no round begins after that")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    orders = parser.parse_args()
    print(f"seed {orders.seed}", flush=True)
    chance, end, rounds = random.Random(orders.seed), time.monotonic() + orders.seconds, 0
    with tempfile.TemporaryDirectory(prefix="hpo-soak-") as root:
        print(
            f"8 processes on SQLite for a minute: {crowd(Path(root, 'crowd'))} trials, no complaint",
            flush=True,
        )
        hashes = undisturbed(Path(root, "undisturbed"))
        while time.monotonic() < end:
            rounds += 1
            folder, seed, begun = Path(root, str(rounds)), chance.randrange(10**6), time.monotonic()
            if rounds % 2:
                with postgres.running() as server:
                    struck = play(folder, server.url, seed, server, hashes)
            else:
                struck = play(folder, f"sqlite:///{folder}/hpo.db", seed, None, hashes)
            seconds = time.monotonic() - begun
            print(
                f"round {rounds}, {'postgres' if rounds % 2 else 'sqlite'}: {seconds:.0f} s, {struck}",
                flush=True,
            )
    print(f"{rounds} rounds, nothing lost, doubled or different", flush=True)


if __name__ == "__main__":
    sys.exit(main())
