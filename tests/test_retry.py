"""Retries: the pauses between attempts, the log's two lines, and whose exception ends them."""

import time

import pytest

from hpo import retry


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that are asked for; none is made."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


def failing(times: int, error: BaseException):
    """Return work that raises an error so many times and then succeeds."""
    left = [times]

    def work() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "done"

    return work


def attempt(work, handle_error=lambda error, seconds: f"no answer ({error})"):
    return retry.retry_until(work, handle_error, what="the place", longest_pause_seconds=0.5)


def test_work_that_succeeds_at_once_logs_nothing(pauses, caplog):
    assert attempt(failing(0, OSError())) == "done"
    assert not pauses
    assert not caplog.records


def test_pauses_double_up_to_the_longest_and_are_shortened_at_random(pauses):
    attempt(failing(6, OSError()))
    for pause, bound in zip(pauses, (0.1, 0.2, 0.4, 0.5, 0.5, 0.5), strict=True):
        assert bound / 2 <= pause <= bound


def test_an_interruption_is_logged_at_its_start_and_at_its_end(pauses, caplog):
    attempt(failing(3, OSError("unplugged")))
    first, last = (record.getMessage() for record in caplog.records)
    assert first == "no answer (unplugged); trying again"
    assert last.startswith("the place is back after ")


def test_the_handler_ends_the_retries_with_its_own_exception(pauses):
    def handle(error: Exception, waited_seconds: float) -> str:
        assert waited_seconds >= 0
        if len(pauses) == 2:
            raise ValueError("too long") from error
        return "no answer"

    error = OSError()
    with pytest.raises(ValueError, match="too long") as met:
        attempt(failing(9, error), handle)
    assert met.value.__cause__ is error


def test_the_handler_may_raise_the_error_itself(pauses):
    def handle(error: Exception, _waited_seconds: float) -> str:
        raise error

    error = OSError()
    with pytest.raises(OSError) as met:  # noqa: PT011
        attempt(failing(9, error), handle)
    assert met.value is error
    assert not pauses


def test_an_interrupt_from_the_keyboard_is_not_retried(pauses):
    with pytest.raises(KeyboardInterrupt):
        attempt(failing(1, KeyboardInterrupt()))
    assert not pauses
