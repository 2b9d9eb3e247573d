"""One claimed trial, from its claim to its end.

``run_trial`` is the outer part: it keeps the lease alive and turns each way in which training can end into
the end of the trial. ``_train_trial`` is the inner part: it chooses the setting, resumes from the last
checkpoint, and trains epoch by epoch. What the trial leaves behind is written meanwhile by ``recorder``, in
an order that makes a crash harmless at any point; read its first lines for the protocol.

How a trial ends:

* It completes its last epoch, stops early or is pruned: its checkpoints are removed. Its weights stay,
  unless ``search.keep_weights`` drops them.
* It diverges, fails with an exception of its own, or runs out of memory: its files stay, since it can be
  retried. One that diverged counts as pruned.
* It is released, for another worker to resume: the worker is asked to stop, the study is paused or stopped,
  a budget leaves no room for another epoch, the trial pauses at a rung, or an error occurs that every other
  trial would meet as well (no pretrained weights, a full disk).
* Its lease is lost to another worker: nothing is written any more.
* The GPU is lost to this process: the lease expires, and another worker resumes the trial.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
import torch
from optuna.trial import FrozenTrial

from hpo.artifacts import checkpoint, durable
from hpo.artifacts.folders import TrialFolder, file_name
from hpo.errors import ArtifactError, HpoError, error_text
from hpo.search.asha import PAUSED_AT_RUNG
from hpo.search.baseline import Baseline, baseline_of, describe_limits, guess
from hpo.search.early_stopping import describe_early_stop
from hpo.search.freeze_thaw import LEAST_CHANCE
from hpo.store import lease, plan, restarts
from hpo.store.lease import Claim
from hpo.store.untried_settings import AllSettingsTried
from hpo.training import objective_code
from hpo.training.config import Config, settings_of
from hpo.training.custom import CustomRun
from hpo.training.custom_config import CustomConfig, TrialPlace
from hpo.training.events import (
    DataLoaded,
    Diverged,
    EpochReported,
    TrialEnded,
    TrialEvent,
    TrialStarted,
    stops_early,
)
from hpo.training.metric import COSTS, Metric
from hpo.training.precision import ComputeSettings
from hpo.workers import metrics
from hpo.workers.context import WorkerContext
from hpo.workers.hardware import check_device, choose_hardware
from hpo.workers.memory import free_memory, out_of_memory_message
from hpo.workers.pruning import TrialPrunedByRule, TrialPruner
from hpo.workers.recorder import Recorder
from hpo.workers.setting import choose_setting
from hpo.workers.trial_end import (
    complete_trial,
    end_failed,
    end_pruned,
    lost_event,
    release_trial,
    remove_old_files,
    remove_waiting_trials,
    save_traceback,
)

if TYPE_CHECKING:
    # torchvision takes a second or two to import. A worker with a custom objective does not need it.
    from hpo.workers.weights import Run

log = logging.getLogger("hpo")


def run_trial(claim: Claim, context: WorkerContext) -> Iterator[TrialEvent]:
    """Run a claimed trial until it ends or this worker is asked to stop; its own error fails it alone.

    Args:
        claim: The claim on it. Its lease is renewed in the background meanwhile.
        context: What the worker provides.

    Yields:
        The study's images, if it is the first trial; that it started (unless it ends before that); each
        epoch; and how it ended.

    Raises:
        HpoError: For what other trials would meet as well, such as a full disk, or a stop while images are
            decoded. The trial is released first, unless the database failed at its end.
        DeviceLost: If the GPU no longer answers. The trial is not released: its lease expires.
    """
    with lease.keep_lease(claim), contextlib.ExitStack() as cleanup:
        # A resumed trial keeps the threads that it began with. The next trial gets the worker's own again.
        cleanup.callback(torch.set_num_threads, torch.get_num_threads())
        try:
            folder = context.artifacts.open_folder(f"{context.study_folder}/{claim.number:04d}")
            cleanup.callback(folder.close)
            yield from _train_trial(claim, context, folder)
        except lease.LeaseLost:
            yield lost_event(claim)
        except AllSettingsTried:
            yield remove_waiting_trials(claim)
        except optuna.TrialPruned as pruned:
            system = pruned.attributes if isinstance(pruned, TrialPrunedByRule) else {}
            yield end_pruned(claim, context, folder, {"pruned": error_text(pruned)}, system)
        except Diverged as diverged:
            failure = {"class": "diverged", "message": error_text(diverged)}
            yield end_pruned(claim, context, folder, {"failure": failure, "pruned": failure["message"]})
        except (HpoError, KeyboardInterrupt) as error:
            claim.release(error_text(error) or "interrupted")
            raise
        except OSError as error:
            where = error.filename or f"{context.artifacts.path(context.study_folder)}/{claim.number:04d}"
            claim.release(message := f"{where}: {error.strerror or error}")
            raise ArtifactError(message) from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            setting = context.definition.train | context.history.own_trial.params
            message = out_of_memory_message(setting, context.device, error)
            error.__traceback__ = None  # its frames hold the trial's tensors
            free_memory(context.device)
            yield end_failed(claim, "out_of_memory", message)
        except (Exception, SystemExit) as error:
            save_traceback(claim, folder, error)
            check_device(context.device, claim.number)
            yield end_failed(claim, type(error).__name__, error_text(error)[:2000])


def _train_trial(claim: Claim, context: WorkerContext, folder: TrialFolder) -> Iterator[TrialEvent]:
    trial, config, study = choose_setting(claim, context.history, context.definition)
    _prune_if_never_promoted(context)
    context.cache.fetch_weights(config)
    own = context.history.own_trial
    hardware = choose_hardware(own.user_attrs.get("hardware", {}), config, context.cache)
    state = _fetch_checkpoint(claim, context, folder)
    facts = {"trial": claim.number, "params": trial.params, "settings": settings_of(config)}
    baseline, data, measured = _describe_data(config, context)
    if isinstance(config, Config) and (claim.number, claim.token) == (0, 1):
        for note in context.cache.load_dataset(config).notes:
            yield DataLoaded(summary=note)
        yield DataLoaded(summary=_summarize_data(config, context))
    if isinstance(config, Config):
        context.cache.write_data_facts(context.study_folder, config)
    durable.write_file(folder.path / "settings.json", json.dumps(facts | data, indent=2).encode())
    pruner = TrialPruner(study, context.history, context.definition, baseline)
    save_cost = context.cache.expected_save_seconds(config)
    with Recorder(claim, folder, {"hardware": hardware, **measured}, pruner, save_cost) as recorder:
        run = _build_run(config, context, state, recorder, hardware)
        costs = _measure_costs(claim, context, run)
        done = len(run.history)
        yield TrialStarted(
            trial=claim.number,
            attempt=claim.token,
            params=trial.params,
            epochs=config.epochs,
            epochs_done=done,
        )
        if own.intermediate_values and not run.finished and not _has_stopped(own, config, run.metric):
            _finish_last_report(claim, folder, recorder, own.intermediate_values, run.metric)
        if not recorder.must_release:
            with contextlib.closing(
                metrics.TensorBoardEvents(folder.path, done, folder.name, trial.params)
            ) as events:
                yield from _train_epochs(claim, context, run, recorder, events)
            if not run.finished:
                recorder.save(run)
    context.cache.note_save_seconds(config, recorder.save_cost_seconds)
    if run.finished:
        yield _complete(claim, context, folder, run, costs)
    elif recorder.order == plan.TRIAL_STOPPED:
        yield end_pruned(claim, context, folder, {"pruned": plan.TRIAL_STOPPED})
    else:
        yield release_trial(claim, context, recorder)


def _complete(
    claim: Claim, context: WorkerContext, folder: TrialFolder, run: "Run", costs: Mapping[str, float]
) -> TrialEnded:
    """End the trial of a finished run as complete."""
    has_stopped = not isinstance(run, CustomRun) and run.stopped_early
    patience = run.config.early_stopping if has_stopped else None
    values = _objective_values(run, context.definition.objectives, costs)
    reason = "" if patience is None else describe_early_stop(len(run.history), patience)
    complete_trial(claim, context.history, context.definition, values, patience, reason)
    remove_old_files(claim, context, folder)
    return TrialEnded(
        trial=claim.number,
        state="complete",
        value=run.best_epoch.value,
        metric=context.metric_name(),
        reason=reason,
    )


def _has_stopped(own: FrozenTrial, config: Config | CustomConfig, metric: Metric) -> bool:
    """Return whether the last report of a crashed attempt ended its trial; no pruner decides on it."""
    if isinstance(config, CustomConfig):
        return False
    values, patience = own.intermediate_values, config.early_stopping
    return stops_early(values, metric, patience=patience, epochs=config.epochs)


def _train_epochs(
    claim: Claim,
    context: WorkerContext,
    run: "Run",
    recorder: Recorder,
    events: metrics.TensorBoardEvents,
) -> Iterator[TrialEvent]:
    """Train until the run is finished or has to stop; None from the run is a pause within an epoch."""
    metric = context.metric_name()
    for epoch in run.epochs():
        if epoch is not None:
            events.write_epoch(epoch, run.best_epoch, run.metric)
            recorder.report(run)
            yield EpochReported(trial=claim.number, epoch=epoch, epochs=run.config.epochs, metric=metric)
        recorder.handle_pending(run)
        if recorder.must_release:
            break


def _prune_if_never_promoted(context: WorkerContext) -> None:
    """Raise TrialPruned for a trial that still waits at its rung: it was claimed only to be ended."""
    own, rungs = context.history.own_trial, context.history.rungs
    rung = own.system_attrs.get(PAUSED_AT_RUNG)
    if rungs is not None and rung in rungs.epochs and rungs.losses(rung, own) is not None:
        if rungs.curves is None:
            why = f"not promoted from epoch {rung}"
        else:
            why = f"its chance to become the best is below {100 * LEAST_CHANCE:g} %"
        raise optuna.TrialPruned(f"by {context.definition.search.pruner.name}: {why}")


def _fetch_checkpoint(claim: Claim, context: WorkerContext, folder: TrialFolder) -> checkpoint.State | None:
    """Download a trial's files and return the state from which it continues; None if it begins."""
    folder.fetch()
    state = checkpoint.load_latest(folder.path, claim.checkpoint and file_name(claim.checkpoint))
    if state is None and claim.checkpoint:
        where = context.artifacts.path(folder.name)
        log.warning(
            "trial %d starts again from its first epoch: its checkpoint is missing or damaged in %s; "
            "if the study's files are elsewhere, stop and pass their location with --artifacts or "
            "HPO_ARTIFACTS",
            claim.number,
            where,
        )
        reason = f"began again at its first epoch, as its checkpoint was missing or damaged in {where}"
        restarts.write_restart(claim, reason)
    return state


