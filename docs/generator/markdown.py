"""Texts of the program as Markdown."""

import re
from collections.abc import Iterable

# What is typed or stands in a file: 'hpo doctor', --set, KEY=VALUE, train.epochs=5, .csv
_CODE = re.compile(r"'(hpo [^']+)'|(?<![\w-])(--[a-z][a-z-]+)|\b([a-z_]+\.[a-z_]+=\S*\w)")


def as_markdown(text: str) -> str:
    """Return a help text as Markdown: commands and flags in it become code, its lines stay lines."""
    escaped = re.sub(r"([<*_\[\]])", r"\\\1", text)
    marked = _CODE.sub(lambda found: code(next(filter(None, found.groups())).replace("\\", "")), escaped)
    return re.sub(r"(?<!\n)\n(?!\n)", "  \n", marked)


def code(text: object) -> str:
    """Return a text as inline code."""
    return f"`{text}`"


def block(lines: Iterable[str], language: str = "") -> str:
    """Return lines as a block of code."""
    return "\n".join([f"```{language}", *lines, "```"])


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in lines)


def definition(term: str, facts: Iterable[str], text: str) -> str:
    """Return an entry of a list of definitions: a term, short facts beside it, and a text below."""
    return f"{' · '.join([term, *facts])}\n:   {text}\n"


def page(*parts: str) -> str:
    """Return a page of parts with an empty line between them."""
    return "\n\n".join(filter(None, parts)) + "\n"
