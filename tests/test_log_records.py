"""Records as lines of text and of JSON."""

import json
import logging
import sys
from datetime import datetime

import pytest

from hpo import log_records
from hpo.log_records import (
    KEYS,
    OBJECTIVE,
    OWN,
    PROGRESS,
    format_json,
    format_short,
    format_text,
    parse_line,
)
from tests.support.log_lines import parse_lines


def record(
    text: str, name: str = OWN, level: int = logging.INFO, trial: int | None = 3
) -> logging.LogRecord:
    return log_records.worker_record(text, level, name, process=47, study="small", trial=trial)


def test_every_line_of_a_text_has_the_whole_context():
    first, second = parse_lines(format_text(record("failed:\na traceback", "PIL.Image", logging.ERROR)))
    assert (first.level, first.process, first.study, first.trial) == ("ERROR", "47", "small", "3")
    assert [str(first), str(second)] == ["PIL: failed:", "PIL: a traceback"]
    assert datetime.fromisoformat(first.time).utcoffset() is not None


def test_a_record_without_a_trial_has_a_dash():
    (line,) = parse_lines(format_text(record("", trial=None)))
    assert (line.trial, line.message) == ("-", "")


@pytest.mark.parametrize("message", ["größer", "two\nlines", "\udc80 \x1b[0m \u2028", '{"time": 1}', ""])
def test_a_record_survives_as_a_line_of_json(message):
    sent = record(message, "PIL.Image", logging.WARNING)
    line = format_json(sent)
    assert "\n" not in line
    assert tuple(json.loads(line)) == KEYS
    received = parse_line(line)
    assert received is not None
    assert format_json(received) == line
    assert (received.levelno, received.getMessage()) == (logging.WARNING, message)
    assert log_records.trial_of(received) == 3


def test_the_traceback_of_a_record_is_part_of_its_message():
    try:
        raise ValueError("odd")
    except ValueError:
        sent = logging.getLogger("x").makeRecord("x", 40, "", 0, "gone", (), sys.exc_info())
    assert json.loads(format_json(sent))["message"].startswith("gone\nTraceback (most recent call last):")


@pytest.mark.parametrize(
    "change",
    [
        {"time": 5},
        {"time": "noon"},
        {"level": "loud"},
        {"trial": "x"},
        {"trial": [1]},
        {"level": None},
        {"process": None},
    ],
)
def test_an_objectives_own_json_is_no_record(change):
    line = json.dumps({**json.loads(format_json(record("text"))), **change})
    assert parse_line(line) is None


@pytest.mark.parametrize("line", ["", "printed", "{", '{"time": ', '{"time": "2026-12-01T08:00:00+00:00"}'])
def test_another_line_is_no_record(line):
    assert parse_line(line) is None


def test_what_was_printed_before_a_record_on_the_same_line_is_told_apart():
    printed, found = log_records.split_line(f"no end of line{format_json(record('text'))}")
    assert (printed, found and found.getMessage()) == ("no end of line", "text")
    assert log_records.split_line('printed {"time": "noon"}') == ('printed {"time": "noon"}', None)


@pytest.mark.parametrize(
    ("name", "trial", "shown"),
    [
        (PROGRESS, 3, "text"),
        (OWN, 3, "hpo: text"),
        (OBJECTIVE, 3, "trial 3: text"),
        ("PIL.Image", 3, "trial 3: PIL: text"),
        ("PIL.Image", None, "PIL: text"),
    ],
)
def test_the_short_form_says_the_trial_or_the_source_only_where_the_message_does_not(name, trial, shown):
    assert format_short(record("text", name, trial=trial)) == shown
