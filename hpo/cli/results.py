"""The verbs that show results: studies, status, trials, best and importance."""

import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TextIO

import typer

from hpo import logs
from hpo.api.locations import Locations
from hpo.cli.completion import complete_trial
from hpo.cli.options import ARTIFACTS, STORE, ArtifactRoot, Json, StoreUrl, StudyName
from hpo.cli.verbs import DONE_OR_NOT, RESULTS, WATCH, verb

if TYPE_CHECKING:
    from hpo.analysis.finish_result import FinishResult
    from hpo.analysis.results import SettingResult
    from hpo.api.study import Study
    from hpo.artifacts.folders import Artifacts
    from hpo.store.status import Status
    from hpo.store.storage import Storage

app = typer.Typer()


def print_json(document: Any) -> None:
    """Print a document as indented JSON.

    Dataclasses in it become objects, numbers that are not finite become null: JSON has none.
    """
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return _finite(vars(value)) if hasattr(value, "__dict__") else value


@verb(app, "studies", WATCH, "hpo studies", "hpo studies --json")
def list_studies(as_json: Json = False, store_url: StoreUrl = STORE) -> None:
    """List the studies in the store, with their state and the value of their best setting.

    Studies that other tools made are left out.
    """
    from hpo.api import study
    from hpo.cli import console
    from hpo.store import studies

    found, unreadable = study.read_studies(studies.open_storage(store_url, create=False))
    if as_json:
        print_json([each.document() for each in study.study_records(found, unreadable)])
        return
    console.print_table(console.studies_table(found, unreadable))
    for name, reason in unreadable.items():
        print(f"hpo: study '{name}': {reason}", file=sys.stderr)


