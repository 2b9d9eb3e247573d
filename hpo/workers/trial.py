"""One claimed trial, from its setting to its end: where Optuna, training, files and lease meet.

It is trained here; what it leaves behind is written meanwhile, by ``recorder``, in an order that makes
a crash harmless at any point of it.
"""

import contextlib
import gc
import json
import logging
import os
import platform
import resource
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.artifacts import checkpoint, durable
from hpo.artifacts.folders import Artifacts, TrialFolder, file_name
from hpo.errors import ArtifactError, DeviceLost, HpoError
from hpo.search import asha, baseline, samplers
from hpo.store import lease, plan, status
from hpo.store.history import History
from hpo.store.lease import Claim
from hpo.study import space
from hpo.study.definition import Definition
from hpo.training import custom
from hpo.training.config import Config, CustomConfig
from hpo.training.events import Diverged, EpochReported, TrialEnded, TrialEvent, TrialStarted
from hpo.training.precision import ComputeSettings
from hpo.workers import metrics, recorder, retention
from hpo.workers.cache import WorkerCache
from hpo.workers.pruning import TrialPrunedByRule, TrialPruner

if TYPE_CHECKING:
    # torchvision takes a second or two, which a worker of a person's own objective does without.
    from hpo.training import loop

    Run = loop.TrainingRun | custom.CustomRun

log = logging.getLogger("hpo")


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """Where a worker works: everything a trial needs besides its own settings."""

    study_id: int
    definition: Definition
    history: History  # the study's trials, over the store that claims come from
    study_folder: str  # the study's, in the artifacts
    artifacts: Artifacts
    cache: WorkerCache  # what is kept between trials
    device: torch.device
    stop: threading.Event


def run_trial(claim: Claim, place: WorkerContext) -> Iterator[TrialEvent]:
    """Run a claimed trial until it is complete, pruned or failed, or this worker is told to stop.

    Raises HpoError for what would meet every other trial as well (no weights, a full disk): the trial is
    given back first. An exception in the training itself fails the trial alone.
    """
    with lease.keep_lease(claim), contextlib.ExitStack() as cleanup:
        # A resumed trial keeps the threads that it began with; the worker's next one gets the worker's own.
        cleanup.callback(torch.set_num_threads, torch.get_num_threads())
        try:
            folder = place.artifacts.open_folder(f"{place.study_folder}/{claim.number:04d}")
            cleanup.callback(folder.close)
            yield from _train_trial(claim, place, folder)
        except lease.LeaseLost:
            yield _lost_event(claim)
        except optuna.TrialPruned as pruned:
            system = pruned.attributes if isinstance(pruned, TrialPrunedByRule) else {}
            yield _end_early(claim, place, folder, TrialState.PRUNED, {"pruned": str(pruned)}, system)
        except Diverged as diverged:
            failure = {"class": "diverged", "message": str(diverged)}
            attributes = {"failure": failure, "pruned": str(diverged)}
            yield _end_early(claim, place, folder, TrialState.PRUNED, attributes)
        except (HpoError, KeyboardInterrupt):
            claim.release()
            raise
        except OSError as error:
            claim.release()
            where = error.filename or f"{place.artifacts.path(place.study_folder)}/{claim.number:04d}"
            raise ArtifactError(f"{where}: {error.strerror or error}") from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            failure = {"class": "out_of_memory", "message": out_of_memory_message(claim, place, error)}
            error.__traceback__ = None  # its frames hold the trial's tensors
            free_memory(place.device)
            yield _end_early(claim, place, folder, TrialState.FAIL, {"failure": failure})
        except Exception as error:
            _save_traceback(claim, folder, error)
            check_device(claim, place.device)
            failure = {"class": type(error).__name__, "message": str(error)[:2000]}
            yield _end_early(claim, place, folder, TrialState.FAIL, {"failure": failure})


def out_of_memory_message(claim: Claim, place: WorkerContext, error: BaseException) -> str:
    """Say what was too much, how much it was, and what to try."""
    setting = place.definition.train | place.history.own_trial.params
    used, there = peak_memory_gib(place.device)
    size = {key: setting[key] for key in ("model", "image_size", "batch_size") if key in setting}
    text = f"out of memory on {place.device}: peak {used:.1f} of {there:.1f} GiB"
    text += f" with {', '.join(f'{key} {value}' for key, value in size.items())}" if size else ""
    if isinstance(size.get("batch_size"), int) and size["batch_size"] > 1:
        text += f"; batch_size {size['batch_size'] // 2} takes about half, and so do smaller images"
    return f"{text} ({str(error).partition(chr(10))[0][:300]})"


