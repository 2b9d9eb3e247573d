"""What mkdocs calls while it builds the site: it inserts what the code knows best into the pages.

A line ``{{ verbs }}`` in a page stands for what the function ``verbs`` returns.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mkdocs.exceptions import PluginError

from docs.generator import commands, study_file

INSERTED = (
    commands.verbs,
    commands.environment_variables,
    commands.location_options,
    commands.log_options,
    commands.supervision_options,
    commands.exit_codes,
    study_file.train_options,
    study_file.custom_options,
    study_file.search_options,
    study_file.sampler_options,
    study_file.pruner_options,
)
BY_NAME: Mapping[str, Callable[[], str]] = {each.__name__: each for each in INSERTED}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Insert the generated parts into a page."""
    return re.sub(r"^\{\{ (\w+) \}\}$", _insert, markdown, flags=re.MULTILINE)


def _insert(found: re.Match[str]) -> str:
    if found[1] not in BY_NAME:
        raise PluginError(f"{found[0]}: want one of {', '.join(BY_NAME)}")
    return BY_NAME[found[1]]()
