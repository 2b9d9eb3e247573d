"""How a trial ends: complete, pruned, failed or released. Each function returns the event of the end.

The database comes first, in one fenced transaction (see ``hpo.store.lease``); files that are no longer
needed are removed after it. A crash between the two leaves files that no row names.
"""

import contextlib
import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.artifacts import checkpoint, durable
from hpo.artifacts.folders import TrialFolder
from hpo.errors import ArtifactError, StoreError, escape_surrogates
from hpo.search.asha import PAUSED_AT_RUNG
from hpo.search.early_stopping import STOPPED_EARLY
from hpo.store import lease, plan, untried_settings
from hpo.store.failures import describe_failure
from hpo.store.history import History
from hpo.store.lease import Claim
from hpo.study.definition import Definition
from hpo.training.events import TrialEnded
from hpo.workers import retention
from hpo.workers.context import WorkerContext
from hpo.workers.recorder import Recorder

log = logging.getLogger("hpo")


def complete_trial(
    claim: Claim,
    history: History,
    definition: Definition,
    value: float | Sequence[float] | None,
    stopped_early: int | None = None,
    reason: str = "",
) -> None:
    """End a trial that has trained its last epoch, or has stopped early.

    The same transaction adds the replicates of its setting, if the study wants them.

    Args:
        claim: The claim on the trial.
        history: The study's trials, whose own trial it is.
        definition: The study.
        value: The value of the trial, or one for each objective; None if it has none.
        stopped_early: For how many epochs no value was better; None if it has trained all of its epochs.
        reason: Why it ends before its last epoch, in words.

    Raises:
        LeaseLost: If another worker has claimed the trial meanwhile; nothing is written.
        StoreError: If the database stays unavailable, or refuses the write.
    """

    def add_replicates(session: Session) -> None:
        plan.add_replicates(session, history.study_id, history.own_trial, definition)

    claim.end(
        TrialState.COMPLETE,
        value=value,
        reason=reason,
        system_attributes={} if stopped_early is None else {STOPPED_EARLY: stopped_early},
        forget_checkpoint=True,
        in_transaction=add_replicates,
    )


def release_trial(claim: Claim, context: WorkerContext, recorder: Recorder) -> TrialEnded:
    """Release a saved trial: to wait at its rung, or for any worker that is free.

    If its lease is lost, nothing is written.

    Args:
        claim: The claim on the trial.
        context: What the worker provides.
        recorder: Knows why the trial is released, unless its worker stops.

    Returns:
        The event, with the state ``paused`` (at a rung) or ``released``.

    Raises:
        StoreError: If the database stays unavailable, or refuses the write.
    """
    decision = recorder.pause_decision
    if decision is not None:
        claim.release(str(decision), system_attributes={PAUSED_AT_RUNG: decision.rung})
        return TrialEnded(trial=claim.number, state="paused", reason=str(decision))
    reason = "its supervisor was gone" if context.supervisor_gone.is_set() else "asked to stop"
    if recorder.order is not None:
        reason = f"the study is {recorder.order}"
    claim.release(reason)
    return TrialEnded(trial=claim.number, state="released", reason=reason)


def end_pruned(
    claim: Claim,
    context: WorkerContext,
    folder: TrialFolder,
    attributes: dict[str, Any],
    system_attributes: Mapping[str, Any] | None = None,
) -> TrialEnded:
    """End a trial as pruned; as in Optuna, its value is the last one reported, or None without a report.

    Nor has it values in a study with several objectives.

    Its checkpoints are removed, and the weights that the study no longer keeps. One that diverged or was
    stopped by hand keeps its files, since it can be retried.

    Args:
        claim: The claim on the trial.
        context: What the worker provides. The trial is the history's own.
        folder: The folder of the trial.
        attributes: The user attributes to write: ``pruned``, the reason, and ``failure`` if it diverged.
        system_attributes: The system attributes to write.

    Returns:
        The event; its state is ``lost`` if another worker has claimed the trial meanwhile.

    Raises:
        StoreError: If the database stays unavailable, or refuses the write.
    """
    can_continue = "failure" in attributes or attributes["pruned"] == plan.TRIAL_STOPPED
    reported = context.history.own_trial.intermediate_values
    value = reported[max(reported)] if reported else None
    try:
        claim.end(
            TrialState.PRUNED,
            value=value if len(context.definition.objectives) == 1 else None,
            reason=attributes["pruned"],
            user_attributes=attributes,
            system_attributes=system_attributes,
            forget_checkpoint=not can_continue,
        )
    except lease.LeaseLost:
        return lost_event(claim)
    if not can_continue:
        remove_old_files(claim, context, folder)
    return TrialEnded(
        trial=claim.number,
        state="pruned",
        value=value,
        metric=context.metric_name(),
        reason=attributes["pruned"],
    )