def _describe_data(
    config: Config | CustomConfig, context: WorkerContext
) -> tuple[Baseline | None, dict[str, Any], dict[str, Any]]:
    """Describe what a trial is measured by: its data set, or the code of a custom objective.

    Returns:
        The baseline rule's baseline; the data set, for ``settings.json``; and what the trial is measured
        on, as user attributes: ``images`` and ``baseline``, the value that guessing gives, or
        ``objective_code`` where the objective is a function of this process.
    """
    if isinstance(config, CustomConfig):
        code = objective_code.fingerprint(context.objective)
        return None, {}, {} if code is None else {"objective_code": code}
    from hpo.training.datasets import check_metric

    dataset = context.cache.load_dataset(config)
    for objective in context.definition.objectives:
        check_metric(objective.name, dataset)
    counts_K = dataset.selection.count_classes(len(dataset.classes)).tolist()
    guessing = guess(config, counts_K)
    measured = {"images": sum(counts_K), **({"baseline": guessing.value} if guessing else {})}
    baseline = baseline_of(guessing, config, context.definition.search)
    return baseline, {"data": dataset.describe()}, measured


def _summarize_data(config: Config, context: WorkerContext) -> str:
    """Return one line on a study's images, and on what the baseline rule cannot do with them."""
    dataset = context.cache.load_dataset(config)
    guessing = guess(config, dataset.selection.count_classes(len(dataset.classes)).tolist())
    limits = describe_limits(guessing, config, context.definition.search)
    metric = context.definition.metric
    parts = [dataset.summary()]  # which names the accuracy of guessing
    if guessing is not None and metric.name != "accuracy":
        parts.append(f"guessing gives {metric.label} {guessing.value:.4f}")
    return "; ".join([*parts, limits] if limits else parts)


