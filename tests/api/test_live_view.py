"""What is shown of a study while it runs."""

from hpo.api import live_view


def test_a_pipe_is_no_terminal_whatever_variables_say(monkeypatch, capsys):
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.setenv(name, "1")
    assert not live_view.open_stderr_console().is_terminal
