"""What a worker provides to each of its trials."""

import threading
from dataclasses import dataclass

import torch

from hpo.artifacts.folders import Artifacts
from hpo.store import status
from hpo.store.history import History
from hpo.study.definition import Definition
from hpo.training.custom import Objective
from hpo.workers.cache import WorkerCache


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What a trial needs from its worker."""

    definition: Definition
    history: History  # the study's trials
    study_folder: str  # of the study, in the artifacts
    artifacts: Artifacts
    cache: WorkerCache
    device: torch.device
    stop: threading.Event  # set when the worker is asked to stop
    supervisor_gone: threading.Event  # set if that is because its supervisor is gone
    objective: Objective | None = None  # of this process; None: trials import the one that they name

    def metric_name(self) -> str:
        """Return the name of what the study's trials are compared by, as ``status.metric_name`` does."""
        return status.metric_name(self.definition)
