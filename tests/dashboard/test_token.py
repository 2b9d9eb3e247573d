import os
import stat

import pytest

from hpo.dashboard.token import TOKEN_LENGTH, load_token, token_path
from hpo.errors import DashboardError


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_only_the_owner_can_read_the_token_file(state):
    token = load_token()
    assert len(token) == TOKEN_LENGTH
    assert load_token() == token
    file = state / "hpo" / "dashboard-token"
    assert file.read_text() == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no temporary file is left"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_token_file_that_others_can_read_or_write_is_replaced(state, mode):
    token = load_token()
    token_path().chmod(mode)
    assert load_token() != token
    assert stat.S_IMODE(token_path().stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"short", b"x" * 44, "é".encode() * 43, b"\xff" * 43, b"x" * 42 + b";", b"x\0" * 2**20]
)
def test_a_file_without_a_valid_token_is_replaced(state, content):
    load_token()
    token_path().write_bytes(content)
    assert load_token().encode() != content
    assert token_path().read_text() == load_token()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_something_else_in_the_place_of_the_token_file_is_refused(state, make):
    load_token()
    token_path().unlink()
    make(token_path())
    with pytest.raises(DashboardError, match=r"dashboard-token: .* this is none; remove it"):
        load_token()


def test_no_two_tokens_are_equal(state):
    tokens = set()
    for _ in range(50):
        tokens.add(load_token())
        token_path().unlink()
    assert len(tokens) == 50


def test_without_a_state_folder_the_token_is_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for unusable in ("", "relative/folder"):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        assert token_path() == tmp_path / ".local/state/hpo/dashboard-token"


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 9)  # a user whom the system does not know
    with pytest.raises(DashboardError, match=r"no home folder.*set HOME, or XDG_STATE_HOME"):
        load_token()


def test_a_symlink_at_the_path_of_the_token_is_not_followed(state):
    token = load_token()
    elsewhere = state / "elsewhere"
    os.rename(token_path(), elsewhere)
    token_path().symlink_to(elsewhere)
    with pytest.raises(DashboardError, match=r"dashboard-token"):
        load_token()
    assert elsewhere.read_text() == token


def test_an_unwritable_state_folder_is_reported_with_advice(state):
    state.write_text("in the way")
    with pytest.raises(DashboardError, match="set XDG_STATE_HOME to use another folder"):
        load_token()
