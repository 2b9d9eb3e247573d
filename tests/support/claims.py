"""A worker that claims trials, and what a test reads about them."""

import optuna

from hpo.store import lease, lease_info, process, queue, studies
from hpo.store.storage import MAX_WAIT_SECONDS
from tests.support.lease_worker import NAME
from tests.support.stored_study import plain

LEASE = "SELECT owner, token, attempts, expires, checkpoint, epoch FROM hpo_leases"


class Worker:
    """A worker with a storage of its own; ``claim`` returns what a real worker would run."""

    def __init__(self, url: str) -> None:
        self.store = studies.open_storage(url, create=True)
        self.store.max_wait_seconds = MAX_WAIT_SECONDS  # as a real worker
        self.owner = process.current_owner("cpu")

    @property
    def study_id(self) -> int:
        return studies.find_study_id(self.store, NAME)

    def claim(self, *, seconds: float = 60.0, max_attempts: int = 5) -> lease.Claim | None:
        return queue.claim_trial(
            self.store, self.study_id, self.owner, lease_seconds=seconds, max_attempts=max_attempts
        )

    def leases(self) -> list[lease_info.LeaseInfo]:
        return lease_info.read_leases(self.store, self.study_id)

    def study(self, **kwargs) -> optuna.Study:
        storage = optuna.storages.get_storage(self.store)
        study = optuna.load_study(study_name=NAME, storage=storage, **kwargs)
        study.get_trials(deepcopy=False)  # Optuna's cache writes only to trials that it has read
        return study


def trial(url: str, number: int = 0) -> optuna.trial.FrozenTrial:
    return plain(url).trials[number]


def claim_numbers(worker: Worker, count: int) -> list[int | None]:
    """Claim this many trials and return their numbers; None where there is no trial."""
    return [claim and claim.number for claim in (worker.claim() for _ in range(count))]


def expire_leases(sql) -> None:
    sql("UPDATE hpo_leases SET expires = 1 WHERE expires > 1")
