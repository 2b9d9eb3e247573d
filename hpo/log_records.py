"""Records of what happened, with their context, as lines of text or JSON.

The context is the time with its zone, the level, the host, the process, the study and the trial. A worker
has one trial at a time, for which all its threads work. So study and trial belong to the process.
"""

import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Tell = Callable[[logging.LogRecord], None]  # shows a record, or passes it on

# Names of loggers. The part before the dot is shown, as for the loggers of libraries.
OWN = "hpo"
PROGRESS = "hpo.trial"  # of trials, which a live view shows by itself
SUPERVISOR = "hpo.supervisor"  # what happens to a worker
EXIT = "hpo.exit"  # why a process ends
OBJECTIVE = "objective"  # what a custom objective prints
OUTPUT = "output"  # what a process prints otherwise, such as a library in C

_BEGINNING = '{"time": "'  # of a line of JSON
KEYS = ("time", "level", "host", "process", "study", "trial", "logger", "message")  # of a line of JSON


@dataclass
class _Context:
    """What this process works for."""

    study: str = ""
    trial: int | None = None


_context = _Context()


def set_study(name: str) -> None:
    """Set the study of this process's lines."""
    _context.study = name


@contextlib.contextmanager
def trial_context(number: int) -> Iterator[None]:
    """Within the block, the lines of this process belong to a trial."""
    before, _context.trial = _context.trial, number
    try:
        yield
    finally:
        _context.trial = before


def new_record(text: str, level: int = logging.INFO, name: str = OWN) -> logging.LogRecord:
    """Return a record with the context of this process.

    Args:
        text: The message, of one line or more.
        level: As ``logging`` has it.
        name: The logger.
    """
    return _with_context(logging.LogRecord(name, level, "", 0, text, None, None))


def worker_record(
    text: str, level: int, name: str, *, process: int, study: str, trial: int | None
) -> logging.LogRecord:
    """Return a record with the context of a worker on this machine.

    Args:
        text: The message, of one line or more.
        level: As ``logging`` has it.
        name: The logger.
        process: The id of the worker's process.
        study: Its study.
        trial: Its trial; None if it has none.
    """
    record = new_record(text, level, name)
    vars(record).update(process=process, study=study, trial=trial)
    return record


def format_text(record: logging.LogRecord) -> str:
    """Return a record as text; every line of a message of several lines has the context."""
    values = _values(record)
    trial = "-" if values["trial"] is None else values["trial"]
    study = values["study"] or "-"
    study = study if study.isprintable() else repr(study)  # another tool's may have a line break
    head = (
        f"{values['time']} {values['level']} host={values['host']} process={values['process']} "
        f"study={study} trial={trial} {_source(record)}: "
    )
    return _each_line(head, values["message"])


def format_json(record: logging.LogRecord) -> str:
    """Return a record as one line of JSON with the keys ``KEYS``."""
    return json.dumps(_values(record), ensure_ascii=False)


def format_short(record: logging.LogRecord) -> str:
    """Return a record for people: its message, with the trial or the source where it does not say it."""
    values = _values(record)
    if record.name == PROGRESS:
        return str(values["message"])
    source = "" if record.name in (OBJECTIVE, OUTPUT) else f"{_source(record)}: "
    is_own = _source(record) == OWN or values["trial"] is None
    return _each_line(source if is_own else f"trial {values['trial']}: {source}", values["message"])


def _each_line(head: str, message: str) -> str:
    return "\n".join(head + line for line in message.splitlines() or [""])


_MESSAGE = logging.Formatter("%(message)s")  # with the traceback, if the record has one


def _values(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record's values by ``KEYS``; the time is local, with its offset from UTC."""
    context = vars(_with_context(record))
    return {
        "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "host": context["host"],
        "process": record.process,
        "study": context["study"],
        "trial": context["trial"],
        "logger": record.name,
        "message": _MESSAGE.format(record),
    }


def _with_context(record: logging.LogRecord) -> logging.LogRecord:
    """Add to a record what it lacks of the context of this process."""
    own = {"host": socket.gethostname(), "study": _context.study, "trial": _context.trial}
    vars(record).update({**own, **vars(record)})
    return record


def _source(record: logging.LogRecord) -> str:
    return record.name.partition(".")[0]


FORMATS: Mapping[str, Callable[[logging.LogRecord], str]] = {"text": format_text, "json": format_json}


def trial_of(record: logging.LogRecord) -> int | None:
    """Return the trial in a record's context."""
    found: int | None = vars(record)["trial"]
    return found


def split_line(line: str) -> tuple[str, logging.LogRecord | None]:
    """Return what was printed before a line of JSON, without ending the line, and its record.

    If the line has no record, all of it was printed.
    """
    start = line.find(_BEGINNING)
    record = None if start < 0 else parse_line(line[start:])
    return (line, None) if record is None else (line[:start], record)


def parse_line(line: str) -> logging.LogRecord | None:
    """Return the record that a line of JSON was made of; None if it is another line."""
    if not line.startswith(_BEGINNING):
        return None
    try:
        found = dict(zip(KEYS, (json.loads(line)[key] for key in KEYS), strict=True))
        values = {
            "created": datetime.fromisoformat(found["time"]).timestamp(),
            "levelno": logging.getLevelNamesMapping()[found["level"]],
            "levelname": found["level"],
            "name": str(found["logger"]),
            "msg": str(found["message"]),
            "trial": None if found["trial"] is None else int(found["trial"]),
            "host": str(found["host"]),
            "process": int(found["process"]),
            "study": str(found["study"]),
        }
    except (ValueError, TypeError, KeyError, OverflowError):
        return None  # an objective may print anything
    return logging.makeLogRecord(values)
