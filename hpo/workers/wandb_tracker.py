"""Weights & Biases: a run for each trial, in the project of its study.

The trial's name for runs is the run's id, so a later attempt resumes the run. W&B itself ignores epochs
that the run has already. In its offline mode each attempt writes a folder of its own, all with the same
id.
"""

import os
import re
from pathlib import Path
from typing import Any

from hpo.workers.trackers import LEFT_STATES, RUNNING, TrackedTrial

MAX_ID = 64  # characters of a run's id; the end of the trial's name for runs tells it apart
INIT_SECONDS = 30.0  # that the server has to answer when a run begins
FINISH_SECONDS = 60.0  # that uploading may take at the end of a run; the rest stays on the disk


class WandbTracker:
    """Sends trials to the server, or writes them to the folder, that the variables ``WANDB_...`` name."""

    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._runs: dict[str, Any] = {}
        self._ended: set[str] = set()

    def send(self, trial: TrackedTrial) -> None:
        """Send what is new about a trial; see ``Tracker``."""
        if trial.state == RUNNING:
            self._ended.discard(trial.run)
        if trial.run in self._ended:  # and what its end did not send in time is on the disk
            return
        run = self._runs.get(trial.run)
        if run is None:
            run = self._runs[trial.run] = self._open_run(trial)
        for epoch in sorted(trial.epochs):
            run.log({"epoch": epoch, **trial.epochs[epoch]}, step=epoch)
        run.config.update(dict(trial.params), allow_val_change=True)
        run.summary.update({**trial.attributes, **trial.values, "state": trial.state})
        for name, text in trial.files.items():
            file = Path(run.dir, name)
            file.write_text(text)
            run.save(str(file), base_path=run.dir, policy="now")
        if trial.state != RUNNING:
            self._end_run(trial)

    def _open_run(self, trial: TrackedTrial) -> Any:
        return self._wandb.init(
            id=re.sub(r"[^\w.-]", "_", trial.run)[-MAX_ID:],
            name=trial.name,
            project=os.environ.get("WANDB_PROJECT") or re.sub(r"[/\\#?%:]", "_", trial.study)[:128],
            group=trial.study,
            config=dict(trial.params),
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(
                console="off",
                silent=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )

    def _end_run(self, trial: TrackedTrial) -> None:
        run = self._runs.pop(trial.run)
        self._ended.add(trial.run)
        is_left = trial.state in LEFT_STATES
        if is_left:
            run.mark_preempting()
        run.finish(exit_code=1 if is_left or trial.state == "failed" else 0)
