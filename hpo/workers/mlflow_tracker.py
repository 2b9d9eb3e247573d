"""MLflow: a run for each trial, in the experiment of its study.

The server assigns the ids of runs. So each run has the trial's name for runs as the tag ``hpo.run``, and
a later attempt finds it by that. Metrics can only be added. So an attempt sends only epochs after the
last one that the run has.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hpo.workers.trackers import RUNNING, TrackedTrial

RUN_TAG = "hpo.run"
EPOCH_METRIC = "train_seconds"  # which every epoch has
STATUS = {
    RUNNING: "RUNNING",
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "paused": "SCHEDULED",
    "released": "SCHEDULED",
}
# Of the client, where the environment has no others. The tracker process itself tries again.
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
MAX_METRICS = 1000  # of one request
MAX_TEXT = 5000  # characters of a parameter or a tag


@dataclass(kw_only=True)
class _Run:
    id: str
    status: str
    last_epoch: int  # that it has


class MlflowTracker:
    """Sends trials to the server of ``MLFLOW_TRACKING_URI``, or to MLflow's own default."""

    def __init__(self) -> None:
        for name, value in CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        import mlflow

        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient()
        self._runs: dict[str, _Run] = {}

    def send(self, trial: TrackedTrial) -> None:
        """Send what is new about a trial; see ``Tracker``."""
        if trial.state == "lost":  # another worker tracks it
            self._runs.pop(trial.run, None)
            return
        run = self._runs.get(trial.run)
        if run is None:
            run = self._runs[trial.run] = self._find_run(trial)
        self._send_epochs(run, trial.epochs)
        self._send_facts(run, trial)
        if run.status != (status := STATUS[trial.state]):
            if status in ("RUNNING", "SCHEDULED"):
                self._client.update_run(run.id, status=status)
            else:
                self._client.set_terminated(run.id, status)
            run.status = status
        for name, text in trial.files.items():
            self._client.log_text(run.id, text, name)
        if trial.state != RUNNING:
            del self._runs[trial.run]

    def _find_run(self, trial: TrackedTrial) -> _Run:
        """Return the trial's run: the one that an earlier attempt created, or a new one."""
        experiment = self._find_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or trial.study)
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{trial.run}'", max_results=1)
        if not found:
            tags = {RUN_TAG: trial.run, "study": trial.study, "trial": str(trial.number)}
            run = self._client.create_run(experiment, run_name=trial.name, tags=tags)
            return _Run(id=run.info.run_id, status=run.info.status, last_epoch=0)
        info = found[0].info
        sent = self._client.get_metric_history(info.run_id, EPOCH_METRIC)
        return _Run(
            id=info.run_id, status=info.status, last_epoch=max((each.step for each in sent), default=0)
        )

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:  # another worker has just created it, or the server does not answer
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _send_epochs(self, run: _Run, epochs: Mapping[int, Mapping[str, float]]) -> None:
        batch: list[Any] = []
        for epoch in sorted(epoch for epoch in epochs if epoch > run.last_epoch):
            metrics = list(self._metrics(epochs[epoch], epoch))
            if batch and len(batch) + len(metrics) > MAX_METRICS:
                self._send_batch(run, batch)
                batch = []
            batch += metrics
        if batch:
            self._send_batch(run, batch)

    def _send_batch(self, run: _Run, batch: list[Any]) -> None:
        """Send the metrics of some epochs, and note that the run has them."""
        self._client.log_batch(run.id, metrics=batch)
        run.last_epoch = batch[-1].step

    def _send_facts(self, run: _Run, trial: TrackedTrial) -> None:
        params = {key: value for key, value in trial.params.items() if value is not None}
        tags = trial.attributes if trial.state == RUNNING else {**trial.attributes, "state": trial.state}
        if params or tags or trial.values:
            self._client.log_batch(
                run.id,
                metrics=list(self._metrics(trial.values, run.last_epoch)),
                params=[self._entities.Param(*_key_and_text(*each)) for each in params.items()],
                tags=[self._entities.RunTag(*_key_and_text(*each)) for each in tags.items()],
            )

    def _metrics(self, values: Mapping[str, float], step: int) -> Iterator[Any]:
        now = int(1000 * time.time())
        for name, value in values.items():
            yield self._entities.Metric(_key(name), value, now, step)


def _key_and_text(name: str, value: Any) -> tuple[str, str]:
    return _key(name), str(value)[:MAX_TEXT]


def _key(name: str) -> str:
    """Return a name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]
