"""The verbs that change a stored study: pause, resume, stop, retry, enqueue and delete."""

from typing import Annotated

import typer

from hpo.cli.options import ARTIFACTS, STORE, ArtifactRoot, StoreUrl, StudyName
from hpo.errors import StoreError

app = typer.Typer()
CONTROL = "Control a study"  # heading in the help of hpo


@app.command("pause", rich_help_panel=CONTROL)
def pause_study(name: StudyName, store_url: StoreUrl = STORE) -> None:
    """Pause a study: its workers save at the end of their epoch and wait.

    This holds for the workers on every host. 'hpo resume' continues the study.
    """
    from hpo.store import plan

    if _give_order(name, store_url, plan.ORDER_PAUSED, "pause"):
        print(
            f"study {name} is paused: workers save at the end of their epoch and wait; "
            f"'hpo resume {name}' continues it"
        )


@app.command("resume", rich_help_panel=CONTROL)
def resume_study(name: StudyName, store_url: StoreUrl = STORE) -> None:
    """Let a paused or stopped study continue.

    The workers of a paused study continue by themselves.
    After 'hpo stop', start new workers with 'hpo launch'.
    """
    if _give_order(name, store_url, None, "resume"):
        print(f"study {name} can continue; if its workers were stopped, run 'hpo launch {name}'")


@app.command("stop", rich_help_panel=CONTROL)
def stop_study(name: StudyName, store_url: StoreUrl = STORE) -> None:
    """Stop a study: its workers save at the end of their epoch and exit.

    This holds for the workers on every host.
    'hpo resume' and then 'hpo launch' continue the study.
    """
    from hpo.store import plan

    if _give_order(name, store_url, plan.ORDER_STOPPED, "stop"):
        print(f"study {name} is stopped: workers save at the end of their epoch and exit")


def _give_order(name: str, store_url: str, order: str | None, verb: str) -> bool:
    """Set or lift (None) the order of a study; return False if the study is complete."""
    from hpo.store import control, status, studies

    storage = studies.open_storage(store_url, create=False)
    if status.read_status(storage, name).state == "complete":
        print(f"study {name} is complete; there is nothing to {verb}")
        return False
    control.set_order(storage, name, order)
    return True


@app.command("retry", rich_help_panel=CONTROL)
def retry_trials(
    name: StudyName,
    trial: Annotated[
        list[int] | None, typer.Option("--trial", metavar="N", help="A trial to retry. Repeatable.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Retry every failed trial.")] = False,
    store_url: StoreUrl = STORE,
) -> None:
    """Put failed trials back into the queue, to continue from their checkpoints.

    A trial that diverged counts as pruned; only --trial retries it.

    Example: hpo retry my-study --failed
    """
    from hpo.store import control, studies

    if bool(trial) == failed:
        raise typer.BadParameter("want --trial N (repeatable) or --failed")
    numbers = control.retry_trials(
        studies.open_storage(store_url, create=False), name, None if failed else trial
    )
    if not numbers:
        raise StoreError(f"study '{name}' has no failed trial")
    plural = "s" * (len(numbers) > 1)
    print(f"trial{plural} {', '.join(map(str, numbers))} of study {name} will run again")


@app.command("enqueue", rich_help_panel=CONTROL)
def enqueue_setting(
    name: StudyName,
    settings: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE...", help="Values of the parameters.")
    ],
    store_url: StoreUrl = STORE,
) -> None:
    """Add one setting to the queue, to run before the settings that the sampler proposes.

    Example: hpo enqueue my-study lr=0.01 batch_size=32
    """
    from hpo.analysis.formatting import format_params
    from hpo.store import studies
    from hpo.study import file

    storage = studies.open_storage(store_url, create=False)
    definition = studies.read_definition(storage, name)
    point = file.point_from_texts(definition, settings)
    number = studies.enqueue_setting(storage, name, point)
    print(
        f"trial {number} of study {name} waits: {format_params(definition.complete_hyperparameters(point))}"
    )


@app.command("delete", rich_help_panel=CONTROL)
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
    from hpo.store import control, folders, lease_info, plan, status, studies

    storage = studies.open_storage(store_url, create=False)
    if name not in studies.study_names(storage):
        studies.read_definition(storage, name)  # says what is there instead
    study_id = studies.find_study_id(storage, name)
    # Not the whole status: a study whose definition cannot be read can be deleted, too.
    held = lease_info.read_leases(storage, study_id)
    if alive := [worker.owner for worker in held if worker.is_alive]:
        first = (
            "wait until they have exited, then try again"
            if control.read_order(storage, study_id) == plan.ORDER_STOPPED
            else f"run 'hpo stop {name}' first"
        )
        raise StoreError(f"study '{name}' has workers ({', '.join(alive)}); {first}")
    folder, place = folders.stored_folder(storage, study_id), Artifacts(artifacts)
    if not yes:
        ended = sum(trial.state.is_finished() for trial in status.read_trials(storage, name))
        files = "no files, since it names no folder of its own" if folder is None else place.path(folder)
        typer.confirm(f"Delete study {name}, {ended} finished trials, and {files}?", abort=True, err=True)
    place.check_access()  # else the study would be deleted and its files kept
    studies.delete_study(storage, name)
    kept = folders.delete_unused_folder(storage, name, folder, place)
    print(f"study {name} deleted{kept and f'; {kept}'}")
