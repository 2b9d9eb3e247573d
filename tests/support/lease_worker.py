"""Workers as real processes, without training: they claim trials, commit epochs and end trials.

    python lease_worker.py '{"url": ..., "processes": 4, ...}'

forks that many workers, forks another for each that is killed, and exits when the study is complete.
Each event is a line of the output: ``start PID``, ``claimed PID TRIAL TOKEN``, ``ended ...``, ``lost ...``
"""

import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from optuna.trial import TrialState

from hpo.retry import MAX_WAIT_SECONDS
from hpo.store import lease, process, queue, studies
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition, Point
from hpo.study.search_options import Pruner, Search
from hpo.training.config import Config

NAME = "study"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What the workers do.

    Attributes:
        url: URL of the store.
        processes: Number of workers.
        epochs: Epochs of each trial.
        epoch_seconds: Seconds that an epoch takes.
        lease_seconds: Seconds for which a lease is valid.
        create: Trials of the study that each worker creates instead of running trials; 0 runs trials.
        unnamed: Whether every second worker claims without its process's name, so that other workers
            notice its death only when its lease expires.
    """

    url: str
    processes: int
    epochs: int = 1
    epoch_seconds: float = 0.0
    lease_seconds: float = 60.0
    create: int = 0
    unnamed: bool = False


def definition(trials: int = 3, *points: dict[str, space.Value]) -> Definition:
    """Return the definition of a study that searches the learning rate and lists points."""
    rate = space.Parameter(name="lr", kind="float", values=space.Range(low=1e-4, high=1.0, log=True))
    return Definition(
        name=NAME,
        train=Config(dataset="digits", epochs=3).model_dump(),
        space=(rate,),
        search=Search(trials=trials, pruner=Pruner(name="none")),
        points=tuple(Point(setting=point) for point in points),
    )


def claim_next(storage: Storage, study_id: int) -> lease.Claim | None:
    """Claim the next trial of a study for this process."""
    owner = process.current_owner("cpu")
    return queue.claim_trial(storage, study_id, owner, lease_seconds=60, max_attempts=1)


def print_event(*words: object) -> None:
    # One write, so that the lines of several processes do not mix.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def run_trials(options: WorkerOptions, index: int) -> None:
    """Run trials until none is left; an epoch's accuracy is the token of the attempt that wrote it."""
    storage = studies.open_storage(options.url, create=False)
    storage.max_wait_seconds = MAX_WAIT_SECONDS
    study_id = studies.find_study_id(storage, NAME)
    owner = process.current_owner("cpu")
    if options.unnamed and index % 2:
        owner = dataclasses.replace(owner, process="")
    while True:
        claim = queue.claim_trial(
            storage, study_id, owner, lease_seconds=options.lease_seconds, max_attempts=1000
        )
        if claim is not None:
            print_event("claimed", os.getpid(), claim.number, claim.token)
            print_event(run_trial(claim, options), os.getpid(), claim.number, claim.token)
        elif queue.has_open_trials(storage, study_id):
            time.sleep(0.05)
        else:
            return


def run_trial(claim: lease.Claim, options: WorkerOptions) -> str:
    completed = 0 if claim.checkpoint is None else int(claim.checkpoint)
    try:
        with lease.keep_lease(claim):
            for epoch in range(completed + 1, options.epochs + 1):
                time.sleep(options.epoch_seconds)
                claim.commit(
                    checkpoint=str(epoch),
                    report=(epoch, float(claim.token)),
                    user_attributes={"epochs": epoch},
                )
            claim.end(TrialState.COMPLETE, value=float(claim.token))
        return "ended"
    except lease.LeaseLost:
        return "lost"


def create_study(options: WorkerOptions, index: int) -> None:
    storage = studies.open_storage(options.url, create=True)
    print_event("created", studies.create_study(storage, definition(options.create), "text"))


def fork_worker(job: Callable[[WorkerOptions, int], None], options: WorkerOptions, index: int) -> int:
    """Fork a process that runs a job; it exits with 1 and a traceback if the job raises."""
    pid = os.fork()
    if pid:
        print_event("start", pid)
        return pid
    try:
        job(options, index)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    options = WorkerOptions(**json.loads(sys.argv[1]))
    job = create_study if options.create else run_trials
    alive = {fork_worker(job, options, index) for index in range(options.processes)}
    started, failed = len(alive), False
    while alive:
        pid, status = os.wait()
        alive.remove(pid)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            alive.add(fork_worker(job, options, started))
            started += 1
        failed = failed or (os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0)
    sys.exit(failed)


if __name__ == "__main__":
    main()