def end_failed(claim: Claim, kind: str, message: str) -> TrialEnded:
    """End a trial as failed. It keeps its checkpoints, since it can be retried.

    Args:
        claim: The claim on the trial.
        kind: The ``class`` of the failure: ``out_of_memory``, or the type of the exception.
        message: What failed.

    Returns:
        The event; its state is ``lost`` if another worker has claimed the trial meanwhile.

    Raises:
        StoreError: If the database stays unavailable, or refuses the write.
    """
    failure = {"class": kind, "message": message}
    reason = describe_failure(kind, message)
    try:
        claim.end(TrialState.FAIL, reason=reason, user_attributes={"failure": failure})
    except lease.LeaseLost:
        return lost_event(claim)
    return TrialEnded(trial=claim.number, state="failed", reason=reason)


def remove_waiting_trials(claim: Claim) -> TrialEnded:
    """Remove a trial for which there is no setting left, and those that wait for one.

    Returns:
        The event. Its state is ``removed``, or ``lost`` if another worker has claimed the trial meanwhile.

    Raises:
        StoreError: If the database stays unavailable, or refuses the write.
    """

    def remove(session: Session) -> int:
        return untried_settings.remove_searched_trials(session, claim.study_id, claim.trial_id)

    try:
        count = claim.remove(remove)
    except lease.LeaseLost:
        return lost_event(claim)
    others = f", and {count - 1} that waited with it" if count > 1 else ""
    return TrialEnded(
        trial=claim.number, state="removed", reason=f"every setting of [space] has a trial{others}"
    )


def lost_event(claim: Claim) -> TrialEnded:
    """Return the event of a trial whose lease another worker has taken; nothing is written."""
    return TrialEnded(trial=claim.number, state="lost", reason="another worker has it")


def save_traceback(claim: Claim, folder: TrialFolder, error: BaseException) -> None:
    """Write the traceback of a failed trial to ``traceback.txt`` in its folder, and log where that is.

    If the file cannot be written, the traceback itself is logged.
    """
    text = escape_surrogates("".join(traceback.format_exception(error)))
    try:
        durable.write_file(folder.path / "traceback.txt", text.encode())
        folder.publish()
    except (OSError, ArtifactError):  # these must not hide the failure itself
        log.error("trial %d failed: %s", claim.number, text.rstrip())
    else:
        place = folder.artifacts.path(f"{folder.name}/traceback.txt")
        log.error("trial %d: its traceback is in %s", claim.number, place)


def remove_old_files(claim: Claim, context: WorkerContext, folder: TrialFolder) -> None:
    """Remove the checkpoints of an ended trial, and the weights that the study no longer keeps.

    What a killed attempt had begun to write goes, too. Files that cannot be removed stay. So do weights
    while the store is unavailable; the end of a later trial removes them.
    """
    with contextlib.suppress(OSError, ArtifactError):  # the trial has ended; a file too many does no harm
        folder.remove_matching(
            lambda name: checkpoint.CHECKPOINT_NAME.fullmatch(name) or durable.is_draft(name)
        )
    keep = context.definition.search.keep_weights
    if keep != "all":
        study_id, folder_name = context.history.study_id, context.study_folder
        try:
            retention.prune_weights(
                claim.storage, study_id, context.artifacts, folder_name, keep, context.definition
            )
        except StoreError as error:  # the trial has ended well, whatever happens to the weights of others
            log.warning("weights that the study no longer keeps stay for now: %s", error)
