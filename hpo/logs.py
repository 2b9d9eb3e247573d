"""Showing log lines: what happened, when, where and in which trial.

``run``, ``launch``, ``finish`` and ``worker`` call ``set_up``. From then on whatever they log or tell is a
record of ``logging``, and each of its lines on stderr has a context: time with zone, level, host, process,
study and trial. On a terminal, people get the short form, without the context. What other verbs tell is
always short.

A worker under a supervisor writes JSON on its pipe, whatever the format. The supervisor makes records of
these lines again (``parse_line``), writes them to the worker's log file and shows them. Any other line on
the pipe is the output of an objective or of a library in C, and gets the context of its worker.
"""

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, cast, get_args

from hpo import log_records
from hpo.errors import HpoError, quote_value
from hpo.log_records import EXIT, FORMATS, OUTPUT, OWN, format_short, new_record

FORMAT, LEVEL = "HPO_LOG_FORMAT", "HPO_LOG_LEVEL"  # variables of the environment


Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What is logged, and how: the options of verbs, and variables for workers."""

    level: Level = "info"
    form: Format = "text"

    def environment(self) -> dict[str, str]:
        """Return the options as variables of the environment."""
        return {LEVEL: self.level, FORMAT: self.form}


def find_log_options() -> LogOptions:
    """Return the options that the environment has, or else the defaults.

    Raises:
        HpoError: A variable has another value than is allowed.
    """
    found = {name: os.environ.get(name, "").lower() for name in (LEVEL, FORMAT)}
    for name, allowed in ((LEVEL, get_args(Level)), (FORMAT, get_args(Format))):
        if found[name] not in ("", *allowed):
            raise HpoError(f"{name}: want {', '.join(allowed)}, found {quote_value(os.environ[name])}")
    default = LogOptions()
    return LogOptions(
        level=cast(Level, found[LEVEL] or default.level), form=cast(Format, found[FORMAT] or default.form)
    )


def level_number(level: str) -> int:
    """Return the number of a ``Level``, as ``logging`` has it."""
    return logging.getLevelNamesMapping()[level.upper()]


@dataclass
class _State:
    """How this process shows its lines."""

    is_set_up: bool = False
    level: int = logging.INFO
    form: str = ""  # one of FORMATS; empty: short
    stream: TextIO | None = None  # stderr as it was when this was set up; None: as it is
    write: Callable[[str], None] | None = None  # gets the lines in place of the stream


_state = _State()
_undo = contextlib.ExitStack()  # restores what set_up has replaced


def set_up(options: LogOptions, study: str = "", *, is_supervised: bool = False) -> None:
    """Let this process log on stderr, until ``restored`` is left.

    Warnings of Python and records of libraries, from WARNING on, are shown with the library's name. A
    custom objective may set up logging of its own nevertheless.

    Args:
        options: The level and the format. On a terminal, lines are short instead.
        study: The study, if it is known.
        is_supervised: Whether a supervisor reads the lines, which wants JSON.
    """
    _undo.callback(vars(_state).update, {**vars(_state)})
    number = level_number(options.level)
    shown = "json" if is_supervised else "" if sys.stderr.isatty() else options.form
    vars(_state).update(is_set_up=True, level=number, form=shown, stream=sys.stderr, write=None)
    log_records.set_study(study)
    _undo.callback(log_records.set_study, "")
    own = logging.getLogger(OWN)
    _undo.callback(own.setLevel, own.level)
    own.setLevel(number)
    _replace(own, "handlers", [_ShowingHandler()])
    _replace(own, "propagate", False)
    # Not a handler of the root logger: with one, an objective's basicConfig would do nothing.
    _replace(logging, "lastResort", _ShowingHandler(max(number, logging.WARNING)))
    _replace(warnings, "showwarning", _log_warning)
    _take_over_libraries()
    if shown:
        printed = _PrintedLines(sys.stderr)
        _replace(sys, "stderr", printed)
        _undo.callback(printed.finish)


def _replace(owner: Any, name: str, value: Any) -> None:
    _undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _take_over_libraries() -> None:
    """Let records of libraries that have handlers of their own, such as Optuna, reach ours instead."""
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and logger.handlers and name != OWN:
            _replace(logger, "handlers", [])
            _replace(logger, "propagate", True)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Undo at the end of the block what ``set_up`` has done within it."""
    try:
        yield
    finally:
        _undo.close()


class _PrintedLines:
    """Stands for stderr: each line that is printed there becomes a record.

    Args:
        replaced: The stream for which it stands.
    """

    def __init__(self, replaced: TextIO) -> None:
        self._replaced, self._unfinished, self._lock = replaced, "", threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            tell(line, name=OUTPUT)
        return len(text)

    def finish(self) -> None:
        """Show the line that was begun."""
        if self._unfinished:
            self.write("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replaced, name)


class _ShowingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        show([record])


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning of Python by the name of the library whose code it is about."""
    text = f"{category.__name__}: {message} ({filename}:{lineno})"
    logging.getLogger(_library_of(Path(filename))).warning("%s", text)


def _library_of(file: Path) -> str:
    for folder in ("site-packages", "dist-packages"):
        if folder in file.parts[:-1]:
            return Path(file.parts[file.parts.index(folder) + 1]).stem
    return OWN if Path(__file__).parent in file.parents else file.stem


def is_set_up() -> bool:
    """Return whether this process logs, as ``set_up`` says."""
    return _state.is_set_up


def tell(text: str, level: int = logging.INFO, name: str = OWN) -> None:
    """Show a message, as ``show`` does.

    Args:
        text: The message, of one line or more.
        level: As ``logging`` has it.
        name: The logger.
    """
    show([new_record(text, level, name)])


def tell_exit(text: str) -> None:
    """Show why this process ends."""
    tell(text, logging.ERROR, EXIT)


def show(records: Iterable[logging.LogRecord]) -> None:
    """Show records whose level is not too low: on stderr, or as ``shown_by`` says.

    The reader may be gone. That is ignored, since it must not keep a worker from saving.
    """
    format_record = FORMATS.get(_state.form, format_short)
    if lines := [format_record(each) for each in records if each.levelno >= _state.level]:
        (_state.write or write_line)("\n".join(lines))


def write_line(text: str) -> None:
    """Write a line to stderr as it is; nothing happens if nobody reads."""
    stream = _state.stream or sys.stderr
    with contextlib.suppress(OSError):
        stream.write(f"{text}\n")  # one call: several threads write lines
        stream.flush()


@contextlib.contextmanager
def shown_by(write: Callable[[str], None]) -> Iterator[None]:
    """Within the block, let ``write`` get what is shown, without the end of the line."""
    before, _state.write = _state.write, write
    try:
        yield
    finally:
        _state.write = before
