"""What a process that logs shows, and that it is as before afterwards."""

import contextlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest

from hpo import log_records, logs
from hpo.errors import HpoError
from hpo.logs import LogOptions
from tests.support.log_lines import messages, parse_lines

DEFAULT = LogOptions()


@contextlib.contextmanager
def shown(options: LogOptions = DEFAULT, stream: io.StringIO | None = None) -> Iterator[io.StringIO]:
    """Let this process log within the block, and yield what is shown; pytest takes no records."""
    stream = stream or io.StringIO()
    with pytest.MonkeyPatch.context() as patch, logs.restored():
        patch.setattr(sys, "stderr", stream)
        patch.setattr(logging.root, "handlers", [])
        logs.set_up(options, "small")
        yield stream


def test_records_warnings_and_prints_are_lines_with_their_source():
    with shown() as stream:
        with log_records.trial_context(7):
            logging.getLogger("hpo.training").info("own")
            logging.getLogger("boto3.session").info("left out")
            logging.getLogger("boto3.session").warning("of a library")
            warnings.showwarning(UserWarning("old"), UserWarning, "/x/site-packages/torch/nn.py", 12)
            warnings.showwarning(UserWarning("odd"), UserWarning, "/home/me/own.py", 3)
            print("printed", file=sys.stderr, end=" ")
            print("in two parts\nunfinished", file=sys.stderr, end="")
        logs.tell_exit("no store")
        sys.stderr.write(" line")
    lines = parse_lines(stream.getvalue())
    assert [str(line) for line in lines] == [
        "hpo: own",
        "boto3: of a library",
        "torch: UserWarning: old (/x/site-packages/torch/nn.py:12)",
        "own: UserWarning: odd (/home/me/own.py:3)",
        "output: printed in two parts",
        "hpo: no store",
        "output: unfinished line",
    ]
    assert [line.trial for line in lines] == ["7"] * 5 + ["-"] * 2
    assert {line.study for line in lines} == {"small"}


@pytest.mark.parametrize(
    ("level", "wanted"), [("debug", "abcd"), ("info", "bcd"), ("warning", "cd"), ("error", "d")]
)
def test_lines_below_the_level_are_left_out(level, wanted):
    with shown(LogOptions(level=level)) as stream:
        for number, text in zip((10, 20, 30, 40), "abcd", strict=True):
            logging.getLogger("hpo").log(number, text)
            logs.tell(text, number)
    assert messages(stream.getvalue()) == [f"hpo: {text}" for text in wanted for _ in range(2)]


def test_json_is_one_document_a_line():
    with shown(LogOptions(form="json")) as stream:
        logs.tell("two\nlines")
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert [found[key] for key in ("level", "study", "trial", "message")] == [
        *("INFO", "small", None),
        "two\nlines",
    ]


def test_people_on_a_terminal_get_short_lines(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    with shown(LogOptions(form="json"), terminal):
        logs.tell("study 'small' is complete")
    assert terminal.getvalue() == "hpo: study 'small' is complete\n"


def test_a_library_with_a_handler_of_its_own_shows_nothing_twice(monkeypatch):
    library, own = logging.getLogger("some.library"), io.StringIO()
    monkeypatch.setattr(library, "handlers", [logging.StreamHandler(own)])
    monkeypatch.setattr(library, "propagate", False)
    with shown() as stream:
        library.warning("of a library")
    assert (messages(stream.getvalue()), own.getvalue()) == (["some: of a library"], "")
    assert library.handlers


def test_the_process_is_as_before_afterwards():
    own = logging.getLogger("hpo")
    before = sys.stderr, logging.lastResort, warnings.showwarning, own.level, own.handlers, own.propagate
    with logs.restored():
        logs.set_up(LogOptions(level="error"), "small")
        assert logs.is_set_up()
    assert not logs.is_set_up()
    assert before == (
        *(sys.stderr, logging.lastResort, warnings.showwarning),
        *(own.level, own.handlers, own.propagate),
    )
    assert vars(log_records.new_record("x"))["study"] == ""


def test_a_reader_that_is_gone_is_no_error(monkeypatch):
    def refused(text):
        raise BrokenPipeError

    with shown() as stream:
        monkeypatch.setattr(stream, "write", refused)
        logs.tell("to nobody")


def test_options_of_the_environment_are_checked(monkeypatch):
    monkeypatch.setenv("HPO_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("HPO_LOG_FORMAT", "")
    assert logs.find_log_options() == LogOptions(level="warning")
    monkeypatch.setenv("HPO_LOG_FORMAT", "xml")
    with pytest.raises(HpoError, match="HPO_LOG_FORMAT: want text, json, found 'xml'"):
        logs.find_log_options()
