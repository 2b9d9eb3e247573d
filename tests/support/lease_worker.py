"""Workers as real processes, without training: they claim trials, commit epochs, end trials.

    python lease_worker.py '{"url": ..., "processes": 4, ...}'

forks that many workers, forks another for each one that is killed, and leaves when the study is done.
Each writes a line for what it does: ``start PID``, ``claimed PID TRIAL TOKEN``, ``ended ...``, ``lost ...``
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

from hpo.store import lease, process, queue, studies
from hpo.study import space
from hpo.study.definition import Definition, Point, Pruner, Search
from hpo.training.config import Config

NAME = "study"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orders:
    """What the workers are to do."""

    url: str
    processes: int
    epochs: int = 1
    epoch_seconds: float = 0.0
    lease_seconds: float = 60.0
    create: int = 0  # instead of working, create the study with so many trials
    nameless: bool = False  # every second worker's death is seen by its lease's expiry alone


def definition(trials: int = 3, *points: dict[str, space.Value]) -> Definition:
    """Give a study that searches the learning rate, and lists points."""
    rate = space.Parameter(name="lr", kind="float", values=space.Range(low=1e-4, high=1.0, log=True))
    return Definition(
        name=NAME,
        train=Config(dataset="digits", epochs=3).model_dump(),
        space=(rate,),
        search=Search(trials=trials, pruner=Pruner(name="none")),
        points=tuple(Point(setting=point) for point in points),
    )


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # one write: lines of many do not mix


def work(orders: Orders, index: int) -> None:
    """Run trials until none is left; an epoch's accuracy is its token, so that it says who wrote it."""
    opened = studies.open_storage(orders.url, create=False)
    study_id = studies.find_study_id(opened, NAME)
    who = process.current_owner("cpu")
    if orders.nameless and index % 2:
        who = dataclasses.replace(who, process="")
    while True:
        claim = queue.claim_trial(
            opened, study_id, who, lease_seconds=orders.lease_seconds, max_attempts=1000
        )
        if claim is not None:
            say("claimed", os.getpid(), claim.number, claim.token)
            say(run(claim, orders), os.getpid(), claim.number, claim.token)
        elif queue.has_open_trials(opened, study_id):
            time.sleep(0.05)
        else:
            return


def run(claim: lease.Claim, orders: Orders) -> str:
    done = 0 if claim.checkpoint is None else int(claim.checkpoint)
    try:
        with lease.keep_lease(claim):
            for epoch in range(done + 1, orders.epochs + 1):
                time.sleep(orders.epoch_seconds)
                claim.commit(
                    checkpoint=str(epoch),
                    report=(epoch, float(claim.token)),
                    user_attributes={"epochs": epoch},
                )
            claim.end(TrialState.COMPLETE, value=float(claim.token))
        return "ended"
    except lease.LeaseLost:
        return "lost"


def create(orders: Orders, index: int) -> None:
    opened = studies.open_storage(orders.url, create=True)
    say("created", studies.create_study(opened, definition(orders.create), "text"))


def forked(job: Callable[[Orders, int], None], orders: Orders, index: int) -> int:
    """Fork a process for a job; it leaves with 1 and a traceback if the job raises."""
    pid = os.fork()
    if pid:
        say("start", pid)
        return pid
    try:
        job(orders, index)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    orders = Orders(**json.loads(sys.argv[1]))
    job = create if orders.create else work
    alive = {forked(job, orders, index) for index in range(orders.processes)}
    started, failed = len(alive), False
    while alive:
        pid, status = os.wait()
        alive.remove(pid)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            alive.add(forked(job, orders, started))
            started += 1
        failed = failed or (os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0)
    sys.exit(failed)


if __name__ == "__main__":
    main()
