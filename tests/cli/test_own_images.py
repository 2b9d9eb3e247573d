"""Studies of a folder of images: the README's tutorial, and what is refused."""

import os
import shlex
import subprocess

import pytest

from tests.support.images import draw_images
from tests.support.workplace import HPO, ROOT

ADVICE = "give the path of yours in the study file, or with --set train.dataset=folder:PATH"


def tutorial() -> list[str]:
    section = (ROOT / "README.md").read_text().partition("## Your own images")[2].partition("\n## ")[0]
    commands = [block for block in section.split("```")[1::2] if "hpo run" in block]
    return commands[0].strip().splitlines()


def test_the_readmes_tutorial_runs_unchanged(workplace):
    draw_images(workplace.path / "my-images", ("cats", "große Hunde", "two words"), 12)
    (workplace.path / "my-images/cats/notes.txt").write_text("not an image")
    scaled = {"train.weights": "none", "train.model": "resnet18", "train.image_size": "32"}
    scaled |= {"train.epochs": "1", "train.warmup_epochs": "0", "search.trials": "1"}
    hpo = workplace.path / "bin/hpo"
    hpo.parent.mkdir()
    hpo.write_text(f'#!/bin/sh\nexec {shlex.join(HPO)} "$@"\n')
    hpo.chmod(0o755)
    commands = tutorial()
    assert [command.split()[1] for command in commands] == ["run", "report", "export", "predict"]
    for command in commands:
        if command.startswith("hpo run"):
            command += " --devices cpu:1" + "".join(
                f" --set {key}={value}" for key, value in scaled.items()
            )
        environment = {**workplace.environment, "PATH": f"{hpo.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            command, shell=True, cwd=workplace.path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command.startswith("hpo run"):
            assert "ignored 1 file of other kinds, such as my-images/cats/notes.txt" in done.stderr
    photographs = list((workplace.path / "my-images").glob("*/*.jpg"))
    assert len(done.stdout.splitlines()) == len(photographs)
    assert "große Hunde 0." in done.stdout


def test_a_mistyped_folder_is_reported_before_a_study_is_stored(workplace):
    flags = ("--set", "train.weights=none", "--set", "train.dataset=folder:./my-imagse")
    done = workplace.here("run", "finetune", *flags, code=1)
    assert done.err == f"hpo: train.dataset: 'folder:./my-imagse': there is no such folder; {ADVICE}\n"
    assert os.listdir(workplace.path) == []


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 300])
def test_create_refuses_a_folder_that_no_machine_can_have(workplace, name):
    flags = ("--set", "train.weights=none", "--set", f"train.dataset=folder:{name}")
    done = workplace.here("create", "finetune", *flags, code=1)
    assert done.err.startswith(f"hpo: train.dataset: 'folder:{name[:9]}")
    assert done.err.count("\n") == 1
    assert os.listdir(workplace.path) == []