def _measure_costs(claim: Claim, context: WorkerContext, run: "Run") -> Mapping[str, float]:
    """Return the costs of a trial's model that are objectives, and commit those that are not known yet."""
    names = [each.name for each in context.definition.objectives if each.name in COSTS]
    known = context.history.own_trial.user_attrs
    if names and not isinstance(run, CustomRun):
        from hpo.training.costs import measure_costs

        if new := measure_costs(run, names, known):
            claim.commit(user_attributes=new)
            known.update(new)
    return {name: known[name] for name in names if name in known and name != "epoch_seconds"}


def _objective_values(
    run: "Run", objectives: Sequence[Metric], costs: Mapping[str, float]
) -> float | list[float] | None:
    """Return the value of a finished run, or with several objectives one for each.

    Metrics are those of the best epoch, and ``epoch_seconds`` is the mean over all epochs. None: the run
    has measured nothing.
    """
    best = run.best_epoch
    if len(objectives) == 1 or best.value is None:
        return best.value
    seconds = sum(epoch.seconds for epoch in run.history) / len(run.history)
    known = {"epoch_seconds": seconds, **costs, run.metric.name: best.value}
    return [known[each.name] if each.name in known else getattr(best, each.name) for each in objectives]


def _build_run(
    config: Config | CustomConfig,
    context: WorkerContext,
    state: checkpoint.State | None,
    recorder: Recorder,
    hardware: Mapping[str, Any],
) -> "Run":
    if isinstance(config, CustomConfig):
        final = context.definition.finishes is not None
        place = TrialPlace(
            device=str(context.device),
            trial=recorder.claim.number,
            folder=recorder.folder.path.absolute(),
        )
        return CustomRun(
            config,
            place=place,
            state=state,
            stop=context.stop,
            final=final,
            metric=context.definition.metric,
            objective=context.objective,
        )
    from hpo.training.loop import TrainingRun

    return TrainingRun(
        config,
        context.cache.load_dataset(config),
        context.device,
        state=state,
        stop=context.stop,
        wants_pause=recorder.wants_pause,
        compute_settings=ComputeSettings(
            precision=hardware["precision"],
            memory_format=hardware["memory_format"],
            compile=config.compile,
            cuda_graphs=config.cuda_graphs,
        ),
        build_model=context.cache.templates.build_seeded,
        feature_cache=context.cache.features,
    )


def _finish_last_report(
    claim: Claim, folder: TrialFolder, recorder: Recorder, values: Mapping[int, float], metric: Metric
) -> None:
    """Do what an attempt that crashed after its last report may have left undone: pruning and curves."""
    pruner = recorder.pruner
    pruner.prepare()
    recorder.order = claim.commit(ask_pruner=pruner.decide)
    metrics.add_missing_epochs(folder.path, values, metric)
    pruner.raise_if_pruned()
    recorder.pause_decision = pruner.pause_decision