def peak_memory_gib(device: torch.device) -> tuple[float, float]:
    """Give the most that was used, and what there is, in GiB."""
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.max_memory_reserved(device) / 2**30, there / 2**30
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return used / 2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def check_device(claim: Claim, device: torch.device) -> None:
    """Raise DeviceAway if a GPU answers this process no more.

    After an illegal access or a failed assertion in a kernel CUDA refuses every later call of the process:
    the trials to come would fail one by one, through no fault of theirs.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        raise DeviceLost(
            f"trial {claim.number} waits for another worker: the GPU is lost to this one ({said})"
        ) from error


def _save_traceback(claim: Claim, folder: TrialFolder, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    log.error("trial %d failed: %s", claim.number, text.rstrip())
    with contextlib.suppress(OSError, ArtifactError):  # which do not keep the failure from being told
        durable.write_file(folder.path / "traceback.txt", text.encode())
        folder.publish()


def _lost_event(claim: Claim) -> TrialEnded:
    return TrialEnded(trial=claim.number, state="lost", reason="another worker has it")


def _end_early(
    claim: Claim,
    place: WorkerContext,
    folder: TrialFolder,
    state: TrialState,
    attributes: dict[str, Any],
    system: Mapping[str, Any] | None = None,
) -> TrialEnded:
    """End a trial early; a pruned one keeps its last accuracy as its value, as in Optuna.

    What failed keeps its checkpoints: it can be put back.
    """
    forget = "failure" not in attributes
    reported = place.history.own_trial.intermediate_values if state == TrialState.PRUNED else {}
    value = reported[max(reported)] if reported else None
    try:
        claim.end(
            state,
            value=value,
            user_attributes=attributes,
            system_attributes=system,
            forget_checkpoint=forget,
        )
    except lease.LeaseLost:
        return _lost_event(claim)
    if forget:
        _remove_old_files(claim, place, folder)
    reason = str(attributes.get("pruned") or attributes["failure"]["message"])
    name = "pruned" if state == TrialState.PRUNED else "failed"
    measure = status.metric_name(place.definition)
    return TrialEnded(trial=claim.number, state=name, accuracy=value, metric=measure, reason=reason)


def _train_trial(claim: Claim, place: WorkerContext, folder: TrialFolder) -> Iterator[TrialEvent]:
    trial, config, study = choose_setting(claim, place)
    _prune_if_left_over(place)
    hardware = hardware_facts(claim, place, config)
    state = _fetch_checkpoint(claim, place, folder)
    settings = {"trial": claim.number, "params": trial.params, "settings": config.model_dump()}
    guessing = None  # a person's own objective has no classes that we know
    if not isinstance(config, CustomConfig):
        dataset = place.cache.load_dataset(config)
        settings["data"] = dataset.describe()
        guessing = baseline.baseline_of(dataset.selection.labels, config, place.definition.search)
    durable.write_file(folder.path / "settings.json", json.dumps(settings, indent=2).encode())
    measure = status.metric_name(place.definition)
    judge = TrialPruner(study, place.history, place.definition, guessing)
    costs = place.cache.save_seconds
    # A person's own objective may have states of any size: none is known before it is saved.
    known = 0.0 if isinstance(config, CustomConfig) else costs.get(config.model, 0.0)
    with recorder.Recorder(claim, folder, hardware, judge, known) as records:
        run = _build_run(config, place, state, records.wants_pause, hardware)
        done = len(run.history)
        yield TrialStarted(
            trial=claim.number,
            attempt=claim.token,
            params=trial.params,
            epochs=config.epochs,
            epochs_done=done,
        )
        if place.history.own_trial.intermediate_values and not run.finished:
            # The attempt before may have died before it obeyed the last verdict, or wrote its curves.
            claim.commit(ask_pruner=judge.decide)
            metrics.add_missing_epochs(folder.path, place.history.own_trial.intermediate_values)
            judge.raise_if_pruned()
            records.pause_decision = judge.pause_decision
        with contextlib.closing(
            metrics.TensorBoardEvents(folder.path, done, folder.name, trial.params)
        ) as events:
            for epoch in run.epochs():
                if epoch is not None:
                    events.write_epoch(epoch, run.best_epoch)
                    records.report(run)
                    yield EpochReported(
                        trial=claim.number, epoch=epoch, epochs=config.epochs, metric=measure
                    )
                records.handle_pending(run)
                if records.must_release:
                    break
        if not run.finished:
            records.save(run)
    if not isinstance(config, CustomConfig):
        costs[config.model] = records.save_cost_seconds
    if run.finished:
        _complete_trial(claim, place, run.best_epoch.accuracy)
        _remove_old_files(claim, place, folder)
        best = run.best_epoch.accuracy
        yield TrialEnded(trial=claim.number, state="complete", accuracy=best, metric=measure)
    else:
        yield _release_trial(claim, records)


def _fetch_checkpoint(claim: Claim, place: WorkerContext, folder: TrialFolder) -> checkpoint.State | None:
    """Fetch a trial's files, and give where it goes on; None if it begins."""
    folder.fetch()
    state = checkpoint.load_latest(folder.path, claim.checkpoint and file_name(claim.checkpoint))
    if state is None and claim.checkpoint:
        where = place.artifacts.path(folder.name)
        log.warning(
            "trial %d begins anew: its checkpoint is not in %s, or spoiled; if the study's files lie "
            "elsewhere, stop, and name the place with --artifacts",
            claim.number,
            where,
        )
    return state


