"""The documentation's pages: their blocks of code, and a page as one script that does what it says."""

import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.workplace import ROOT

DOCS = ROOT / "docs"
FENCE = re.compile(r'^ *```(\w*)(?: title="([^"]+)")?$')
NOT_RUN = re.compile(r"^ *\*Not run by the tests: (.+)\.\*$")
INCLUDED = re.compile(r'^--8<-- "([^":]+)', re.MULTILINE)
RUN_LANGUAGES = ("bash", "python")
SHOWN_LANGUAGES = ("toml", "text", "json", "mermaid", "ini", "yaml")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code of a page."""

    line: int
    language: str
    title: str  # the name of the file that the reader saves it as, or empty
    reason: str  # why the tests do not run it, or empty
    text: str


def written_pages() -> list[Path]:
    """Return the README, the pages of the documentation, and the files that pages include."""
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    included = {name for page in pages for name in INCLUDED.findall(page.read_text())}
    return [*pages, *(ROOT / name for name in sorted(included))]


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text().splitlines()
    start = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if start is None and line.lstrip().startswith("```"):
            assert fence, f"{page}:{number + 1}: what is this fence?"
            start, language, title = number, fence[1], fence[2] or ""
        elif start is not None and line.strip() == "```":
            before = next((each for each in reversed(lines[:start]) if each.strip()), "")
            reason = NOT_RUN.match(before)
            yield Block(
                line=start + 1,
                language=language,
                title=title,
                reason=reason[1] if reason else "",
                text=textwrap.dedent("\n".join(lines[start + 1 : number])) + "\n",
            )
            start = None
    assert start is None, f"{page}:{start}: this block has no end"


def script_of(page: Path) -> str:
    """Return what a reader of a page does, from top to bottom, as a script for bash."""
    parts = [
        "set -eu",
        """trap 'echo "failed: $BASH_COMMAND" >&2' ERR""",
        *(part for block in blocks(page) if not block.reason for part in _commands(block)),
    ]
    return "\n".join(parts)


def _commands(block: Block) -> list[str]:
    file = block.title or f"block_{block.line}.py"
    saved = f"cat > {shlex.quote(file)} <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK\n"
    if block.title:
        return [saved]
    if block.language == "python":
        return [saved, f"python {file}"]
    return [block.text] if block.language == "bash" else []


def hpo_commands(block: Block) -> Iterator[Sequence[str]]:
    """Yield the arguments of each line of a block of bash that begins with ``hpo`` and a verb."""
    lines = block.text.replace("\\\n", " ").splitlines() if block.language == "bash" else []
    for line in lines:
        words = shlex.split(re.split(r" 2?[>|] ", line)[0], comments=True)
        if words[:1] == ["hpo"] and not words[1].startswith("-"):
            yield words[1:]
