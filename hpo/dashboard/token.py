"""The token of the dashboard: whoever has it may use the dashboard.

It is kept in a file in the user's state folder that only its owner can read. So a link, and the cookie of a
browser, still work after the dashboard was restarted.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from hpo.errors import DashboardError

TOKEN_LENGTH = 43  # characters: 32 random bytes


def token_path() -> Path:
    """Return the file of the token: ``~/.local/state/hpo/dashboard-token``, or below XDG_STATE_HOME.

    A relative XDG_STATE_HOME is ignored.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification says to ignore a relative path.
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "hpo" / "dashboard-token"


def load_token() -> str:
    """Return the token; replace it if it is missing or damaged, or if others could read or write its file.

    "Others" includes an owner of the file who is not this user. A missing folder is made, too.

    Raises:
        DashboardError: The file cannot be read or written.
    """
    file = token_path()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _read(file) or _make(file)
    except OSError as error:
        raise DashboardError(
            f"{file}: {error.strerror or error}; the dashboard keeps its token there; "
            "set XDG_STATE_HOME to use another folder"
        ) from error


def _read(file: Path) -> str | None:
    """Return the token; None if it is missing or damaged, or if other users may read or write the file."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor) as opened:
        found = os.fstat(descriptor)
        if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
            return None
        text = opened.read(TOKEN_LENGTH + 1).strip()
    return text if len(text) == TOKEN_LENGTH and text.isascii() else None


def _make(file: Path) -> str:
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    text = secrets.token_urlsafe(32)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(text)
        draft.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    return text