def _complete_trial(claim: Claim, place: WorkerContext, accuracy: float | None) -> None:
    """End a trial that has run all its epochs, and have its setting repeated where the study wants that."""

    def repeat(session: Session) -> None:
        plan.add_replicates(session, place.study_id, place.history.own_trial, place.definition)

    claim.end(TrialState.COMPLETE, value=accuracy, forget_checkpoint=True, in_transaction=repeat)


def _release_trial(claim: Claim, records: recorder.Recorder) -> TrialEnded:
    """Leave a trial that was saved to others: at the rung where it pauses, or to whoever is free."""
    if records.pause_decision is not None:
        claim.release(system_attributes={asha.PAUSED_AT_RUNG: records.pause_decision.rung})
        return TrialEnded(trial=claim.number, state="paused", reason=str(records.pause_decision))
    claim.release()
    reason = "told to stop" if records.order is None else f"the study is {records.order}"
    return TrialEnded(trial=claim.number, state="released", reason=reason)


def _prune_if_left_over(place: WorkerContext) -> None:
    """Raise TrialPruned for a trial that was claimed to be ended: it still waits at its rung."""
    rung = place.history.own_trial.system_attrs.get(asha.PAUSED_AT_RUNG)
    if rung is not None:
        name = place.definition.search.pruner.name
        raise optuna.TrialPruned(f"by {name}: not promoted from epoch {rung}")


def _build_run(
    config: Config | CustomConfig,
    place: WorkerContext,
    state: checkpoint.State | None,
    pause: Callable[[], bool],
    hardware: Mapping[str, Any],
) -> "Run":
    if isinstance(config, CustomConfig):
        final = place.definition.finishes is not None
        return custom.CustomRun(config, state=state, stop=place.stop, final=final)
    from hpo.training import loop

    return loop.TrainingRun(
        config,
        place.cache.load_dataset(config),
        place.device,
        state=state,
        stop=place.stop,
        wants_pause=pause,
        compute_settings=ComputeSettings(
            precision=hardware["precision"],
            memory_format=hardware["memory_format"],
            compile=config.compile,
            cuda_graphs=config.cuda_graphs,
        ),
        build_model=place.cache.templates.build_seeded,
        feature_cache=place.cache.features,
    )


def choose_setting(
    claim: Claim, place: WorkerContext
) -> tuple[optuna.Trial, Config | CustomConfig, optuna.Study]:
    """Give the trial its parameters: a point's own, or what the sampler proposes."""
    definition = place.definition
    history = place.history
    system = history.begin_trial(claim.trial_id).system_attrs
    study = optuna.Study(
        definition.name,
        history,
        sampler=samplers.build_sampler(definition, claim.number),
        pruner=samplers.build_pruner(definition),
    )
    trial = optuna.Trial(study, claim.trial_id)
    parameters = definition.parameters()
    if "grid_id" in system:
        names = list(definition.points[system["grid_id"]].hyperparameters())
    else:
        names = list(system.get("fixed_params", {}))
    if names:
        setting = {name: space.suggest_value(trial, parameters[name]) for name in names}
    else:
        setting = space.suggest_setting(trial, definition.space, definition.train)
    if history.unwritten_parameters or history.unwritten_attributes:
        claim.commit(
            parameters=history.unwritten_parameters, system_attributes=history.unwritten_attributes
        )
        history.mark_written()
    return trial, definition.trial_config(setting | system.get(plan.RUN_OPTIONS, {})), study


def hardware_facts(claim: Claim, place: WorkerContext, config: Config | CustomConfig) -> dict[str, Any]:
    """Give what the trial runs on; what its first attempt chose and bits depend on is kept to.

    How a person's own objective computes is its own matter.
    """
    stored: Mapping[str, Any] = place.history.own_trial.user_attrs.get("hardware", {})
    threads = int(stored.get("threads", torch.get_num_threads()))
    torch.set_num_threads(threads)
    cuda = place.device.type == "cuda"
    found = {
        "device": torch.cuda.get_device_name(place.device) if cuda else processor_name(),
        "host": socket.gethostname(),
        "torch": torch.__version__,
        "threads": threads,
    }
    if isinstance(config, CustomConfig):
        return found
    precision = str(stored.get("precision") or place.cache.precision)
    chosen = stored.get("memory_format") or place.cache.choose_memory_format(config, precision)
    return found | {"precision": precision, "memory_format": str(chosen)}


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _remove_old_files(claim: Claim, place: WorkerContext, folder: TrialFolder) -> None:
    """Remove what an ended trial, and those before it, leave behind of no further use."""
    with contextlib.suppress(OSError, ArtifactError):  # the trial is over; a file too many harms nobody
        folder.remove_matching(checkpoint.CHECKPOINT_NAME.fullmatch)
    if kept := place.definition.search.keep_weights:
        retention.prune_weights(claim.storage, place.study_id, place.artifacts, kept)
