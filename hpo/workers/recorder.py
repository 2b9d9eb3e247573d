"""The recorder: writes what a running trial leaves behind, in a thread of its own while training goes on.

The thread does its tasks in the order in which training submits them. There are two kinds::

    report:  one fenced transaction (value, attributes, the pruner's decision) -> curves durable
    save:    weights durable -> checkpoint durable -> one fenced transaction (their names)
             -> remove the files that this transaction made old

"Fenced" means that the transaction fails with LeaseLost if another worker has claimed the trial meanwhile.
"Durable" means that a file has its final name and survives a power failure.

When saves happen: one is due at the end of an epoch, and every ``SAVE_INTERVAL_SECONDS`` within a long
epoch, unless writing it would cost more than ``MAX_SAVE_SHARE`` of the time since the last one. So a report
may precede its checkpoint by several epochs. After a short epoch (``SHORT_EPOCH_SECONDS``) a save has no
transaction of its own: its names are committed with the next report. One more save, with a transaction,
precedes the release of an unfinished trial; after the last epoch there is none.

What a crash at each point does:

* Before a report, or between a report and the next save: the next attempt starts from the last checkpoint.
  It trains the epochs after it again and reports them again; on the CPU, with the same bits.
* Between a report and its curves: the CSV file lacks the epoch until the next report writes the whole file.
  An attempt that may end without another report adds the missing epochs from the database.
* Between a file and the transaction that names it: the file is garbage that no row names. The next attempt
  starts from the checkpoint before. Where the names wait for the next report, that is one short epoch more.
* Between a save's transaction and the removal: a file too many, which the next save removes.

A worker whose machine slept, and that lost its trial meanwhile, may wake at each of these points. Until a
transaction tells it, it writes only files that bear the number of its own attempt, and it removes no file
of a later attempt.

While the database, or the object store of the artifacts, is unavailable, the thread waits for it. Training
goes on, and its reports arrive late. Epochs trained after one at which the trial is pruned count for
nothing. So the weights of a best epoch are kept in memory until they are in a file, and those of earlier
best epochs until a later one's report is committed.

If a task fails (the lease is lost, the disk is full, the trial is pruned), the thread skips all later
tasks, and ``handle_pending`` raises the error in the training thread, which asks at every step.
"""

import concurrent.futures
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import optuna

from hpo.artifacts import checkpoint
from hpo.artifacts.folders import TrialFolder, file_name
from hpo.search.asha import RungDecision
from hpo.store.lease import Claim, LeaseLost
from hpo.training import custom
from hpo.training.events import Diverged, Epoch, other_metrics
from hpo.workers import metrics
from hpo.workers.pruning import TrialPruner
from hpo.workers.weights import WEIGHTS_PATTERN, Weights

if TYPE_CHECKING:
    from hpo.workers.weights import Run

SAVE_INTERVAL_SECONDS = 60.0  # between two checkpoints within an epoch
SHORT_EPOCH_SECONDS = 5.0  # after an epoch this short, a checkpoint's name waits for the next report
MAX_SAVE_SHARE = 0.03  # of the time may go to writing checkpoints
MAX_EARLIER_WEIGHTS = 3  # weights of best epochs before the last one that are kept while reports wait
PRUNER_WAIT_SECONDS = 1.0  # that training waits for the pruner at an epoch's end, before it goes on

ENDS_WITH_WEIGHTS = (optuna.TrialPruned, Diverged)  # ends that leave weights, like a complete trial's


