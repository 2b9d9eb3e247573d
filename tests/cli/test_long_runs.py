"""The question before a study that will take days."""

import os
import sys

import pexpect
import pytest

from hpo.cli import long_runs
from hpo.study.file import find_study_file, load_study_file, load_study_text

LONG = """
[train]
dataset = "digits"
model = "squeezenet1_1"
image_size = 64
weights = "none"
epochs = 20000
[space]
lr = [0.1, 0.01]
[search]
trials = 2
pruner = "none"
"""


@pytest.mark.parametrize(
    ("options", "files", "is_short"),
    [
        ("dataset = 'digits'\nimage_size = 32\nepochs = 3", 0, True),
        ("dataset = 'cifar10'\nimage_size = 224\nepochs = 90", 0, False),
        ("dataset = 'folder:x'\nimage_size = 64\nepochs = 5", 180, True),
        ("dataset = 'folder:x'\nimage_size = 64\nepochs = 5", 1_000_000, False),
        ("objective = 'own:f'", 0, True),
    ],
)
def test_only_a_study_that_may_be_long_is_measured(options, files, is_short, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("def f(config, state):\n    yield 1.0, None\n")
    monkeypatch.syspath_prepend(tmp_path)
    study = load_study_text(f"name = 's'\n[train]\n{options}\n[space]\nlr = [0.1, 0.01]\n", "s.toml")
    assert long_runs.is_short(study, files) == is_short


def test_the_demo_is_not_measured():
    assert long_runs.is_short(load_study_file(find_study_file("quickstart")), 0)


def test_a_long_study_is_started_only_after_a_yes_on_a_terminal(workplace):
    study = workplace.study(LONG)
    words = ["-m", "hpo", "run", study, "--devices", "cpu:1"]
    settings = os.environ | {"TERM": "dumb"}

    def run(*more: str) -> pexpect.spawn:
        return pexpect.spawn(
            sys.executable,
            [*words, *more],
            cwd=str(workplace.path),
            env=settings,
            timeout=300,
            encoding="utf-8",
        )

    with run() as asked:
        asked.expect("will take about [0-9.]+ days here")
        asked.expect_exact("Start it?")
        asked.sendline("n")
        asked.expect_exact("not started; study 'small' is stored")
        asked.expect(pexpect.EOF)
    assert asked.exitstatus == 1
    assert workplace.here("status", "small", "--json").json()["trials"]["waiting"] == 2

    with run("--yes") as started:
        started.expect_exact("1 worker on cpu")
        started.sendintr()
        started.expect(pexpect.EOF)
    assert started.exitstatus == 130
