"""A worker that has lost its trial to another one stops training it within the epoch."""

import contextlib
import threading

from hpo.artifacts.folders import Artifacts
from hpo.store import studies
from hpo.training.events import TrialEnded, TrialStarted
from hpo.workers import worker
from tests.support.databases import closed_engines

STUDY = """
[train]
dataset = "digits"
model = "squeezenet1_1"
weights = "none"
image_size = 32
epochs = 2
[search]
sampler = "grid"
[[points]]
batch_size = 1
"""


def test_a_lost_lease_ends_training_before_the_next_report(workplace, url, sql):
    workplace.here("create", workplace.study(STUDY), HPO_STORE=url)
    settings = worker.WorkerSettings(
        artifacts=Artifacts(f"{workplace.path}/artifacts"),
        data=workplace.path,
        device="cpu",
        shown_as="cpu",
        lease_seconds=1.0,
    )
    with closed_engines():
        storage, stop = studies.open_storage(url, create=False), threading.Event()
        with contextlib.closing(worker.run_worker(storage, "small", settings, stop)) as events:
            assert any(isinstance(event, TrialStarted) for event in events)
            sql("UPDATE hpo_leases SET token = token + 1, expires = expires + 3600")
            ended = next(events)
    assert (type(ended), ended.state) == (TrialEnded, "lost")
    assert sql("SELECT count(*) FROM trial_intermediate_values") == [(0,)]
