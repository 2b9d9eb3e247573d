"""Fixtures of the tests of reports."""

import functools
from collections.abc import Callable

import optuna
import pytest

from hpo.analysis import importance as hpo_importance
from hpo.store import studies
from hpo.store.storage import Storage
from tests.support.databases import closed_engines
from tests.support.report_page import Reported, write_and_parse


@pytest.fixture(scope="module", autouse=True)
def few_bootstrap_samples():
    """Draw few samples and grow small forests for them; tests of importance check the number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpo_importance, "resample_count", lambda trials: 6)
        patch.setattr(hpo_importance, "BOOTSTRAP_TREES", 4)
        yield


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Return a function that stores a study and returns its report; it caches the result."""

    @functools.cache
    def report_of(make: Callable[[str], Storage]) -> Reported:
        folder = tmp_path_factory.mktemp(make.__name__)
        url = f"sqlite:///{folder}/hpo.db"
        storage = make(url)
        (name,) = studies.study_names(storage)
        page, tables = write_and_parse(storage, name, folder)
        text = (folder / "page.html").read_text()
        study = optuna.load_study(study_name=name, storage=url)
        return Reported(url=url, page=page, text=text, tables=tables, study=study, folder=folder)

    with closed_engines():
        yield report_of


@pytest.fixture
def sqlite_url(tmp_path):
    with closed_engines():
        yield f"sqlite:///{tmp_path}/hpo.db"
