"""The text of a study file as it is stored: the flags that changed it, as comments on top of the file.

``effective_text`` makes of it what ran: the file with these changes, each of which is marked.
"""

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hpo.errors import DefinitionError
from hpo.study.aliases import rename_aliases
from hpo.study.overrides import apply_set
from hpo.study.toml_text import dump_document

_SET, _NAME = "# --set ", "# --name "
MARK = "  # by a flag"


def annotate_source(text: str, sets: Iterable[str], name: str | None = None) -> str:
    """Return a study file's text as it is stored with the study.

    Args:
        text: The text of the file.
        sets: The ``--set`` texts, which become comments on top.
        name: The text after ``--name``, which becomes a comment, too; None if it was not given.
    """
    flags = [*([] if name is None else [_NAME + name]), *(_SET + each for each in sets)]
    return "".join(f"{' '.join(flag.splitlines())}\n" for flag in flags) + text


def effective_text(stored: str) -> str:
    """Return the study file that says what ran.

    Without flags that is the file itself. Otherwise it is the file with their changes, in which each
    changed line is marked, below the flags and the comments that the file begins with. A text that is no
    study file stays as it is.

    Args:
        stored: What ``annotate_source`` returned.
    """
    lines = stored.split("\n")
    flags = list(itertools.takewhile(lambda line: line.startswith((_SET, _NAME)), lines))
    if not flags:
        return stored
    comments = itertools.takewhile(lambda line: line.startswith("#"), lines[len(flags) :])
    try:
        document = rename_aliases(tomllib.loads(stored), "")
        before = set(_lines_by_section(document))
        for flag in flags:
            if flag.startswith(_SET):
                apply_set(document, flag.removeprefix(_SET))
            else:
                document["name"] = flag.removeprefix(_NAME)
        after = list(_lines_by_section(document))
    except (DefinitionError, ValueError, RecursionError):
        return stored
    changed = (line + MARK * bool(line and (section, line) not in before) for section, line in after)
    return "\n".join([*flags, *comments, "", *changed])


def _lines_by_section(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines of a document's text, each with the header that it is below."""
    section = ""
    for line in dump_document(document, "").splitlines():
        section = line if line.startswith("[") else section
        yield section, line
