"""Completion in a shell: what is offered, and a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

BIN = Path(sys.executable).parent
STUDY = '[train]\ndataset = "digits"\n[space]\nlr = [0.1, 0.01]\n[search]\ntrials = 3\n'


def complete(folder: Path, words: str, **settings: str) -> tuple[list[str], str]:
    """Return what is completed for the last word, and what was printed to stderr."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_HPO_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [BIN / "hpo"],
        cwd=folder,
        env=os.environ | asked | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split(), done.stderr


@pytest.fixture(scope="module")
def stored(once) -> Path:
    """Return a folder with a store that has a study. Tests only read it."""

    def create(path: Path) -> None:
        (path / "flowers.toml").write_text(STUDY)
        subprocess.run([BIN / "hpo", "create", "flowers.toml"], cwd=path, check=True)

    return once("stored", create)


def test_verbs_options_files_and_names_are_completed(stored):
    assert complete(stored, "hpo st") == (["studies", "status", "stop"], "")
    assert complete(stored, "hpo run quick") == (["quickstart"], "")
    assert complete(stored, "hpo run fl") == (["flowers.toml"], "")
    assert complete(stored, f"hpo run {stored}/") == ([f"{stored}/flowers.toml"], "")
    assert complete(stored, "hpo status ") == (["flowers"], "")
    assert complete(stored, "hpo retry flowers --trial ") == (["0", "1", "2"], "")
    assert complete(stored, "hpo trials flowers --cs") == (["--csv"], "")


@pytest.mark.parametrize(
    "store", ["sqlite:///absent.db", "sqlite:///flowers.toml", "nonsense", "postgresql://x@127.0.0.1:1/x"]
)
def test_a_store_that_cannot_be_read_completes_nothing_silently(stored, store):
    before = sorted(stored.iterdir())
    assert complete(stored, "hpo status ", HPO_STORE=store) == ([], "")
    assert sorted(stored.iterdir()) == before


def test_completion_imports_no_heavy_library(stored):
    code = """
import sys
from hpo.cli import main
from hpo.store import listing
assert listing.list_studies("sqlite:///storage/hpo.db") == ["flowers"]
print(sorted({"torch", "optuna", "pydantic", "sqlalchemy", "numpy"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=stored, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def script_for(shell: str) -> str:
    done = subprocess.run(
        [BIN / "hpo"],
        env=os.environ | {"_HPO_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_bash_completes_what_is_typed(stored, tmp_path):
    (tmp_path / "hpo.bash").write_text(script_for("bash"))
    settings = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "INPUTRC": os.devnull}
    settings |= {"PS1": "ready> "}
    with pexpect.spawn(
        "bash", ["--norc", "--noprofile"], cwd=str(stored), env=settings, encoding="utf-8", timeout=120
    ) as bash:
        bash.expect_exact("ready> ")
        bash.sendline(f"source {tmp_path}/hpo.bash")
        bash.expect_exact("ready> ")
        bash.send("hpo resu\t")
        bash.expect_exact("hpo resume ")
        bash.send("flo\t")
        bash.expect_exact("flowers ")
        bash.send("\x15")  # deletes the line
        bash.send("hpo create flo\t")
        bash.expect_exact("flowers.toml ")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_that_they_can_read(shell, tmp_path):
    (tmp_path / "script").write_text(script_for(shell))
    assert f"complete_{shell}" in (tmp_path / "script").read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)
