"""Reading the log lines that run, launch and worker write."""

import re
from dataclasses import dataclass

LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d) (?P<level>[A-Z]+) host=(?P<host>\S+) "
    r"process=(?P<process>\d+) study=(?P<study>.+?) trial=(?P<trial>\d+|-) (?P<source>\w+): (?P<message>.*)"
)


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line of text, parsed."""

    time: str
    level: str
    host: str
    process: str
    study: str
    trial: str
    source: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


def parse_lines(text: str) -> list[LogLine]:
    """Return the lines of a log; fails at the first line that is none."""
    found = []
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        found.append(LogLine(**match.groupdict()))
    return found


def messages(text: str) -> list[str]:
    """Return what the lines of a log say, each with its source, as "hpo: study 'small' is complete"."""
    return [str(line) for line in parse_lines(text)]


def without_context(text: str) -> list[str]:
    """Return lines as ``messages`` does; those of verbs that write no log are as they are."""
    return [line if LINE.fullmatch(line) is None else messages(line)[0] for line in text.splitlines()]
