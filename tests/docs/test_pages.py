"""Every command and every block of code of the documentation runs, or its page says why not."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import sqlalchemy as sa
import typer
from PIL import Image

from hpo.cli.main import app
from tests.support import postgres
from tests.support.pages import (
    RUN_LANGUAGES,
    SHOWN_LANGUAGES,
    blocks,
    hpo_commands,
    script_of,
    written_pages,
)
from tests.support.workplace import HPO, ROOT

PAGES = {str(path.relative_to(ROOT)): path for path in written_pages()}
FEW = {"search.trials": "2", "train.epochs": "1"}
SMALL = {**FEW, "train.limit": "100"}
SMALL_IMAGES = {**SMALL, "train.weights": "none", "train.model": "resnet18", "train.image_size": "32"}
SMALL_IMAGES |= {"train.warmup_epochs": "0"}
# What the tests add to "run", "create", "plan" and "data", so that a page takes seconds.
SHORTER = {
    "docs/start.md": SMALL,
    "docs/how-to/logs.md": SMALL,
    "docs/how-to/monitor.md": FEW,
    "docs/how-to/offline.md": FEW,
    "docs/tutorials/cluster.md": SMALL,
    "docs/tutorials/own-images.md": SMALL_IMAGES,
    "docs/tutorials/replay.md": {"train.limit": "32"},
}
# The notebook own-images does the same as its page in less time.
SLOW = {"docs/tutorials/replay.md", "docs/tutorials/own-images.md"}
DATABASE_HOST = "db.example"  # of the pages that need a Postgres
COMMAND = """#!/bin/sh
case "$1" in
    run) set -- "$@" {settings} --devices cpu:1 ;;
    create | plan | data) set -- "$@" {settings} ;;
    launch | finish) set -- "$@" --devices cpu:1 ;;
esac
exec {hpo} "$@"
"""


def pages_that_run() -> list[object]:
    found = []
    for name, page in PAGES.items():
        if any(block.language in RUN_LANGUAGES and not block.reason for block in blocks(page)):
            marks = [pytest.mark.slow] if name in SLOW else []
            marks += [pytest.mark.postgres] if DATABASE_HOST in script_of(page) else []
            found.append(pytest.param(name, marks=marks))
    return found


def install_command(folder: Path, settings: dict[str, str]) -> None:
    """Write a command ``hpo`` that makes what the page starts small."""
    folder.mkdir()
    options = shlex.join(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))
    (folder / "hpo").write_text(COMMAND.format(settings=options, hpo=shlex.join(HPO)))
    (folder / "hpo").chmod(0o755)


@pytest.mark.parametrize("name", pages_that_run())
def test_a_page_does_what_it_says(name, workplace, tmp_path_factory):
    Image.new("RGB", (40, 30), "white").save(workplace.path / "photo.jpg")
    script, tools = script_of(PAGES[name]), tmp_path_factory.mktemp("tools")
    install_command(tools / "bin", SHORTER.get(name, {}))
    script = script.replace("overrides={", 'overrides={"train.limit": 100, ')
    script = script.replace("/shared", str(tools / "shared"))
    search = os.pathsep.join([str(tools / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**workplace.environment, "PATH": search, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", script]
    if DATABASE_HOST in script:
        with postgres.running() as server:  # of its own: a page creates roles
            url = sa.make_url(server.url)
            environment |= {"PGPORT": str(url.port), "PATH": f"{postgres.binaries()}{os.pathsep}{search}"}
            command[-1] = script.replace(DATABASE_HOST, str(url.host))
            done = run(command, workplace.path, environment)
    else:
        done = run(command, workplace.path, environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.parametrize("name", PAGES)
def test_blocks_of_a_page_can_be_parsed_and_name_their_language(name):
    for block in blocks(PAGES[name]):
        assert block.language in (*RUN_LANGUAGES, *SHOWN_LANGUAGES), f"{name}:{block.line}"
        if block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "python":
            compile(block.text, f"{name}:{block.line}", "exec")


@pytest.mark.parametrize("name", PAGES)
def test_commands_of_a_page_have_verbs_and_options_that_exist(name):
    group = typer.main.get_command(app)
    for words in (words for block in blocks(PAGES[name]) for words in hpo_commands(block)):
        context = typer.Context(group)
        _, verb, rest = group.resolve_command(context, list(words))
        verb.make_context(verb.name, rest, parent=context)
