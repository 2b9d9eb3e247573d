"""The token of the dashboard: whoever has it may use the dashboard.

It is kept in a file in the user's state folder that only its owner can read. So a link, and the cookie of a
browser, still work after the dashboard was restarted.
"""

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from hpo.errors import DashboardError

TOKEN_LENGTH = 43  # characters: 32 random bytes
TOKEN = re.compile(rb"[A-Za-z0-9_-]{%d}" % TOKEN_LENGTH)


def token_path() -> Path:
    """Return the file of the token: ``~/.local/state/hpo/dashboard-token``, or below XDG_STATE_HOME.

    A relative XDG_STATE_HOME is ignored.

    Raises:
        DashboardError: The user has no home folder.
    """
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the XDG specification says to ignore it
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:
            raise DashboardError(
                "this user has no home folder, where the dashboard keeps its token; "
                "set HOME, or XDG_STATE_HOME to an absolute path"
            ) from None
    return state / "hpo" / "dashboard-token"


def load_token() -> str:
    """Return the token; replace it if it is missing or damaged, or if others could read or write its file.

    "Others" includes an owner of the file who is not this user. A missing folder is made, too.

    Raises:
        DashboardError: The file cannot be read or written, something else is in its place, or there is no
            folder for it.
    """
    file = token_path()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _read(file) or _make(file)
    except OSError as error:
        raise DashboardError(
            f"{error.filename or file}: {error.strerror or error}; the dashboard keeps its token there; "
            "set XDG_STATE_HOME to use another folder"
        ) from error


def _read(file: Path) -> str | None:
    """Return the token; None if it is missing or damaged, or if other users may read or write the file."""
    try:
        # Not waiting: something else than a file, such as a pipe, could make us wait for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DashboardError(
                f"{file}: the dashboard keeps its token in a file of this name, and this is none; remove it"
            )
        if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
            return None
        text = os.read(descriptor, 2 * TOKEN_LENGTH).strip()
    finally:
        os.close(descriptor)
    return text.decode() if TOKEN.fullmatch(text) else None


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
