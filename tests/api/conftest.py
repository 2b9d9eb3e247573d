import pytest

import hpo
from tests.support.api_study import STUDY


@pytest.fixture
def study(url, tmp_path, monkeypatch):
    """Return a study of four trials that wait."""
    monkeypatch.chdir(tmp_path)
    return hpo.create(STUDY, store=url, artifacts=tmp_path / "artifacts", data=tmp_path / "data")
