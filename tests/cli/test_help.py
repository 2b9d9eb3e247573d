"""The help of the verbs: groups, examples that can be typed, and exit codes."""

import re
import shlex

import pytest
import typer

from hpo.cli.main import app
from hpo.cli.verbs import GROUPS, HELP
from hpo.workers.supervisor import EXIT_FATAL

COMMAND = typer.main.get_command(app)
DOCUMENTED_CODES = {0, 1, 2, EXIT_FATAL, 130, 143}


@pytest.fixture
def wide(monkeypatch):
    """Let no line of a help text be wrapped, or coloured."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")


def help_text(verb: str) -> str:
    from typer.testing import CliRunner

    return CliRunner().invoke(app, [verb, "--help"] if verb else ["--help"]).output


def test_every_verb_is_in_a_group_and_the_groups_are_in_order(wide):
    assert set(HELP) == set(COMMAND.commands)
    shown = help_text("")
    places = [shown.index(f" {group} ─") for group in GROUPS]
    assert places == sorted(places)
    used = {each.group for each in HELP.values()}
    assert used == set(GROUPS)


@pytest.mark.parametrize("verb", sorted(HELP))
def test_every_example_of_a_verb_can_be_typed(verb, wide):
    examples = HELP[verb].examples
    assert 1 <= len(examples) <= 3
    text = help_text(verb)
    for example in examples:
        assert f"  {example}\n" in re.sub(r" +\n", "\n", text)
        assert len(example) <= 76, "it would be wrapped at 80 columns"
        program, named, *arguments = shlex.split(re.split(r" [>|] ", example)[0])
        assert (program, named) == ("hpo", verb)
        COMMAND.commands[verb].make_context(verb, arguments)


@pytest.mark.parametrize("verb", sorted(HELP))
def test_every_verb_names_its_exit_codes(verb, wide):
    codes = HELP[verb].exit_codes
    assert {0, 1, 2, 130} <= set(codes) <= DOCUMENTED_CODES
    assert (EXIT_FATAL in codes) == (verb in ("worker", "launch"))
    assert (143 in codes) == (verb in ("run", "launch", "worker", "finish", "dashboard"))
    shown = help_text(verb).partition("Exit codes:")[2]
    assert [int(code) for code in re.findall(r"^ +(\d+) ", shown, re.MULTILINE)] == sorted(codes)


def test_the_general_help_names_all_exit_codes(wide):
    shown = help_text("").partition("Exit codes:")[2]
    assert {int(code) for code in re.findall(r"^ +(\d+) ", shown, re.MULTILINE)} == DOCUMENTED_CODES
