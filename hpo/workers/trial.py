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
from hpo.artifacts.folders import Artifacts, Folder, file_of
from hpo.errors import ArtifactError, DeviceAway, HpoError
from hpo.search import asha, baseline, samplers
from hpo.store import lease, plan, status, studies
from hpo.store.history import History
from hpo.store.lease import Claim
from hpo.study import space
from hpo.study.definition import Definition
from hpo.training import custom
from hpo.training.config import Config, Free
from hpo.training.events import Diverged, Ended, Event, Reported, Started
from hpo.training.precision import Numerics
from hpo.workers import metrics, recorder, retention
from hpo.workers.cache import Warm
from hpo.workers.pruning import Judge, Pruned

if TYPE_CHECKING:
    # torchvision takes a second or two, which a worker of a person's own objective does without.
    from hpo.training import loop

    Run = loop.Run | custom.Run

log = logging.getLogger("hpo")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker works: everything a trial needs besides its own settings."""

    study_id: int
    definition: Definition
    storage: History  # the study's trials, over the store that claims come from
    folder: str  # the study's, in the artifacts
    artifacts: Artifacts
    warm: Warm  # what is kept between trials
    device: torch.device
    stop: threading.Event


def run(claim: Claim, place: Place) -> Iterator[Event]:
    """Run a claimed trial until it is complete, pruned or failed, or this worker is told to stop.

    Raises HpoError for what would meet every other trial as well (no weights, a full disk): the trial is
    given back first. An exception in the training itself fails the trial alone.
    """
    with lease.kept(claim), contextlib.ExitStack() as cleanup:
        # A resumed trial keeps the threads that it began with; the worker's next one gets the worker's own.
        cleanup.callback(torch.set_num_threads, torch.get_num_threads())
        try:
            folder = place.artifacts.folder(f"{place.folder}/{claim.number:04d}")
            cleanup.callback(folder.close)
            yield from _train(claim, place, folder)
        except lease.LeaseLost:
            yield _lost(claim)
        except optuna.TrialPruned as pruned:
            system = pruned.attributes if isinstance(pruned, Pruned) else {}
            yield _end(claim, place, folder, TrialState.PRUNED, {"pruned": str(pruned)}, system)
        except Diverged as diverged:
            failure = {"class": "diverged", "message": str(diverged)}
            attributes = {"failure": failure, "pruned": str(diverged)}
            yield _end(claim, place, folder, TrialState.PRUNED, attributes)
        except (HpoError, KeyboardInterrupt):
            claim.release()
            raise
        except OSError as error:
            claim.release()
            where = error.filename or f"{place.artifacts.path(place.folder)}/{claim.number:04d}"
            raise ArtifactError(f"{where}: {error.strerror or error}") from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            failure = {"class": "out_of_memory", "message": _out_of_memory(claim, place, error)}
            error.__traceback__ = None  # its frames hold the trial's tensors
            _give_memory_back(place.device)
            yield _end(claim, place, folder, TrialState.FAIL, {"failure": failure})
        except Exception as error:
            _keep_traceback(claim, folder, error)
            _ask_device(claim, place.device)
            failure = {"class": type(error).__name__, "message": str(error)[:2000]}
            yield _end(claim, place, folder, TrialState.FAIL, {"failure": failure})


def _out_of_memory(claim: Claim, place: Place, error: BaseException) -> str:
    """Say what was too much, how much it was, and what to try."""
    setting = place.definition.train | place.storage.own.params
    used, there = _memory(place.device)
    size = {key: setting[key] for key in ("model", "image_size", "batch_size") if key in setting}
    text = f"out of memory on {place.device}: peak {used:.1f} of {there:.1f} GiB"
    text += f" with {', '.join(f'{key} {value}' for key, value in size.items())}" if size else ""
    if isinstance(size.get("batch_size"), int) and size["batch_size"] > 1:
        text += f"; batch_size {size['batch_size'] // 2} takes about half, and so do smaller images"
    return f"{text} ({str(error).partition(chr(10))[0][:300]})"


def _memory(device: torch.device) -> tuple[float, float]:
    """Give the most that was used, and what there is, in GiB."""
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.max_memory_reserved(device) / 2**30, there / 2**30
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return used / 2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _give_memory_back(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _ask_device(claim: Claim, device: torch.device) -> None:
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
        raise DeviceAway(
            f"trial {claim.number} waits for another worker: the GPU is lost to this one ({said})"
        ) from error


def _keep_traceback(claim: Claim, folder: Folder, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    log.error("trial %d failed: %s", claim.number, text.rstrip())
    with contextlib.suppress(OSError, ArtifactError):  # which do not keep the failure from being told
        durable.write(folder.local / "traceback.txt", text.encode())
        folder.publish()


def _lost(claim: Claim) -> Ended:
    return Ended(trial=claim.number, state="lost", reason="another worker has it")


def _end(
    claim: Claim,
    place: Place,
    folder: Folder,
    state: TrialState,
    attributes: dict[str, Any],
    system: Mapping[str, Any] | None = None,
) -> Ended:
    """End a trial early; a pruned one keeps its last accuracy as its value, as in Optuna.

    What failed keeps its checkpoints: it can be put back.
    """
    forget = "failure" not in attributes
    reported = place.storage.own.intermediate_values if state == TrialState.PRUNED else {}
    value = reported[max(reported)] if reported else None
    try:
        claim.end(state, value=value, attributes=attributes, system=system, forget=forget)
    except lease.LeaseLost:
        return _lost(claim)
    if forget:
        _clear(claim, place, folder)
    reason = str(attributes.get("pruned") or attributes["failure"]["message"])
    name = "pruned" if state == TrialState.PRUNED else "failed"
    measure = status.measure(place.definition)
    return Ended(trial=claim.number, state=name, accuracy=value, measure=measure, reason=reason)


def _train(claim: Claim, place: Place, folder: Folder) -> Iterator[Event]:
    trial, config, study = _setting(claim, place)
    _refuse_left_over(place)
    hardware = _hardware(claim, place, config)
    state = _latest(claim, place, folder)
    settings = {"trial": claim.number, "params": trial.params, "settings": config.model_dump()}
    guessing = None  # a person's own objective has no classes that we know
    if not isinstance(config, Free):
        dataset = place.warm.dataset(config)
        settings["data"] = dataset.facts()
        guessing = baseline.of(dataset.selection.labels, config, place.definition.search)
    durable.write(folder.local / "settings.json", json.dumps(settings, indent=2).encode())
    measure = status.measure(place.definition)
    judge = Judge(study, place.storage, place.definition, guessing)
    costs = place.warm.save_seconds
    # A person's own objective may have states of any size: none is known before it is saved.
    known = 0.0 if isinstance(config, Free) else costs.get(config.model, 0.0)
    with recorder.Recorder(claim, folder, hardware, judge, known) as records:
        run = _run(config, place, state, records.calls, hardware)
        done = len(run.history)
        yield Started(
            trial=claim.number, attempt=claim.token, params=trial.params, epochs=config.epochs, done=done
        )
        if place.storage.own.intermediate_values and not run.finished:
            # The attempt before may have died before it obeyed the last verdict, or wrote its curves.
            claim.commit(judge=judge.ask)
            metrics.complete_csv(folder.local, place.storage.own.intermediate_values)
            judge.obey()
            records.paused = judge.paused
        with contextlib.closing(metrics.Events(folder.local, done, folder.name, trial.params)) as events:
            for epoch in run.epochs():
                if epoch is not None:
                    events.write(epoch, run.best)
                    records.report(run)
                    yield Reported(trial=claim.number, epoch=epoch, epochs=config.epochs, measure=measure)
                records.attend(run)
                if records.leaves:
                    break
        if not run.finished:
            records.save(run)
    if not isinstance(config, Free):
        costs[config.model] = records.cost
    if run.finished:
        _complete(claim, place, run.best.accuracy)
        _clear(claim, place, folder)
        best = run.best.accuracy
        yield Ended(trial=claim.number, state="complete", accuracy=best, measure=measure)
    else:
        yield _leave(claim, records)


def _latest(claim: Claim, place: Place, folder: Folder) -> checkpoint.State | None:
    """Fetch a trial's files, and give where it goes on; None if it begins."""
    folder.fetch()
    state = checkpoint.latest(folder.local, claim.checkpoint and file_of(claim.checkpoint))
    if state is None and claim.checkpoint:
        where = place.artifacts.path(folder.name)
        log.warning(
            "trial %d begins anew: its checkpoint is not in %s, or spoiled; if the study's files lie "
            "elsewhere, stop, and name the place with --artifacts",
            claim.number,
            where,
        )
    return state


