"""The verbs with their options, and what they share: variables, exit codes."""

from collections.abc import Iterable, Iterator
from typing import Any, get_args

import typer

from docs.generator.markdown import as_markdown, block, code, definition, page, table
from hpo.cli.main import app
from hpo.cli.options import LOCATIONS, LOGGING, SUPERVISION
from hpo.cli.verbs import GROUPS, HELP, NO_RESTART, STOPPABLE

SHARED = (
    LOCATIONS,
    LOGGING,
    SUPERVISION,
)  # headings of options that are described once, on the page of settings
COMMAND: Any = typer.main.get_command(app)  # its class is none of typer's public names


def verbs() -> str:
    """Return a table of all verbs, then a section for each, by group."""
    return page(
        table(("verb", "does"), (_overview_row(verb) for verb in _verbs())),
        *(part for group in GROUPS for part in (f"## {group}", *map(_verb_section, _verbs(group)))),
    )


def environment_variables() -> str:
    """Return a table of the environment variables that options have."""
    rows = [(each.envvar, _flag(each), _number(each.default)) for each in _options() if each.envvar]
    return table(("variable", "flag", "default"), (map(code, row) for row in rows))


def location_options() -> str:
    """Return the options that say where things are."""
    return _panel(LOCATIONS)


def log_options() -> str:
    """Return the options of verbs that write log lines."""
    return _panel(LOGGING)


def supervision_options() -> str:
    """Return the options of verbs that supervise workers."""
    return _panel(SUPERVISION)


def exit_codes() -> str:
    """Return a table of the exit codes of all verbs."""
    codes = {**STOPPABLE, **NO_RESTART}
    return table(("code", "meaning"), ((code(number), text) for number, text in sorted(codes.items())))


def _options() -> list[Any]:
    """Return the options and arguments of all verbs, those with the same flag once."""
    return list(
        {each.opts[0]: each for verb in _verbs() for each in COMMAND.commands[verb].params}.values()
    )


def _panel(heading: str) -> str:
    return page(*_definitions(each for each in _options() if each.rich_help_panel == heading))


def _verbs(group: str | None = None) -> list[str]:
    """Return the verbs of a group, or all, in the order of ``hpo --help``."""
    return [verb for verb in COMMAND.list_commands(None) if group in (None, HELP[verb].group)]


def _overview_row(verb: str) -> tuple[str, str]:
    return f"[{code(verb)}](#{verb})", as_markdown(_help_of(verb).partition("\n")[0])


def _help_of(verb: str) -> str:
    return str(COMMAND.commands[verb].help)


def _verb_section(verb: str) -> str:
    parameters = [each for each in COMMAND.commands[verb].params if not each.hidden]
    own = [each for each in parameters if each.rich_help_panel not in SHARED]
    shared = [code(each.opts[0]) for each in parameters if each.rich_help_panel in SHARED]
    codes = HELP[verb].exit_codes
    return page(
        f"### {verb} {{#{verb}}}",
        as_markdown(_help_of(verb)),
        block([_usage(verb, parameters)]),
        *_definitions(own),
        f"Also {', '.join(shared)}: see [settings](environment.md)." if shared else "",
        "**Examples**" if len(HELP[verb].examples) > 1 else "**Example**",
        block(HELP[verb].examples),
        f"**Exit codes**: {'; '.join(f'{code(number)} {text}' for number, text in codes.items())}.",
    )


def _usage(verb: str, parameters: Iterable[Any]) -> str:
    arguments = [each for each in parameters if not each.opts[0].startswith("-")]
    words = [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
    needed = [_flag(each) for each in parameters if each.required and each not in arguments]
    return " ".join(["hpo", verb, *words, *needed, "[OPTIONS]"])


def _definitions(parameters: Iterable[Any]) -> Iterator[str]:
    for each in parameters:
        term = code(_flag(each)) if each.opts[0].startswith("-") else code(each.metavar)
        yield definition(term, _facts(each), as_markdown(each.help or ""))


def _flag(option: Any) -> str:
    """Return an option as it is typed: ``--output, -o FILE.html``."""
    is_switch = option.type_descriptor.annotation is bool
    words = ", ".join([*option.opts, *option.secondary_opts])
    return words if is_switch else f"{words} {option.metavar or '|'.join(_choices(option)) or 'TEXT'}"


def _choices(option: Any) -> list[str]:
    return [str(each) for each in get_args(option.type_descriptor.annotation) if isinstance(each, str)]


def _facts(option: Any) -> Iterator[str]:
    if option.required and option.opts[0].startswith("-"):
        yield "required"
    default = option.show_default if isinstance(option.show_default, str) else option.default
    if default not in (None, False, (), []):
        yield f"default {code(_number(default))}"
    if option.min is not None:
        ends = "" if option.max is None else f" to {_number(option.max)}"
        yield f"{_number(option.min)}{ends or ' or more'}"
    if option.envvar:
        yield code(option.envvar)


def _number(value: Any) -> str:
    """Return a value as text: 60 for 60.0, and large numbers with commas."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return f"{whole:,}" if isinstance(whole, int) and whole >= 10_000 else str(whole)
