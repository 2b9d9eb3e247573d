"""Options and arguments that several verbs share, with the default locations."""

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hpo import logs
from hpo.api import locations
from hpo.api.locations import P
from hpo.cli import completion
from hpo.cli.completion import SHIPPED_STUDIES
from hpo.errors import HpoError
from hpo.training.devices import DEFAULT_CACHE_GB
from hpo.workers.supervisor import BACKOFF_SECONDS, GRACE_SECONDS

LOCATIONS = "Locations and leases"  # headings in the help of a verb
SUPERVISION = "Supervision of workers"
LOGGING = "Logs"


def _refuse_nan(seconds: float) -> float:
    if math.isnan(seconds):  # which is neither below the minimum nor above the maximum
        raise typer.BadParameter("want a number of seconds, found nan")
    return seconds


def _expand_home(path: P) -> P:
    try:
        return locations.expand_home(path)
    except HpoError as error:
        raise typer.BadParameter(str(error)) from None


def tell_new_folder(context: typer.Context, output: Path | None) -> Path | None:
    """Say on stderr that the folder for an output does not exist yet: its name may be misspelt."""
    if output is not None and not context.resilient_parsing and not os.path.lexists(output.parent):
        text = f"hpo: the folder {output.parent} does not exist; it is created for {output.name}"
        print(text, file=sys.stderr)
    return output


StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="HPO_STORE",
        metavar="URL",
        help="Database of the studies: sqlite:///PATH or postgresql://USER@HOST/DB.",
        show_envvar=True,
        rich_help_panel=LOCATIONS,
    ),
]
ArtifactRoot = Annotated[
    str,
    typer.Option(
        "--artifacts",
        envvar="HPO_ARTIFACTS",
        metavar="PATH-or-URL",
        help="Folder or URL of checkpoints, weights, curves and logs.",
        callback=_expand_home,
        rich_help_panel=LOCATIONS,
    ),
]
DataRoot = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="HPO_DATA",
        metavar="PATH",
        help="Folder of the data sets; a worker downloads missing ones into it.",
        callback=_expand_home,
        rich_help_panel=LOCATIONS,
    ),
]


def _seconds(flag: str, help_text: str, panel: str, *, least: int = 0, envvar: str | None = None) -> Any:
    """Return an option of a number of seconds, at most a day."""
    return typer.Option(
        flag,
        envvar=envvar,
        metavar="S",
        min=least,
        max=86_400,
        help=help_text,
        rich_help_panel=panel,
        callback=_refuse_nan,
    )


Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="The device: cpu or cuda:0. Left out: the first GPU, or the CPU if there is none.",
    ),
]
Lease = Annotated[
    float,
    _seconds(
        "--lease-seconds",
        "Seconds without a heartbeat after which another worker may take over a trial.",
        LOCATIONS,
        least=1,
        envvar="HPO_LEASE_SECONDS",
    ),
]
CacheSize = Annotated[
    float,
    typer.Option(
        "--cache-gb",
        envvar="HPO_CACHE_GB",
        metavar="G",
        min=0,
        max=1_000_000,
        help="Gigabytes that decoded image files may take on this machine; those not used for longest go.",
        rich_help_panel=LOCATIONS,
        callback=_refuse_nan,
    ),
]
Grace = Annotated[
    float,
    _seconds(
        "--grace-seconds",
        "Seconds that a worker has to save and exit when it is stopped, before it is killed.",
        SUPERVISION,
    ),
]
Backoff = Annotated[
    float,
    _seconds(
        "--backoff-seconds",
        "Seconds until a worker that died is started again; twice as long after each further death.",
        SUPERVISION,
    ),
]
LogLevel = Annotated[
    logs.Level,
    typer.Option(
        "--log-level",
        envvar=logs.LEVEL,
        help="The least important lines that are shown and written to log files.",
        rich_help_panel=LOGGING,
        case_sensitive=False,
    ),
]
LogFormat = Annotated[
    logs.Format,
    typer.Option(
        "--log-format",
        envvar=logs.FORMAT,
        help="Format of lines that go to no terminal, and of log files: text, or JSON.",
        rich_help_panel=LOGGING,
        case_sensitive=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the study file, for example train.epochs=5. Repeatable.",
    ),
]
Track = Annotated[
    Literal["none", "mlflow", "wandb"] | None,
    typer.Option(
        "--track",
        help="Experiment tracker that trials also go to, as --set search.track does.",
    ),
]
Devices = Annotated[
    str,
    typer.Option(
        "--devices",
        metavar="SPEC",
        help="auto (every GPU, or one worker per CPU core as memory allows), cpu, cpu:4 or cuda:0,cuda:1.",
    ),
]
Engine = Annotated[
    Literal["local", "slurm", "ray"],
    typer.Option("--engine", help="Where workers run: on this machine, or under Slurm or Ray."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, help="Number of workers; slurm and ray only.", show_default="1"
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Option for the scheduler, for example partition=gpu. Repeatable; slurm and ray only.",
    ),
]
Print = Annotated[
    bool, typer.Option("--print", help="Print the job script instead of submitting it; slurm only.")
]
NewName = Annotated[
    str | None,
    typer.Option(
        "--name", help="Name of the study; if left out, the name in the file, or else the file's."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
StudyFile = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help=f"A study file, or the name of a study that ships with hpo: {', '.join(SHIPPED_STUDIES)}. "
        "'hpo schema' prints all options of a study file.",
        autocompletion=completion.complete_study_file,
    ),
]
StudyName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The name of a study in the store.",
        autocompletion=completion.complete_study_name,
    ),
]

STORE, ARTIFACTS, DATA = locations.STORE, locations.ARTIFACTS, locations.DATA
LEASE = locations.LEASE_SECONDS
LOG = logs.LogOptions()
CACHE_GB = DEFAULT_CACHE_GB
GRACE = GRACE_SECONDS
BACKOFF = BACKOFF_SECONDS


def with_track(sets: list[str] | None, track: str | None) -> list[str]:
    """Return the texts of ``--set``, with one more for ``--track``."""
    return [*(sets or []), *([] if track is None else [f"search.track={track}"])]
