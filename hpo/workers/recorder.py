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
from hpo.artifacts.folders import Folder, file_of
from hpo.search.asha import Verdict
from hpo.store.lease import Claim
from hpo.training import custom
from hpo.training.events import Diverged, Epoch
from hpo.workers import metrics
from hpo.workers.pruning import Judge

if TYPE_CHECKING:
    from hpo.training import loop

    Run = loop.Run | custom.Run

SAVE_SECONDS = 60.0  # of an epoch between two checkpoints within it
SHORT_SECONDS = 5.0  # that an epoch takes, at most, for whose report a checkpoint's name waits
SHARE = 0.03  # of the time, at most, goes to writing checkpoints
EARLIER = 3  # best epochs before the last one, at most, whose weights are kept while reports wait
VERDICT_SECONDS = 1.0  # that training waits at an epoch's end for the pruner, before it goes on meanwhile

ENDS = (optuna.TrialPruned, Diverged)  # that leave weights behind like a complete trial's


class Recorder:
    """Records one attempt at a trial; a context that is left when all is written.

    ``judge`` is asked in the recorder's thread. ``cost`` is the seconds that a save of such a trial is
    known to take: without, the first one is made at once, to find out.
    """

    def __init__(
        self, claim: Claim, folder: Folder, hardware: Mapping[str, Any], judge: Judge, cost: float = 0.0
    ) -> None:
        self.claim = claim
        self.folder = folder
        self.hardware = hardware
        self.judge = judge
        self.error: BaseException | None = None  # what ended the recording
        self.order: str | None = None  # that the study is under: to save, and give the trial back
        self.paused: Verdict | None = None  # that of a rung at which the trial is to wait, saved
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._last: concurrent.futures.Future[None] | None = None
        self._report_behind = False
        self._saving: concurrent.futures.Future[None] | None = None
        self._saved_at = time.monotonic()
        self.cost = cost  # seconds that the last save took, snapshot and writing
        self._kept: list[_Weights] = []  # of best epochs, the last one's last, that may be in no file
        self._committed = 0  # the last epoch whose report is
        self._written = 0  # the last epoch whose weights are in a file
        self._names: dict[str, str] = {}  # of durable files, by attribute, that are not committed yet

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if self.error is None and self._names:
            self._commit_names({})
        met = error or self.error
        if met is None or isinstance(met, ENDS):
            self._finish()
        if error is None and met is not None:
            raise met

    def _finish(self) -> None:
        self._write_weights([each for each in self._unwritten() if each.epoch <= self._committed])
        self.folder.publish()
        if self._names:
            self._commit_names({})

    def calls(self) -> bool:
        """Tell whether training should pause for ``attend``; cheap enough to be asked at every step."""
        return self.error is not None or self.leaves or self._is_due(SAVE_SECONDS)

    @property
    def leaves(self) -> bool:
        """Tell whether the trial is to be saved, and left to others."""
        return self.order is not None or self.paused is not None

    def report(self, run: "Run") -> None:
        """Report the epoch just done."""
        epoch = run.history[-1]
        self._kept = self._unwritten()
        if run.best is epoch and epoch.accuracy is not None:
            self._kept = [*self._kept[:EARLIER], _Weights.of(run)]
        attributes = {
            "epochs": epoch.number,
            "best_epoch": run.best.number,
            "epoch_seconds": [round(e.seconds, 4) for e in run.history],
            **self._attributes(run),
        }
        self._report_behind = self._last is not None and not self._last.done()
        # After the last epoch no verdict is waited for, and the weights' name goes with the report.
        weights = self._unwritten() if run.finished else []
        self._hand(self._write_report, list(run.history), attributes, run.finished, weights)

    def attend(self, run: "Run") -> None:
        """Raise what the thread met, or save if it is time: at an epoch's end and whenever it calls."""
        if run.step == 0 and self._last is not None and self._waits_for_verdict(run):
            concurrent.futures.wait([self._last], VERDICT_SECONDS)
        if self.error is not None:
            raise self.error
        if not run.finished and self._is_due(0.0 if run.step == 0 else SAVE_SECONDS):
            self.save(run, wait=run.step == 0 and run.history[-1].seconds < SHORT_SECONDS)

    def _waits_for_verdict(self, run: "Run") -> bool:
        return not self._report_behind or self.judge.compares(run.history[-1].number)

    def save(self, run: "Run", *, wait: bool = False) -> None:
        """Save the run as it stands, now; its names may ``wait`` for the next report."""
        self._saved_at = time.monotonic()
        weights = self._unwritten()
        state = checkpoint.snapshot(run.state())
        seconds = time.monotonic() - self._saved_at
        attributes = None if wait else self._attributes(run)
        objective = run.config.objective if isinstance(run, custom.Run) else None
        self._saving = self._hand(self._write_save, state, objective, weights, attributes, seconds)

    def _unwritten(self) -> "list[_Weights]":
        """Give the weights in no file: of the best epoch that counts, and of those that may yet count."""
        written, committed = self._written, self._committed  # which the thread may change meanwhile
        counting = [each for each in self._kept if written < each.epoch <= committed]
        return counting[-1:] + [each for each in self._kept if each.epoch > max(written, committed)]

    def _is_due(self, every: float) -> bool:
        if self._saving is not None and not self._saving.done():
            return False
        return time.monotonic() - self._saved_at >= max(every, self.cost / SHARE)

    def _attributes(self, run: "Run") -> dict[str, Any]:
        seconds = sum(epoch.seconds for epoch in run.history) + run.seconds
        return {"wall_time_seconds": round(seconds, 4), "hardware": self.hardware}

    def _hand(self, work: Callable[..., None], *args: Any) -> "concurrent.futures.Future[None]":
        self._last = self._thread.submit(self._do, work, *args)
        return self._last

    def _do(self, work: Callable[..., None], *args: Any) -> None:
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
            self.judge.report(epoch.number, epoch.accuracy)
        self.order = self.claim.commit(
            report=(epoch.number, epoch.accuracy),
            checkpoint=self._names.get("checkpoint"),
            attributes=attributes | self._names,
            judge=None if finished else self.judge.ask,
        )
        self._committed = epoch.number
        self._remove_old()
        metrics.write_csv(self.folder.local, history)
        if not finished:
            self.judge.obey()
            self.paused = self.paused or self.judge.paused

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
        name = checkpoint.save(self.folder.local, state, attempt=token, objective=objective)
        self._names["checkpoint"] = f"{self.folder.name}/{name}"
        self.folder.publish()
        self.cost = seconds + time.monotonic() - started
        if attributes is not None:
            self._commit_names(attributes)

    def _write_weights(self, weights: "list[_Weights]") -> None:
        """Write the last ones durably, unless they, or none, are to be written."""
        if weights and weights[-1].epoch > self._written:
            self._names["weights"] = weights[-1].write(self.folder, self.claim.token)
            self._written = weights[-1].epoch

    def _commit_names(self, attributes: Mapping[str, Any]) -> None:
        self.claim.commit(
            checkpoint=self._names.get("checkpoint"), attributes={**attributes, **self._names}
        )
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove the files that those whose names are committed now have made old."""
        names, self._names = self._names, {}
        if "checkpoint" in names:
            checkpoint.prune(self.folder.local, file_of(names["checkpoint"]))
        for old in self.folder.local.glob("weights-*") if "weights" in names else ():
            if old.name != file_of(names["weights"]) and _Weights.attempt(old.name) <= self.claim.token:
                old.unlink(missing_ok=True)
        if names:
            self.folder.mirror()


class _Weights:
    """The weights after an epoch; of a person's own ``objective``, its whole state."""

    def __init__(self, epoch: int, content: Any, objective: str | None = None) -> None:
        self.epoch, self.content, self.objective = epoch, content, objective

    @classmethod
    def of(cls, run: "Run") -> "_Weights":
        """Copy what training goes on changing of a run's weights as they stand."""
        epoch, weights = run.history[-1].number, run.weights()
        if isinstance(run, custom.Run):
            return cls(epoch, checkpoint.snapshot(weights), run.config.objective)
        frozen = run.frozen()
        changing = {name: tensor for name, tensor in weights.items() if name not in frozen}
        return cls(epoch, {**weights, **checkpoint.snapshot(changing)})

    @staticmethod
    def attempt(name: str) -> int:
        """Give the number of the attempt that wrote a file."""
        return int(name.partition(".")[0].rpartition("-")[2])

    def write(self, folder: Folder, attempt: int) -> str:
        """Write them durably and give the file's name in the artifacts."""
        stem = f"weights-{self.epoch:04d}-{attempt:03d}"
        with durable.durable(folder.local) as draft:
            if self.objective is not None:
                draft.name = f"{stem}.pt"
                checkpoint.dump(self.content, draft.file)
                checkpoint.prove(draft, self.objective)
            else:
                draft.name = f"{stem}.safetensors"
                tensors = {key: tensor.contiguous() for key, tensor in self.content.items()}
                draft.file.write(safetensors.torch.save(tensors, {"format": "pt"}))
        return f"{folder.name}/{draft.name}"
