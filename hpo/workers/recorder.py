"""What a running trial leaves behind, written by a thread of its own while training goes on.

The thread does what it is handed in order, and of that there are two kinds::

    report:  one fenced transaction (accuracy, attributes, the pruner's verdict) -> curves durable
    save:    weights durable -> checkpoint durable -> one fenced transaction (their names)
             -> remove what the transaction made old

After a short epoch a save has no transaction of its own: its names go with the next report.
A save is due at an epoch's end, and every ``SAVE_SECONDS`` within a long one, unless writing it would cost
more than ``SHARE`` of the time since the one before. So a report may precede its checkpoint. What a crash
does at any point of it:

* before a report, or between it and the next save: the next attempt starts from the checkpoint before, and
  reports again what it trains again: on the CPU, the same bits.
* between a report and its curves: the CSV file lacks the epoch, until the next report writes the whole of
  it. An attempt that may end without one adds what the store has of the epoch.
* between a file and its transaction: a file that no row names, which is garbage. The next attempt starts
  from the checkpoint before; where the names wait for the next report, that is one short epoch more.
* between a save's transaction and the removal: a file too many, which the next save removes.

A worker that lost its trial while it slept wakes at any point of it. Until a transaction tells it so, it
writes only what bears its attempt's number; and it removes no file of a later attempt.

While the database, or the object store of the artifacts, is away the thread waits for it; training does
not, and its reports arrive late. What was trained after an epoch that the verdict is against counts for
nothing: weights are kept until they are in a file, and those of the epochs before until theirs are sure to
count. What the thread meets (the lease lost, a full disk, the verdict) ends what it is handed, and is
raised in the training thread, which asks at every step.
"""

import concurrent.futures
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import optuna
import safetensors.torch

from hpo.artifacts import checkpoint, durable
from hpo.artifacts.folders import TrialFolder, file_name
from hpo.search.asha import RungDecision
from hpo.store.lease import Claim
from hpo.training import custom
from hpo.training.events import Diverged, Epoch
from hpo.workers import metrics
from hpo.workers.pruning import TrialPruner

if TYPE_CHECKING:
    from hpo.training import loop

    Run = loop.TrainingRun | custom.CustomRun

SAVE_INTERVAL_SECONDS = 60.0  # of an epoch between two checkpoints within it
SHORT_EPOCH_SECONDS = 5.0  # that an epoch takes, at most, for whose report a checkpoint's name waits
MAX_SAVE_SHARE = 0.03  # of the time, at most, goes to writing checkpoints
MAX_EARLIER_WEIGHTS = (
    3  # best epochs before the last one, at most, whose weights are kept while reports wait
)
PRUNER_WAIT_SECONDS = (
    1.0  # that training waits at an epoch's end for the pruner, before it goes on meanwhile
)

ENDS_WITH_WEIGHTS = (optuna.TrialPruned, Diverged)  # that leave weights behind like a complete trial's


