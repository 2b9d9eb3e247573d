"""A small study in a store, and what Optuna and hpo say of it."""

import optuna
import pytest

from hpo.errors import StoreError
from hpo.study.definition import Definition
from tests.support import lease_worker
from tests.support.lease_worker import NAME


def make_definition(trials: int = 3, *points, sampler: str = "tpe") -> Definition:
    definition = lease_worker.definition(trials, *points)
    search = definition.search.model_copy(
        update={"sampler": definition.search.sampler.model_copy(update={"name": sampler})}
    )
    return definition.model_copy(update={"search": search} | ({"space": ()} if sampler == "grid" else {}))


def plain(url: str) -> optuna.Study:
    """Return the study as plain Optuna loads it, without hpo."""
    return optuna.load_study(study_name=NAME, storage=url)


def check_refused(call, *words: str) -> str:
    """Check that a call raises a StoreError of one line with certain words, and return that line."""
    with pytest.raises(StoreError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message