def _complete(claim: Claim, place: Place, accuracy: float | None) -> None:
    """End a trial that has run all its epochs, and have its setting repeated where the study wants that."""

    def repeat(session: Session) -> None:
        plan.repeat(session, place.study_id, place.storage.own, place.definition)

    claim.end(TrialState.COMPLETE, value=accuracy, forget=True, then=repeat)


def _leave(claim: Claim, records: recorder.Recorder) -> Ended:
    """Leave a trial that was saved to others: at the rung where it pauses, or to whoever is free."""
    if records.paused is not None:
        claim.release(system={asha.PAUSED: records.paused.rung})
        return Ended(trial=claim.number, state="paused", reason=str(records.paused))
    claim.release()
    reason = "told to stop" if records.order is None else f"the study is {records.order}"
    return Ended(trial=claim.number, state="released", reason=reason)


def _refuse_left_over(place: Place) -> None:
    """Raise TrialPruned for a trial that was claimed to be ended: it still waits at its rung."""
    rung = place.storage.own.system_attrs.get(asha.PAUSED)
    if rung is not None:
        name = place.definition.search.pruner.name
        raise optuna.TrialPruned(f"by {name}: not promoted from epoch {rung}")


def _run(
    config: Config | Free,
    place: Place,
    state: checkpoint.State | None,
    pause: Callable[[], bool],
    hardware: Mapping[str, Any],
) -> "Run":
    if isinstance(config, Free):
        final = place.definition.finishes is not None
        return custom.Run(config, state=state, stop=place.stop, final=final)
    from hpo.training import loop

    return loop.Run(
        config,
        place.warm.dataset(config),
        place.device,
        state=state,
        stop=place.stop,
        pause=pause,
        numerics=Numerics(
            precision=hardware["precision"],
            memory_format=hardware["memory_format"],
            compile=config.compile,
            cuda_graphs=config.cuda_graphs,
        ),
        build=place.warm.templates.seeded,
        cache=place.warm.features,
    )


