"""Measure what a look of the live view costs: a study of 3,000 trials with 20 epochs each, on SQLite.

A look reads the study and draws it. The first one reads everything. Each later one reads what has changed:
here one trial. ``hpo run`` looks in a thread of its own, at most once a second; the processor time is what
that takes from the workers.

Run it with ``make bench``, or ``python -m benchmarks.live_view``.
"""

import io
import random
import statistics
import tempfile
import time

import sqlalchemy as sa
from optuna.trial import TrialState
from rich.console import Console

from benchmarks.store import make_definition
from benchmarks.synthetic_trials import SyntheticTrial, write_trials
from hpo.api.live_study import LiveStudy
from hpo.store import rows, studies
from hpo.store.storage import Storage

TRIALS, EPOCHS, LOOKS = 3000, 20, 20
MOST_MILLISECONDS = 100.0  # of a look after the first one


def store_study(url: str) -> tuple[Storage, list[int]]:
    """Store a study whose trials have all ended, and one that waits; return the ids of those that ended."""
    storage, definition = studies.open_storage(url, create=True), make_definition(TRIALS + 1)
    studies.create_study(storage, definition, "")
    states = random.Random(0).choices([TrialState.COMPLETE, TrialState.PRUNED], [0.4, 0.6], k=TRIALS)
    with storage.engine.begin() as connection:
        numbered = sa.select(rows.trials.c.trial_id).order_by(rows.trials.c.number).limit(TRIALS)
        ids = [*connection.scalars(numbered)]
        write_trials(connection, ids, [SyntheticTrial(state=state, epochs=EPOCHS) for state in states])
    return storage, ids


def look(study: LiveStudy, console: Console) -> float:
    """Read and draw the study; return the processor time in milliseconds."""
    began = time.process_time()
    study.read()
    console.print(study.running_view(20, stopping=False))
    return (time.process_time() - began) * 1e3


def main() -> None:
    """Print the cost of the first look and the median of those that follow; fail if that is too much."""
    console = Console(width=100, height=24, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory(prefix="hpo-live-") as folder:
        storage, ids = store_study(f"sqlite:///{folder}/hpo.db")
        study = LiveStudy(storage, "hpo")
        first, later = look(study, console), []
        for trial_id in ids[:LOOKS]:
            change = sa.update(rows.trials).where(rows.trials.c.trial_id == trial_id)
            with storage.engine.begin() as connection:
                connection.execute(change.values(datetime_complete=sa.func.current_timestamp()))
            later.append(look(study, console))
        storage.engine.dispose()
    median = statistics.median(later)
    print(f"a look at {TRIALS} trials of {EPOCHS} epochs, milliseconds of processor time:")
    print(f"the first {first:.0f}, then {median:.0f} ({min(later):.0f} to {max(later):.0f})")
    if median > MOST_MILLISECONDS:
        raise SystemExit(f"want at most {MOST_MILLISECONDS:.0f}")


if __name__ == "__main__":
    main()