class Recorder:
    """Records one attempt at a trial, as a context manager.

    Leaving it waits for all tasks, and commits the names of files that wait for a report. After a normal
    end, a pruning or a divergence it also writes the weights of the best committed epoch. It raises the
    error of a failed task, unless the block raised one itself.

    Args:
        claim: The claim on the trial.
        folder: The folder of the trial in the artifacts.
        facts: User attributes to store with each report and each save: what the trial runs on, and what
            its value is measured on.
        pruner: Decides on each report, in the recorder's thread.
        save_cost_seconds: What a save of such a trial is known to cost; 0 if unknown, then the first save
            is made at once to find out.

    Attributes:
        error: What ended the recording; None while it goes on.
        order: The study's order to its workers, or why a budget leaves no room for another epoch; None if
            the trial may train on.
        pause_decision: The decision at the rung where the trial is to pause; None if it does not.
        save_cost_seconds: What the last save cost, copying and writing.
    """

    def __init__(
        self,
        claim: Claim,
        folder: TrialFolder,
        facts: Mapping[str, Any],
        pruner: TrialPruner,
        save_cost_seconds: float = 0.0,
    ) -> None:
        self.claim = claim
        self.folder = folder
        self.facts = facts
        self.pruner = pruner
        self.error: BaseException | None = None  # ended the recording
        self.order: str | None = None  # order to the study, to save and release the trial
        self.pause_decision: RungDecision | None = None  # at the rung where the trial is to pause
        self.save_cost_seconds = save_cost_seconds  # of the last save, copying and writing
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._last_task: concurrent.futures.Future[None] | None = None
        self._save_task: concurrent.futures.Future[None] | None = None
        self._report_is_late = False
        self._saved_at = time.monotonic()
        self._pending_weights: list[Weights] = []  # of best epochs, ascending, that may be in no file
        self._committed_epoch = 0  # the last epoch whose report is committed
        self._written_epoch = 0  # the last epoch whose weights are in a file
        self._uncommitted_names: dict[str, str] = {}  # of durable files, by attribute

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
            self._write_committed_weights()
        if error is None and met is not None:
            raise met

    def _write_committed_weights(self) -> None:
        self._write_weights([each for each in self._unwritten() if each.epoch <= self._committed_epoch])
        self.folder.publish()
        if self._uncommitted_names:
            self._commit_names({})

    def wants_pause(self) -> bool:
        """Return whether training should pause for ``handle_pending``; cheap enough for every step."""
        is_over = self.error is not None or self.claim.last_renewal.found_lost or self.must_release
        return is_over or self._is_due(SAVE_INTERVAL_SECONDS)

    @property
    def must_release(self) -> bool:
        """Whether the trial is to be saved and released: by an order, a budget, or a pause at a rung."""
        return self.order is not None or self.pause_decision is not None

    def report(self, run: "Run") -> None:
        """Submit the report of the epoch that a run has just trained.

        Its weights are copied before this returns if it is the best epoch so far.
        """
        epoch = run.history[-1]
        self._pending_weights = self._unwritten()
        if run.best_epoch is epoch and epoch.value is not None:
            self._pending_weights = [*self._pending_weights[:MAX_EARLIER_WEIGHTS], Weights.copy_from(run)]
        attributes = {
            "epochs": epoch.number,
            "best_epoch": run.best_epoch.number,
            "epoch_seconds": [round(e.seconds, 4) for e in run.history],
            **({"metrics": others} if (others := other_metrics(run.history, run.metric)) else {}),
            **self._attributes(run),
        }
        self._report_is_late = self._last_task is not None and not self._last_task.done()
        # After the last epoch no decision is waited for, and the weights' name goes with the report.
        weights = self._unwritten() if run.finished else []
        curves = metrics.curve_rows(run.history, run.metric)
        self._submit(self._write_report, epoch, curves, attributes, run.finished, weights)

    def handle_pending(self, run: "Run") -> None:
        """Raise the error of a failed task, and save if that is due.

        Call it at the end of each epoch, and whenever ``wants_pause`` says so. At the end of an epoch it
        waits ``PRUNER_WAIT_SECONDS`` at most for the pruner's decision; not at all if the thread was still
        busy when the epoch was reported, unless the epoch is a rung.

        Raises:
            LeaseLost: If another worker has claimed the trial meanwhile.
            TrialPruned: If the trial is pruned.
            StoreError: If the database stays unavailable, or refuses a write.
            ArtifactError: If artifacts behind a URL fail.
            OSError: If a file could not be written.
            TypeError: If the state of a custom objective could not be loaded again.
        """
        if run.step == 0 and self._last_task is not None and self._waits_for_decision(run):
            concurrent.futures.wait([self._last_task], PRUNER_WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        if self.claim.last_renewal.found_lost:
            raise LeaseLost(f"trial {self.claim.number} belongs to another worker by now")
        if not run.finished and self._is_due(0.0 if run.step == 0 else SAVE_INTERVAL_SECONDS):
            self.save(run, wait=run.step == 0 and run.history[-1].seconds < SHORT_EPOCH_SECONDS)

    def _waits_for_decision(self, run: "Run") -> bool:
        return not self._report_is_late or self.pruner.is_rung(run.history[-1].number)

    def save(self, run: "Run", *, wait: bool = False) -> None:
        """Submit a save of the present state of a run.

        Args:
            run: The run; its state is copied before this returns.
            wait: Whether the names of the files wait for the next report, instead of a transaction of their
                own.
        """
        self._saved_at = time.monotonic()
        weights = self._unwritten()
        state = checkpoint.snapshot(run.state())
        seconds = time.monotonic() - self._saved_at
        attributes = None if wait else self._attributes(run)
        objective = run.config.objective if isinstance(run, custom.CustomRun) else None
        self._save_task = self._submit(self._write_save, state, objective, weights, attributes, seconds)

    def _unwritten(self) -> list[Weights]:
        """Return weights in no file: of the best committed epoch, and of epochs that may yet count."""
        written, committed = (
            self._written_epoch,
            self._committed_epoch,
        )  # the thread may change them meanwhile
        counting = [each for each in self._pending_weights if written < each.epoch <= committed]
        later = [each for each in self._pending_weights if each.epoch > max(written, committed)]
        return counting[-1:] + later

    def _is_due(self, interval_seconds: float) -> bool:
        if self._save_task is not None and not self._save_task.done():
            return False
        elapsed = time.monotonic() - self._saved_at
        return elapsed >= max(interval_seconds, self.save_cost_seconds / MAX_SAVE_SHARE)

    def _attributes(self, run: "Run") -> dict[str, Any]:
        seconds = sum(epoch.seconds for epoch in run.history) + run.seconds
        return {"wall_time_seconds": round(seconds, 4), **self.facts}

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
        epoch: Epoch,
        curves: Sequence[metrics.CurveRow],
        attributes: dict[str, Any],
        finished: bool,
        weights: list[Weights],
    ) -> None:
        if weights:
            self._write_weights(weights)
            self.folder.publish()
        if epoch.value is not None:
            self.pruner.note_report(epoch.number, epoch.value, attributes)
            if not finished:
                self.pruner.prepare()
        self.order = self.claim.commit(
            report=(epoch.number, epoch.value),
            checkpoint=self._uncommitted_names.get("checkpoint"),
            user_attributes=attributes | self._uncommitted_names,
            ask_pruner=None if finished else self.pruner.decide,
        )
        self._committed_epoch = epoch.number
        self._remove_old()
        metrics.write_csv(self.folder.path, curves)
        if not finished:
            self.pruner.raise_if_pruned()
            self.pause_decision = self.pause_decision or self.pruner.pause_decision

    def _write_save(
        self,
        state: checkpoint.State,
        objective: str | None,
        weights: list[Weights],
        attributes: dict[str, Any] | None,
        seconds: float,
    ) -> None:
        """Write a save; ``seconds`` is what copying the state took, no ``attributes`` means no commit."""
        started = time.monotonic()
        self._write_weights(weights)
        name = checkpoint.save(self.folder.path, state, attempt=self.claim.token, objective=objective)
        self._uncommitted_names["checkpoint"] = f"{self.folder.name}/{name}"
        self.folder.publish()
        self.save_cost_seconds = seconds + time.monotonic() - started
        if attributes is not None:
            self._commit_names(attributes)

    def _write_weights(self, weights: list[Weights]) -> None:
        """Write the last of the weights durably, unless they are written already."""
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
        """Remove the files that the last commit made old, but none of a later attempt."""
        names, self._uncommitted_names = self._uncommitted_names, {}
        if "checkpoint" in names:
            checkpoint.prune(self.folder.path, file_name(names["checkpoint"]))
        if "weights" in names:
            kept = file_name(names["weights"])
            for old in self.folder.path.glob(WEIGHTS_PATTERN):
                if old.name != kept and Weights.attempt_of(old.name) <= self.claim.token:
                    old.unlink(missing_ok=True)
        if names:
            self.folder.remove_deleted()
