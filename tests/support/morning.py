"""What the records of a study tell of its trials: ``hpo events``, ``hpo status`` and the lines of logs."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What the morning tells of an attempt."""

    trial: int
    number: int
    where: str  # host and process id
    began: datetime
    ended: datetime
    outcome: str
    why: str  # what ``events`` say, and what the last lines of the process say if it died or was stopped
    begins_after: int  # the epoch after which it continues; 0: it begins with the first
    epochs: Sequence[int]  # those that it has reported

    def __str__(self) -> str:
        times = f"{self.began:%H:%M:%S} to {self.ended:%H:%M:%S}"
        epochs = ",".join(map(str, self.epochs))
        return f"{self.trial}.{self.number} {self.where} {times} {self.outcome} ({epochs}): {self.why}"


@dataclass(frozen=True, kw_only=True)
class Morning:
    """The records that the night has left."""

    events: Sequence[dict[str, Any]]
    status: dict[str, Any]
    log: Sequence[dict[str, Any]]  # the lines of all logs, by time

    def attempts(self) -> list[Attempt]:
        """Tell of every attempt; fails if one has no beginning or not one end."""
        entries: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        for each in self.events:
            if "attempt" in each:
                entries[each["trial"], each["attempt"]].append(each)
        found = []
        for (trial, number), (first, last) in sorted(entries.items()):
            assert (first["event"], first["by"]) == ("claimed", last["by"])
            lines = self.lines_of(first["by"], trial, number)
            found.append(
                Attempt(
                    trial=trial,
                    number=number,
                    where=first["by"],
                    began=moment(first),
                    ended=moment(last),
                    outcome=last["event"],
                    why="; ".join([last.get("reason", ""), *self.last_words(last)]),
                    begins_after=continues_after(lines),
                    epochs=epochs_in(lines),
                )
            )
        return found

    def lines_of(self, where: str, trial: int, number: int) -> list[dict[str, Any]]:
        """Return what a process says of an attempt, from its start on."""
        ours = [line for line in self.log if where_of(line) == where and line["trial"] == trial]
        starts = [i for i, line in enumerate(ours) if line["message"].startswith(f"trial {trial} starts")]
        numbers = [attempt_in(ours[i]["message"]) for i in starts]
        if number not in numbers:
            return []
        position = numbers.index(number)
        return ours[starts[position] : (*starts, len(ours))[position + 1]]

    def last_words(self, end: dict[str, Any]) -> list[str]:
        """Return why the process of an attempt ended, if the attempt ended with it."""
        if end["event"] != "died" and end.get("reason") != "asked to stop":
            return []
        ours = [line for line in self.log if where_of(line) == end["by"]]
        words = (" died of ", " is asked to stop: ")
        return [
            line["message"]
            for line in ours
            if line["logger"] == "hpo.exit" or any(each in line["message"] for each in words)
        ]


def where_of(line: dict[str, Any]) -> str:
    return f"{line['host']}/{line['process']}"


def moment(record: dict[str, Any]) -> datetime:
    found = datetime.fromisoformat(record["time"])
    assert found.tzinfo is not None
    return found


def attempt_in(message: str) -> int:
    """Return the attempt that the line of a trial's start names."""
    return int(message.partition(", attempt ")[2].partition(",")[0] or 1)


def continues_after(lines: Sequence[dict[str, Any]]) -> int:
    """Return the epoch that the line of a trial's start names."""
    return int(lines[0]["message"].partition(", continues after epoch ")[2] or 0) if lines else 0


def epochs_in(lines: Sequence[dict[str, Any]]) -> list[int]:
    told = (line["message"].partition(" epoch ")[2] for line in lines if " epoch " in line["message"])
    return [int(each.partition("/")[0]) for each in told if "/" in each]


def read_lines(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the lines of logs; what stands in two of them is there once."""
    lines = (line for file in files for line in file.read_text().splitlines(keepends=True))
    return [json.loads(line) for line in dict.fromkeys(lines) if line.endswith("\n")]


def is_outage(line: dict[str, Any]) -> bool:
    text = line["message"]
    return ("; trying again" in text and not text.startswith("lease of")) or "the store is back" in text
