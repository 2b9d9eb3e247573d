import os
import stat

import pytest

from hpo.dashboard import token as secret
from hpo.errors import DashboardError


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_token_is_kept_for_its_owner_alone(state):
    token = secret.load_token()
    assert len(token) == secret.TOKEN_LENGTH
    assert secret.load_token() == token
    file = state / "hpo" / "dashboard-token"
    assert file.read_text() == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no draft stays behind"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_token_that_others_could_read_or_write_is_replaced(state, mode):
    token = secret.load_token()
    secret.token_path().chmod(mode)
    assert secret.load_token() != token
    assert stat.S_IMODE(secret.token_path().stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "short", "x" * 44, "é" * 43])
def test_a_file_that_holds_no_whole_token_is_replaced(state, text):
    secret.load_token()
    secret.token_path().write_text(text)
    assert secret.load_token() != text
    assert secret.token_path().read_text() == secret.load_token()


def test_two_tokens_are_never_alike(state):
    tokens = set()
    for _ in range(50):
        tokens.add(secret.load_token())
        secret.token_path().unlink()
    assert len(tokens) == 50


def test_without_a_state_folder_it_lies_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for unusable in ("", "relative/folder"):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        assert secret.token_path() == tmp_path / ".local/state/hpo/dashboard-token"


def test_a_link_in_its_place_is_not_followed(state):
    token = secret.load_token()
    elsewhere = state / "elsewhere"
    os.rename(secret.token_path(), elsewhere)
    secret.token_path().symlink_to(elsewhere)
    with pytest.raises(DashboardError, match="dashboard-token"):
        secret.load_token()
    assert elsewhere.read_text() == token


def test_a_state_folder_that_cannot_be_written_is_one_line(state):
    state.write_text("in the way")
    with pytest.raises(DashboardError, match="set XDG_STATE_HOME to use another folder"):
        secret.load_token()
