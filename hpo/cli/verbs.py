"""How verbs are registered: by groups, and with the examples and exit codes that end the help of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import typer

Function = TypeVar("Function", bound=Callable[..., Any])

GROUPS = START, WATCH, RESULTS, CONTROL, MANAGE = (  # in the order of hpo --help
    "Start a study",
    "Watch a study",
    "Use its results",
    "Control a study",
    "Manage",
)

# Exit codes and what they mean. Those of most verbs:
DONE_OR_NOT = {
    0: "done",
    1: "an error, in one line on stderr",
    2: "wrong usage",
    130: "Ctrl-C",
}
STOPPABLE = {**DONE_OR_NOT, 143: "told to stop, by SIGTERM or SIGHUP"}  # of verbs that run workers
NO_SUCCESS = {1: "an error, or a study that ended before a trial succeeded"}
NO_RESTART = {78: "an error that no restart mends, such as a wrong password"}


@dataclass(frozen=True, kw_only=True)
class VerbHelp:
    """What the help of a verb says at its end."""

    group: str  # one of GROUPS
    examples: tuple[str, ...]  # commands
    exit_codes: Mapping[int, str]  # what each means

    def text(self) -> str:
        """Return the end of the help."""
        return _help_end(self.examples, self.exit_codes)


HELP: dict[str, VerbHelp] = {}  # by verb


def verb(
    app: typer.Typer,
    name: str,
    group: str,
    *examples: str,
    exit_codes: Mapping[int, str] = DONE_OR_NOT,
) -> Callable[[Function], Function]:
    """Return a decorator that makes a function a verb of ``app`` and records its help in ``HELP``.

    Args:
        app: The application.
        name: The verb.
        group: One of ``GROUPS``.
        examples: One to three commands, each at most 76 characters long.
        exit_codes: What the exit codes of the verb mean.
    """
    found = VerbHelp(group=group, examples=examples, exit_codes=dict(sorted(exit_codes.items())))
    HELP[name] = found
    return app.command(name, rich_help_panel=group, epilog=found.text())


def general_help(*examples: str) -> str:
    """Return the end of the help of ``hpo`` itself: examples, and the exit codes of all verbs."""
    return _help_end(examples, {**STOPPABLE, **NO_RESTART})


def _help_end(examples: tuple[str, ...], exit_codes: Mapping[int, str]) -> str:
    heading = "Examples:" if len(examples) > 1 else "Example:"
    codes = [f"  {code:<4} {meaning}" for code, meaning in sorted(exit_codes.items())]
    return "\n".join([heading, *(f"  {each}" for each in examples), "", "Exit codes:", *codes])
