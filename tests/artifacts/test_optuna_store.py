import io

import pytest

from hpo.artifacts.folders import Artifacts
from hpo.artifacts.optuna_store import ADDED_FOLDER, FolderArtifactStore


class Interrupted(io.BytesIO):
    """A body of which the connection breaks after the first bytes."""

    def read(self, size=-1):
        if self.tell():
            raise OSError("connection lost")
        return super().read(3)


def test_an_attached_file_is_whole_or_the_one_before(tmp_path):
    store = FolderArtifactStore(Artifacts(str(tmp_path)), read_only=False)
    with pytest.raises(OSError, match="connection lost"):
        store.write("a", Interrupted(b"second"))
    assert list((tmp_path / ADDED_FOLDER).iterdir()) == []
    store.write("a", io.BytesIO(b"first"))
    with pytest.raises(OSError, match="connection lost"):
        store.write("a", Interrupted(b"second"))
    with store.open_reader("a") as file:
        assert file.read() == b"first"
    assert [each.name for each in (tmp_path / ADDED_FOLDER).iterdir()] == ["a"]
