"""What a custom objective prints and logs: lines on stderr with the number of its trial.

While it runs, ``sys.stdout`` and ``sys.stderr`` are replaced. The objective and hpo take turns in one
thread; what that thread writes belongs to the objective only while the objective is called. What another
thread writes belongs to the objective. What hpo itself writes passes through unchanged.

A line is written when it is complete, so that lines of several threads and workers do not mix. An
unfinished one is written when the objective yields or ends. Of a progress bar, which returns to the
beginning of its line, the last state is shown. Sequences that move the cursor or set colours are left out,
since they would spoil a live view.

In a process that logs (``logs.set_up``), a line that is printed is a record of the logger ``objective``.

Records of any logger, from INFO on, are shown unless the objective configures logging. If it does, with
``logging.basicConfig`` or with handlers of its own, its handlers decide; what they write to stderr gets the
number as well.
"""

import contextlib
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from hpo import log_records, logs

LONGEST_LINE = 10_000  # characters after which an unfinished line is written as it is
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

_open_outputs: list["TrialOutput"] = []  # the last one is of the objective that runs


class TrialOutput:
    """Writes what one objective prints and logs.

    Args:
        trial: The number of the trial; None: lines have no number.
    """

    def __init__(self, trial: int | None) -> None:
        self._prefix = "" if trial is None else f"trial {trial}: "
        self._thread = threading.get_ident()
        self._is_called = False
        self._unfinished: dict[tuple[int, _Stream], str] = {}  # by the thread that writes a line

    @contextlib.contextmanager
    def redirect(self) -> Iterator[None]:
        """Replace the process's streams, and its logging of last resort, until the objective has ended."""
        before = sys.stdout, sys.stderr, logging.lastResort
        stdout, stderr = _Stream(before[0], before[1]), _Stream(before[1], before[1])
        handler = _LastResort(stderr)
        sys.stdout, sys.stderr, logging.lastResort = cast(TextIO, stdout), cast(TextIO, stderr), handler
        sets_level = logging.root.level == logging.WARNING  # Python's default
        if sets_level:
            logging.root.setLevel(logging.INFO)
        _open_outputs.append(self)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # nobody reads any more
                self._finish_lines(self._unfinished)
            _open_outputs.remove(self)
            # Whoever has replaced one of these since, such as the end of a progress bar, has the last word.
            sys.stdout = before[0] if sys.stdout is cast(TextIO, stdout) else sys.stdout
            sys.stderr = before[1] if sys.stderr is cast(TextIO, stderr) else sys.stderr
            logging.lastResort = before[2] if logging.lastResort is handler else logging.lastResort
            if sets_level and logging.root.level == logging.INFO:
                logging.root.setLevel(logging.WARNING)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Take what this thread writes as the objective's; raises OSError if nobody reads stderr."""
        self._thread, self._is_called = threading.get_ident(), True
        try:
            yield
        finally:
            self._is_called = False
        self._finish_lines([key for key in self._unfinished if key[0] == self._thread])

    def belongs_to_objective(self) -> bool:
        """Return whether what this thread writes now is the objective's."""
        return self._is_called or threading.get_ident() != self._thread

    def write(self, stream: "_Stream", text: str) -> None:
        """Write the lines that are complete, and keep the rest."""
        key = threading.get_ident(), stream
        *lines, rest = (self._unfinished.pop(key, "") + text).split("\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], ""
        self._show(stream, [_visible(line) for line in lines])
        if rest:
            self._unfinished[key] = _visible(rest) + "\r" * rest.endswith("\r")

    def _finish_lines(self, keys: Iterable[tuple[int, "_Stream"]]) -> None:
        for key in list(keys):
            if line := _visible(self._unfinished.pop(key, "")):
                self._show(key[1], [line])

    def _show(self, stream: "_Stream", lines: list[str]) -> None:
        if logs.is_set_up():
            for line in lines:
                logs.tell(line, name=log_records.OBJECTIVE)
        elif lines:
            stream.shown_on.write("".join(f"{self._prefix}{line}\n" for line in lines))


def _visible(line: str) -> str:
    """Return what a terminal shows of a line, without colours."""
    return _ESCAPE_SEQUENCE.sub("", line.rstrip("\r").rpartition("\r")[2])


class _Stream:
    """Stands for ``sys.stdout`` or ``sys.stderr``.

    It works for as long as somebody has it, such as a handler of logging that a module makes when it is
    imported: it writes for the objective that runs, and otherwise to the stream that it has replaced.

    Args:
        replaced: The stream for which it stands.
        shown_on: Gets what the objective writes.
    """

    def __init__(self, replaced: TextIO, shown_on: TextIO) -> None:
        self.replaced, self.shown_on = replaced, shown_on

    def write(self, text: str) -> int:
        if _open_outputs and _open_outputs[-1].belongs_to_objective():
            _open_outputs[-1].write(self, text)
            return len(text)
        return self.replaced.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self.shown_on.flush()
        self.replaced.flush()

    def isatty(self) -> bool:
        return False  # the cursor cannot be moved

    def __getattr__(self, name: str) -> Any:
        """Return what the stream for which it stands has under this name; of stdout, what stderr has.

        So a subprocess that is given ``sys.stdout`` writes to stderr.
        """
        return getattr(self.shown_on, name)


class _LastResort(logging.Handler):
    """Shows records that no handler takes: of the objective from INFO on, of hpo from WARNING on."""

    def __init__(self, stream: _Stream) -> None:
        super().__init__(logging.INFO)
        self._stream = stream
        self._of_objective = logging.Formatter(logging.BASIC_FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            is_own = record.name.partition(".")[0] == "hpo"
            is_objectives = not is_own and _open_outputs and _open_outputs[-1].belongs_to_objective()
            if not is_objectives and record.levelno < logging.WARNING:
                return
            if logs.is_set_up():
                logs.show([record])
            elif is_objectives:
                self._stream.write(f"{self._of_objective.format(record)}\n")
            else:
                self._stream.replaced.write(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)
