"""Fixtures of the tests of searching."""

import logging

import pytest


@pytest.fixture
def optuna_warnings():
    """Fail a test in which Optuna logs a warning; Python's warnings are errors anyway."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("optuna")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    assert [text for text in messages if "greenlet" not in text] == []  # depends on what is installed