def _setting(claim: Claim, place: Place) -> tuple[optuna.Trial, Config | Free, optuna.Study]:
    """Give the trial its parameters: a point's own, or what the sampler proposes."""
    definition = place.definition
    history = place.storage
    system = history.begin(claim.trial_id).system_attrs
    study = optuna.Study(
        definition.name,
        history,
        sampler=samplers.sampler(definition, claim.number),
        pruner=samplers.pruner(definition),
    )
    trial = optuna.Trial(study, claim.trial_id)
    parameters = definition.parameters()
    if "grid_id" in system:
        names = list(definition.points[system["grid_id"]].hyperparameters())
    else:
        names = list(system.get("fixed_params", {}))
    if names:
        setting = {name: space.suggest(trial, parameters[name]) for name in names}
    else:
        setting = space.propose(trial, definition.space, definition.train)
    if history.parameters or history.attributes:
        claim.commit(parameters=history.parameters, system=history.attributes)
        history.settle()
    return trial, definition.config(setting | system.get(studies.RUN, {})), study


def _hardware(claim: Claim, place: Place, config: Config | Free) -> dict[str, Any]:
    """Give what the trial runs on; what its first attempt chose and bits depend on is kept to.

    How a person's own objective computes is its own matter.
    """
    stored: Mapping[str, Any] = place.storage.own.user_attrs.get("hardware", {})
    threads = int(stored.get("threads", torch.get_num_threads()))
    torch.set_num_threads(threads)
    cuda = place.device.type == "cuda"
    found = {
        "device": torch.cuda.get_device_name(place.device) if cuda else _processor(),
        "host": socket.gethostname(),
        "torch": torch.__version__,
        "threads": threads,
    }
    if isinstance(config, Free):
        return found
    precision = str(stored.get("precision") or place.warm.precision)
    chosen = stored.get("memory_format") or place.warm.memory_format(config, precision)
    return found | {"precision": precision, "memory_format": str(chosen)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _clear(claim: Claim, place: Place, folder: Folder) -> None:
    """Remove what an ended trial, and those before it, leave behind of no further use."""
    with contextlib.suppress(OSError, ArtifactError):  # the trial is over; a file too many harms nobody
        folder.remove(checkpoint.NAME.fullmatch)
    if kept := place.definition.search.keep_weights:
        retention.thin(claim.store, place.study_id, place.artifacts, kept)
