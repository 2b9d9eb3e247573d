"""Flags and arguments that several verbs share, with the defaults of where things are."""

from pathlib import Path
from typing import Annotated, Literal

import typer

StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="HPO_STORE",
        metavar="URL",
        help="Where studies are: sqlite:///path or postgresql://user@host/db.",
        show_envvar=True,
    ),
]
ArtifactRoot = Annotated[
    str,
    typer.Option(
        "--artifacts",
        envvar="HPO_ARTIFACTS",
        metavar="PATH-or-URL",
        help="Where checkpoints, weights and curves are.",
    ),
]
DataRoot = Annotated[
    Path, typer.Option("--data", envvar="HPO_DATA", metavar="PATH", help="Where data sets are.")
]
Lease = Annotated[
    float,
    typer.Option(
        "--lease-seconds",
        envvar="HPO_LEASE_SECONDS",
        metavar="S",
        min=1,
        max=86_400,
        help="How long a silent worker keeps its trial.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the study, as train.epochs=5; repeatable."),
]
Devices = Annotated[
    str, typer.Option("--devices", metavar="SPEC", help="auto, cpu, cpu:4 or cuda:0,cuda:1.")
]
Engine = Annotated[
    Literal["local", "slurm", "ray"],
    typer.Option("--engine", help="Who runs the workers: this machine, or a scheduler on its machines."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="How many, for slurm and ray.", show_default="1"),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", help="An option of the engine, as partition=gpu; repeatable."
    ),
]
Print = Annotated[bool, typer.Option("--print", help="Show the script for slurm; submit nothing.")]
NewName = Annotated[str | None, typer.Option("--name", help="The study's name, if not its file's.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
StudyFile = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study file, or the name of one that ships with hpo.")
]
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="A study in the store.")]

STORE = "sqlite:///storage/hpo.db"
ARTIFACTS = "storage/artifacts"
DATA = Path("storage/data")
LEASE = 60.0
