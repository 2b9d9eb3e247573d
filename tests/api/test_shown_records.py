"""Which records of workers are shown, and how often."""

import logging

from hpo.api.shown_records import ToldOnce
from hpo.log_records import OBJECTIVE, OWN, PROGRESS, SUPERVISOR, worker_record


def said(text: str, process: int, name: str = OWN, level: int = logging.WARNING) -> logging.LogRecord:
    return worker_record(text, level, name, process=process, study="small", trial=process)


def test_what_three_workers_say_is_told_once_and_once_more_when_it_happens_again():
    once = ToldOnce()
    for _ in range(2):
        for text in ("the store is away", "the store is back after {}.5 s"):
            found = [once.is_new(said(text.format(process), process)) for process in (1, 2, 3)]
            assert found == [True, False, False]


def test_a_warning_of_a_library_is_told_once():
    once = ToldOnce()
    assert [once.is_new(said("careful", process, "torch")) for process in (1, 2)] == [True, False]


def test_what_trials_and_objectives_say_is_always_told():
    for name, level in ((PROGRESS, 20), (PROGRESS, 30), (OBJECTIVE, 20), (SUPERVISOR, 30), ("own", 20)):
        once = ToldOnce()
        assert [once.is_new(said("same", process, name, level)) for process in (1, 2)] == [True, True], name
