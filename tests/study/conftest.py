"""Fixtures of the tests of studies."""

import sys

import pytest

from hpo.cli import main


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Return a function that runs ``hpo create``, checks that it is refused, and returns the error line."""

    def run(*args: str) -> str:
        store = tmp_path / "store" / "hpo.db"
        monkeypatch.setattr(sys, "argv", ["hpo", "create", *args, "--store", f"sqlite:///{store}"])
        with pytest.raises(SystemExit) as exit_:
            main.run_command_line()
        out, err = capsys.readouterr()
        assert (exit_.value.code, out) == (1, "")
        assert err.startswith("hpo: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert not store.parent.exists()
        return err.removeprefix("hpo: ").removesuffix("\n")

    return run