class Recorder:
    """Records one attempt at a trial; a context that is left when all is written.

    ``judge`` is asked in the recorder's thread. ``cost`` is the seconds that a save of such a trial is
    known to take: without, the first one is made at once, to find out.
    """

    def __init__(
        self,
        claim: Claim,
        folder: TrialFolder,
        hardware: Mapping[str, Any],
        pruner: TrialPruner,
        cost: float = 0.0,
    ) -> None:
        self.claim = claim
        self.folder = folder
        self.hardware = hardware
        self.pruner = pruner
        self.error: BaseException | None = None  # what ended the recording
        self.order: str | None = None  # that the study is under: to save, and give the trial back
        self.pause_decision: RungDecision | None = (
            None  # that of a rung at which the trial is to wait, saved
        )
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._last_task: concurrent.futures.Future[None] | None = None
        self._report_is_late = False
        self._save_task: concurrent.futures.Future[None] | None = None
        self._saved_at = time.monotonic()
        self.save_cost_seconds = cost  # seconds that the last save took, snapshot and writing
        self._pending_weights: list[
            _Weights
        ] = []  # of best epochs, the last one's last, that may be in no file
        self._committed_epoch = 0  # the last epoch whose report is
        self._written_epoch = 0  # the last epoch whose weights are in a file
        self._uncommitted_names: dict[
            str, str
        ] = {}  # of durable files, by attribute, that are not committed yet

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        if self.error is None and self._uncommitted_names:
            self._commit_names({})
        met = error or self.error
        if met is None or isinstance(met, ENDS_WITH_WEIGHTS):
            self._finish()
        if error is None and met is not None:
            raise met

    def _finish(self) -> None:
        self._write_weights([each for each in self._unwritten() if each.epoch <= self._committed_epoch])
        self.folder.publish()
        if self._uncommitted_names:
            self._commit_names({})

    def wants_pause(self) -> bool:
        """Tell whether training should pause for ``attend``; cheap enough to be asked at every step."""
        return self.error is not None or self.must_release or self._is_due(SAVE_INTERVAL_SECONDS)

    @property
    def must_release(self) -> bool:
        """Tell whether the trial is to be saved, and left to others."""
        return self.order is not None or self.pause_decision is not None

    def report(self, run: "Run") -> None:
        """Report the epoch just done."""
        epoch = run.history[-1]
        self._pending_weights = self._unwritten()
        if run.best_epoch is epoch and epoch.accuracy is not None:
            self._pending_weights = [*self._pending_weights[:MAX_EARLIER_WEIGHTS], _Weights.of(run)]
        attributes = {
            "epochs": epoch.number,
            "best_epoch": run.best_epoch.number,
            "epoch_seconds": [round(e.seconds, 4) for e in run.history],
            **self._attributes(run),
        }
        self._report_is_late = self._last_task is not None and not self._last_task.done()
        # After the last epoch no verdict is waited for, and the weights' name goes with the report.
        weights = self._unwritten() if run.finished else []
        self._submit(self._write_report, list(run.history), attributes, run.finished, weights)

    def handle_pending(self, run: "Run") -> None:
        """Raise what the thread met, or save if it is time: at an epoch's end and whenever it calls."""
        if run.step == 0 and self._last_task is not None and self._waits_for_verdict(run):
            concurrent.futures.wait([self._last_task], PRUNER_WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        if not run.finished and self._is_due(0.0 if run.step == 0 else SAVE_INTERVAL_SECONDS):
            self.save(run, wait=run.step == 0 and run.history[-1].seconds < SHORT_EPOCH_SECONDS)

    def _waits_for_verdict(self, run: "Run") -> bool:
        return not self._report_is_late or self.pruner.is_rung(run.history[-1].number)

    def save(self, run: "Run", *, wait: bool = False) -> None:
        """Save the run as it stands, now; its names may ``wait`` for the next report."""
        self._saved_at = time.monotonic()
        weights = self._unwritten()
        state = checkpoint.snapshot(run.state())
        seconds = time.monotonic() - self._saved_at
        attributes = None if wait else self._attributes(run)
        objective = run.config.objective if isinstance(run, custom.CustomRun) else None
        self._save_task = self._submit(self._write_save, state, objective, weights, attributes, seconds)

    def _unwritten(self) -> "list[_Weights]":
        """Give the weights in no file: of the best epoch that counts, and of those that may yet count."""
        written, committed = (
            self._written_epoch,
            self._committed_epoch,
        )  # which the thread may change meanwhile
        counting = [each for each in self._pending_weights if written < each.epoch <= committed]
        return counting[-1:] + [
            each for each in self._pending_weights if each.epoch > max(written, committed)
        ]

    def _is_due(self, every: float) -> bool:
        if self._save_task is not None and not self._save_task.done():
            return False
        return time.monotonic() - self._saved_at >= max(every, self.save_cost_seconds / MAX_SAVE_SHARE)

    def _attributes(self, run: "Run") -> dict[str, Any]:
        seconds = sum(epoch.seconds for epoch in run.history) + run.seconds
        return {"wall_time_seconds": round(seconds, 4), "hardware": self.hardware}

    def _submit(self, work: Callable[..., None], *args: Any) -> "concurrent.futures.Future[None]":
        self._last_task = self._executor.submit(self._run_task, work, *args)
        return self._last_task

    def _run_task(self, work: Callable[..., None], *args: Any) -> None:
        if self.error is None:
            try:
                work(*args)
            except BaseException as error:
                self.error = error

    def _write_report(
        self,
        history: list[Epoch],
        attributes: dict[str, Any],
        finished: bool,
        weights: "list[_Weights]",
    ) -> None:
        if weights:
            self._write_weights(weights)
            self.folder.publish()
        epoch = history[-1]
        if epoch.accuracy is not None:
            self.pruner.note_report(epoch.number, epoch.accuracy)
        self.order = self.claim.commit(
            report=(epoch.number, epoch.accuracy),
            checkpoint=self._uncommitted_names.get("checkpoint"),
            user_attributes=attributes | self._uncommitted_names,
            ask_pruner=None if finished else self.pruner.decide,
        )
        self._committed_epoch = epoch.number
        self._remove_old()
        metrics.write_csv(self.folder.path, history)
        if not finished:
            self.pruner.raise_if_pruned()
            self.pause_decision = self.pause_decision or self.pruner.pause_decision

    def _write_save(
        self,
        state: checkpoint.State,
        objective: str | None,
        weights: "list[_Weights]",
        attributes: dict[str, Any] | None,
        seconds: float,
    ) -> None:
        started = time.monotonic()
        self._write_weights(weights)
        token = self.claim.token
        name = checkpoint.save(self.folder.path, state, attempt=token, objective=objective)
        self._uncommitted_names["checkpoint"] = f"{self.folder.name}/{name}"
        self.folder.publish()
        self.save_cost_seconds = seconds + time.monotonic() - started
        if attributes is not None:
            self._commit_names(attributes)

    def _write_weights(self, weights: "list[_Weights]") -> None:
        """Write the last ones durably, unless they, or none, are to be written."""
        if weights and weights[-1].epoch > self._written_epoch:
            self._uncommitted_names["weights"] = weights[-1].write(self.folder, self.claim.token)
            self._written_epoch = weights[-1].epoch

    def _commit_names(self, attributes: Mapping[str, Any]) -> None:
        self.claim.commit(
            checkpoint=self._uncommitted_names.get("checkpoint"),
            user_attributes={**attributes, **self._uncommitted_names},
        )
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove the files that those whose names are committed now have made old."""
        names, self._uncommitted_names = self._uncommitted_names, {}
        if "checkpoint" in names:
            checkpoint.prune(self.folder.path, file_name(names["checkpoint"]))
        for old in self.folder.path.glob("weights-*") if "weights" in names else ():
            if old.name != file_name(names["weights"]) and _Weights.attempt(old.name) <= self.claim.token:
                old.unlink(missing_ok=True)
        if names:
            self.folder.remove_deleted()


class _Weights:
    """The weights after an epoch; of a person's own ``objective``, its whole state."""

    def __init__(self, epoch: int, content: Any, objective: str | None = None) -> None:
        self.epoch, self.content, self.objective = epoch, content, objective

    @classmethod
    def of(cls, run: "Run") -> "_Weights":
        """Copy what training goes on changing of a run's weights as they stand."""
        epoch, weights = run.history[-1].number, run.weights()
        if isinstance(run, custom.CustomRun):
            return cls(epoch, checkpoint.snapshot(weights), run.config.objective)
        frozen = run.frozen_weights()
        changing = {name: tensor for name, tensor in weights.items() if name not in frozen}
        return cls(epoch, {**weights, **checkpoint.snapshot(changing)})

    @staticmethod
    def attempt(name: str) -> int:
        """Give the number of the attempt that wrote a file."""
        return int(name.partition(".")[0].rpartition("-")[2])

    def write(self, folder: TrialFolder, attempt: int) -> str:
        """Write them durably and give the file's name in the artifacts."""
        stem = f"weights-{self.epoch:04d}-{attempt:03d}"
        with durable.atomic_file(folder.path) as draft:
            if self.objective is not None:
                draft.name = f"{stem}.pt"
                checkpoint.dump_state(self.content, draft.file)
                checkpoint.check_loadable(draft, self.objective)
            else:
                draft.name = f"{stem}.safetensors"
                tensors = {key: tensor.contiguous() for key, tensor in self.content.items()}
                draft.file.write(safetensors.torch.save(tensors, {"format": "pt"}))
        return f"{folder.name}/{draft.name}"
