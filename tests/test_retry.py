"""Retries: pauses between attempts, the two log lines, and which exception ends them."""

import time

import pytest

from hpo import retry


@pytest.fixture
def pauses(monkeypatch):
    """Record the requested pauses instead of sleeping."""
    requested: list[float] = []
    monkeypatch.setattr(time, "sleep", requested.append)
    return requested


def failing(times: int, error: BaseException):
    """Return a function that raises an error a number of times and then succeeds."""
    failures_left = [times]

    def work() -> str:
        failures_left[0] -= 1
        if failures_left[0] >= 0:
            raise error
        return "done"

    return work


def attempt(work, handle_error=lambda error, seconds: f"no answer ({error})"):
    return retry.retry_until(work, handle_error, what="the server", longest_pause_seconds=0.5)


def test_work_that_succeeds_immediately_logs_nothing(pauses, caplog):
    assert attempt(failing(0, OSError())) == "done"
    assert not pauses
    assert not caplog.records


def test_pauses_double_up_to_the_longest_with_random_jitter(pauses):
    attempt(failing(6, OSError()))
    for pause, bound in zip(pauses, (0.1, 0.2, 0.4, 0.5, 0.5, 0.5), strict=True):
        assert bound / 2 <= pause <= bound


def test_an_outage_is_logged_at_its_start_and_at_its_end(pauses, caplog):
    attempt(failing(3, OSError("unplugged")))
    first, last = (record.getMessage() for record in caplog.records)
    assert first == "no answer (unplugged); trying again"
    assert last.startswith("the server is back after ")


def test_the_handler_ends_the_retries_with_its_own_exception(pauses):
    def handle(error: Exception, waited_seconds: float) -> str:
        assert waited_seconds >= 0
        if len(pauses) == 2:
            raise ValueError("too long") from error
        return "no answer"

    error = OSError()
    with pytest.raises(ValueError, match="too long") as caught:
        attempt(failing(9, error), handle)
    assert caught.value.__cause__ is error


def test_the_handler_may_raise_the_error_itself(pauses):
    def handle(error: Exception, _waited_seconds: float) -> str:
        raise error

    error = OSError()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        attempt(failing(9, error), handle)
    assert caught.value is error
    assert not pauses


def test_a_keyboard_interrupt_is_not_retried(pauses):
    with pytest.raises(KeyboardInterrupt):
        attempt(failing(1, KeyboardInterrupt()))
    assert not pauses