@verb(
    app,
    "status",
    WATCH,
    "hpo status my-study",
    "hpo status my-study --watch",
    "hpo status my-study --check",
    exit_codes={**DONE_OR_NOT, 1: "an error, or with --check a study that needs a person"},
)
def show_status(
    name: StudyName,
    as_json: Json = False,
    follow: Annotated[
        bool, typer.Option("--watch", help="Keep showing the study until it is complete.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say in one line whether the study needs a person.")
    ] = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Show the state of a study: problems, trials, best result, budgets, workers, estimated time left.

    running: a worker has a trial. idle: trials wait, and no worker runs.
    paused, stopped: 'hpo pause' or 'hpo stop' was called; 'hpo resume' lets the study go on.
    complete: nothing is left to run.
    With --check, a study that is paused or stopped, or has used up a budget, needs nobody.
    """
    from hpo.analysis import results
    from hpo.api import progress
    from hpo.api.study import open_study
    from hpo.artifacts.folders import Artifacts
    from hpo.cli import console

    study = open_study(name, Locations(store=store_url, artifacts=artifacts))
    if follow + as_json + check > 1:
        raise typer.BadParameter("want only one of --watch, --json and --check")
    if check:
        _print_check(study)
        return
    if follow:
        progress.watch_study(study.storage, name, Artifacts(artifacts))
        return
    if as_json:
        now = study.status()
        print_json(now.document() | {"logs": now.logs})
        return
    read = study.read()
    shown = console.status_view(read.status, results.best_of(read), study.problems(read))
    console.print_view(shown)
    if (logs := study.logs_folder()) is not None:
        print(f"logs: {logs}")


def _print_check(study: "Study") -> None:
    """Print the state of a study as one line.

    Raises:
        HpoError: The study needs a person; the text says why.
    """
    from hpo.api.live_view import status_headline
    from hpo.errors import HpoError

    read = study.read()
    urgent = [problem for problem in study.problems(read) if problem.needs_person]
    if urgent:
        others = f" (and {len(urgent) - 1} more: 'hpo status {study.name}')" if urgent[1:] else ""
        raise HpoError(f"study '{study.name}' needs a person: {urgent[0]}{others}")
    print(status_headline(read.status))


@verb(
    app,
    "trials",
    WATCH,
    "hpo trials my-study",
    "hpo trials my-study --trial 3",
    "hpo trials my-study --csv > trials.csv",
)
def list_trials(
    name: StudyName,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of text.")] = False,
    trial: Annotated[
        int | None,
        typer.Option(
            "--trial", metavar="N", help="Show everything about one trial.", autocompletion=complete_trial
        ),
    ] = None,
    store_url: StoreUrl = STORE,
) -> None:
    """List the trials of a study, with values, settings and why a trial ended early."""
    from hpo.analysis import documents, records
    from hpo.cli import console
    from hpo.errors import StoreError
    from hpo.store import status, studies
    from hpo.store.attempts import read_attempts

    storage = studies.open_storage(store_url, create=False)
    trials = status.read_trials(storage, name)
    definition = studies.read_definition(storage, name)
    measure = status.metric_name(definition)
    if trial is not None:
        trials = [each for each in trials if each.number == trial]
        if not trials:
            raise StoreError(f"study '{name}' has no trial {trial}")
    if as_json and as_csv:
        raise typer.BadParameter("want --json or --csv, not both")
    found = records.trial_records(definition, trials)
    if as_json:
        print_json([documents.study_trial(each).document() for each in trials])
    elif as_csv:
        sys.stdout.write(documents.trials_csv(trials, found, definition.attribute_names))
    elif trial is not None:
        attempts = read_attempts(storage, studies.find_study_id(storage, name), trial)
        console.print_view(console.trial_table(trials[0], found[0], measure, attempts))
    else:
        table = console.trials_table(trials, found, measure, definition.attribute_names)
        console.print_table(table)


@verb(app, "best", RESULTS, "hpo best my-study", "hpo best my-study -n 3 --json")
def show_best(
    name: StudyName,
    count: Annotated[
        int | None,
        typer.Option("-n", metavar="K", min=1, help="How many trials to show. [default: 1, or the front]"),
    ] = None,
    as_json: Json = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Show the best trial of a study, or the K best, with what its value rests on.

    A setting with several seeds counts once, with the mean over its seeds.
    With several objectives, shows the Pareto front.
    After 'hpo finish', also says which setting that ranks first.
    """
    from hpo.analysis import documents, finish_result, finish_text, records, results
    from hpo.artifacts.folders import Artifacts
    from hpo.cli import console
    from hpo.errors import StoreError
    from hpo.store import status, studies

    storage = studies.open_storage(store_url, create=False)
    definition = studies.read_definition(storage, name)
    trials = records.trial_records(definition, status.read_trials(storage, name))
    found = results.best_settings(definition, trials)
    if not found:
        print_early_ends(storage, name, artifacts)
        raise StoreError(results.no_complete_trial_message(definition, trials))
    selected = found[: count or max(found[0].front, 1)]
    if as_json:
        shown = [documents.best_setting_record(each).document() for each in selected]
        print_json(shown if found[0].front or len(shown) > 1 or (count or 1) > 1 else shown[0])
        return
    if found[0].front:
        console.print_table(console.front_table(selected))
    else:
        _print_trials(storage, selected, Artifacts(artifacts), store_url)
    if found[0].noise is not None:
        print(found[0].noise)
    if (finished := finish_result.stored_result(storage, name)) is not None:
        print(finish_text.winner_text(finished))
    print_early_ends(storage, name, artifacts, sys.stdout)


@verb(app, "importance", RESULTS, "hpo importance my-study", "hpo importance my-study --evaluator fanova")
def show_importance(
    name: StudyName,
    evaluator: Annotated[
        Literal["ped-anova", "fanova", "mdi"],
        typer.Option("--evaluator", help="Method that estimates importance."),
    ] = "ped-anova",
    as_json: Json = False,
    store_url: StoreUrl = STORE,
) -> None:
    """Show how strongly each parameter influenced the metric, over the complete trials.

    Where the trials cannot tell, says why instead.
    """
    from hpo.api.study import open_study
    from hpo.cli import console

    found = open_study(name, Locations(store=store_url)).importance(evaluator)
    if as_json:
        fields = ("evaluator", "trials", "importances", "doubt")
        print_json({name: getattr(found, name) for name in fields})
        return
    console.print_view(console.importance_view(found))


def print_best(storage: "Storage", name: str, artifacts: str, store_url: str) -> None:
    """Print the best trial of a study and where its files are, or its Pareto front; and what ended early.

    Args:
        storage: The store.
        name: The study.
        artifacts: Folder or URL of the artifacts.
        store_url: URL of the store, which is printed without its password.

    Raises:
        StoreError: There is no such study, it is another tool's, or it has no complete trial.
        StoreUnavailable: The database cannot be reached.
        ArtifactError: The artifacts' URL cannot be used.
    """
    from hpo.analysis import results
    from hpo.artifacts.folders import Artifacts
    from hpo.cli import console
    from hpo.errors import StoreError

    found = results.read_best(storage, name)
    if not found:
        print_early_ends(storage, name, artifacts)
        raise StoreError(f"study '{name}' has no complete trial; 'hpo trials {name}' says why each ended")
    if front := found[0].front:
        console.print_table(console.front_table(found[:front]))
    else:
        _print_trials(storage, found[:1], Artifacts(artifacts), store_url)
    print_early_ends(storage, name, artifacts, sys.stdout)


def print_early_ends(storage: "Storage", name: str, artifacts: str, to: TextIO | None = None) -> None:
    """Print how many trials failed or were pruned, why most of them, and what to do; nothing if none did.

    Args:
        storage: The store.
        name: The study.
        artifacts: Folder or URL of the artifacts.
        to: Where to print; None: they are told on stderr, as ``logs.tell`` does.

    Raises:
        StoreError: There is no such study.
        StoreUnavailable: The database cannot be reached.
        ArtifactError: The artifacts' URL cannot be used.
    """
    from hpo.artifacts.folders import Artifacts
    from hpo.store import failures, status, studies

    files = Artifacts(artifacts).path(studies.artifacts_folder(storage, name))
    found = failures.find_early_ends(status.read_trials(storage, name))
    for line in failures.advice_lines(name, found, files):
        if to is None:
            logs.tell(line)
        else:
            print(line, file=to)


def exit_if_ended(storage: "Storage", name: str, artifacts: str) -> None:
    """Print how trials of a study that has ended failed, and exit: with 1 if not one of them succeeded.

    Args:
        storage: The store.
        name: The study.
        artifacts: Folder or URL of the artifacts.
    """
    from hpo.store import status

    now = status.read_status(storage, name)
    if now.state == "complete":
        print_early_ends(storage, name, artifacts)
        raise typer.Exit(1 if now.budget and not now.trials["complete"] else 0)
    if now.failure_stop:
        exit_after_failures(storage, now, artifacts)


def exit_after_failures(storage: "Storage", now: "Status", artifacts: str) -> NoReturn:
    """Print where a traceback is of trials that failed one and all, and exit with 1.

    Args:
        storage: The store.
        now: The status of the study.
        artifacts: Folder or URL of the artifacts.
    """
    from hpo.artifacts.folders import Artifacts
    from hpo.store import failures, studies

    files = Artifacts(artifacts).path(studies.artifacts_folder(storage, now.study))
    for line in failures.traceback_lines(now.early_ends, files):
        logs.tell(line)
    raise typer.Exit(1)


def _print_trials(
    storage: "Storage", found: "list[SettingResult]", artifacts: "Artifacts", store_url: str
) -> None:
    from hpo.cli import console

    for rank, each in enumerate(found, 1):
        print(console.best_trial_text(each, _locations(each, storage, artifacts, store_url), rank))


def print_finish(found: "FinishResult", as_json: bool) -> None:
    """Print how the best settings of a study compare.

    Args:
        found: The finished runs and their comparison.
        as_json: Print JSON instead of text.
    """
    from hpo.analysis import finish_text
    from hpo.cli import console

    if as_json:
        print_json(finish_text.document(found))
        return
    console.print_table(finish_text.make_table(found))
    print("\n".join(finish_text.summary_lines(found)))


def _locations(
    best: "SettingResult", storage: "Storage", artifacts: "Artifacts", store_url: str
) -> dict[str, str]:
    """Return where the weights, curves and store of a trial are, by label."""
    from hpo.artifacts import names
    from hpo.store import database, folders, studies

    folder = folders.stored_folder(storage, studies.find_study_id(storage, best.study))
    weights = {"weights": artifacts.path(best.weights)} if best.weights else {}
    curves = folder and artifacts.path(f"{names.trial_folder(folder, best.trial.number)}/epochs.csv")
    return (
        weights
        | ({"curves": curves} if curves else {})
        | {
            "store": database.hide_password(database.parse_url(store_url)),
        }
    )
