"""The verbs that change a stored study: pause, resume, stop, retry, enqueue and delete."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.api.locations import Locations
from hpo.cli.completion import complete_trial
from hpo.cli.options import ARTIFACTS, DATA, STORE, ArtifactRoot, DataRoot, StoreUrl, StudyName
from hpo.cli.verbs import CONTROL, MANAGE, verb
from hpo.errors import StoreError, join_names

if TYPE_CHECKING:
    from hpo.api.retrying import RetriedTrial
    from hpo.api.study import Study

MAX_NUMBERS = 20  # of trials that a line names

app = typer.Typer()


@verb(app, "pause", CONTROL, "hpo pause my-study")
def pause_study(name: StudyName, store_url: StoreUrl = STORE) -> None:
    """Pause a study: its workers save at the end of their epoch and wait.

    This holds for the workers on every host. 'hpo resume' continues the study.
    """
    if _open(name, store_url).pause():
        print(
            f"study {name} is paused: workers save at the end of their epoch and wait; "
            f"'hpo resume {name}' continues it"
        )
    else:
        print(f"study {name} is complete; there is nothing to pause")


@verb(app, "resume", CONTROL, "hpo resume my-study")
def resume_study(name: StudyName, store_url: StoreUrl = STORE) -> None:
    """Let a paused or stopped study continue.

    The workers of a paused study continue by themselves.
    After 'hpo stop', start new workers with 'hpo launch'.
    """
    if _open(name, store_url).resume():
        print(f"study {name} can continue; if its workers were stopped, run 'hpo launch {name}'")
    else:
        print(f"study {name} is complete; there is nothing to resume")


@verb(app, "stop", CONTROL, "hpo stop my-study", "hpo stop my-study --trial 3")
def stop_study(
    name: StudyName,
    trial: Annotated[
        int | None,
        typer.Option(
            "--trial",
            metavar="N",
            help="Stop this trial only; the study goes on.",
            autocompletion=complete_trial,
        ),
    ] = None,
    store_url: StoreUrl = STORE,
) -> None:
    """Stop a study: its workers save at the end of their epoch and exit.

    This holds for the workers on every host.
    'hpo resume' and then 'hpo launch' continue the study.
    A trial that is stopped counts as pruned, with its last value; 'hpo retry --trial' continues it.
    """
    study = _open(name, store_url)
    if trial is not None:
        ends = "is stopped" if study.stop(trial) else "ends at the end of its epoch"
        print(f"trial {trial} of study {name} {ends}; 'hpo retry {name} --trial {trial}' puts it back")
    elif study.stop():
        print(f"study {name} is stopped: workers save at the end of their epoch and exit")
    else:
        print(f"study {name} is complete; there is nothing to stop")


def _open(name: str, store_url: str, artifacts: str = ARTIFACTS) -> "Study":
    from hpo.api.study import open_study

    return open_study(name, Locations(store=store_url, artifacts=artifacts))


@verb(app, "retry", CONTROL, "hpo retry my-study --failed", "hpo retry my-study --trial 3 --trial 7")
def retry_trials(
    name: StudyName,
    trial: Annotated[
        list[int] | None,
        typer.Option(
            "--trial", metavar="N", help="A trial to retry. Repeatable.", autocompletion=complete_trial
        ),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Retry every failed trial.")] = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
) -> None:
    """Put failed trials back into the queue, to continue from their checkpoints.

    It says why they had failed, and after which epochs they continue.
    A trial that diverged, or was stopped by hand, is pruned; only --trial retries it.
    Nothing is put back if the study's models, custom objective or images show that it would fail again.
    Images that are not on this machine are not checked; a line says so.
    """
    if bool(trial) == failed:
        raise typer.BadParameter("want --trial N (repeatable) or --failed")
    from hpo.api.study import open_study

    study = open_study(name, Locations(store=store_url, artifacts=artifacts, data=data))
    retried = study.retry(None if failed else trial)
    if not retried:
        raise StoreError(f"study '{name}' has no failed trial")
    print(f"{_name_trials(retried)} of study {name} will run again")
    for line in _describe_retried(retried):
        print(f"  {line}")
    print(_next_step(study))


def _describe_retried(retried: "list[RetriedTrial]") -> Iterator[str]:
    """Yield why the trials had ended, the commonest reason first, then after which epochs they continue."""
    from hpo.store.failures import group_reasons

    for reason, alike in group_reasons([each.reason for each in retried]):
        yield f"{_name_trials([retried[index] for index in alike])}: {reason or 'no reason is recorded'}"
    for epochs in sorted({each.epochs for each in retried}, reverse=True):
        again = [each for each in retried if each.epochs == epochs]
        verb = ("continue" if epochs else "begin") + "s" * (len(again) == 1)
        yield f"{_name_trials(again)} {verb} {f'after epoch {epochs}' if epochs else 'anew'}"


def _name_trials(retried: "list[RetriedTrial]") -> str:
    plural = "s" * (len(retried) > 1)
    return f"trial{plural} {join_names([str(each.trial) for each in retried], MAX_NUMBERS)}"


def _next_step(study: "Study") -> str:
    """Return what makes the trials run, in the state that the study is in."""
    from hpo.store.waits import start_command

    now = study.status()
    if now.state in ("paused", "stopped"):
        return f"the study is {now.state}: run 'hpo resume {study.name}'"
    if now.workers or now.waiting_workers:
        return "its workers take them"
    start = start_command(study.name, study.definition().script_function)
    return "to run them: " + start.strip("'")


@verb(app, "enqueue", CONTROL, "hpo enqueue my-study lr=0.01 batch_size=32")
def enqueue_setting(
    name: StudyName,
    settings: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE...", help="Values of the parameters.")
    ],
    store_url: StoreUrl = STORE,
) -> None:
    """Add one setting to the queue, to run before the settings that the sampler proposes.

    A setting that a trial has already is not queued again; with another seed it is another setting.
    """
    from hpo.analysis.formatting import format_params
    from hpo.store import status, studies, untried_settings
    from hpo.store.rows import STATE_NAMES
    from hpo.study import file

    storage = studies.open_storage(store_url, create=False)
    definition = studies.read_definition(storage, name)
    point = file.point_from_texts(definition, settings)
    known = untried_settings.trial_of_setting(definition, status.read_trials(storage, name), point)
    if known is not None:
        print(
            f"trial {known.number} of study {name} has this setting already and is "
            f"{STATE_NAMES[known.state]}; add seed=N to run it with another seed"
        )
        return
    number = studies.enqueue_setting(storage, name, point)
    print(
        f"trial {number} of study {name} waits: {format_params(definition.complete_hyperparameters(point))}"
    )


@verb(app, "delete", MANAGE, "hpo delete my-study", "hpo delete my-study --yes")
def delete_study(
    name: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Delete a study and its files, after asking for confirmation.

    A study with a trial that a worker runs is not deleted; stop it first.
    """
    from hpo.artifacts.folders import Artifacts
    from hpo.store import status

    study = _open(name, store_url, artifacts)
    study.check_deletable()
    if not yes:
        folder = study.artifacts_folder()
        ended = sum(trial.state.is_finished() for trial in status.read_trials(study.storage, name))
        where = Artifacts(artifacts).path(folder) if folder else None
        files = where or "no files, since it names no folder of its own"
        typer.confirm(f"Delete study {name}, {ended} finished trials, and {files}?", abort=True, err=True)
    kept = study.delete()
    print(f"study {name} deleted{kept and f'; {kept}'}")
