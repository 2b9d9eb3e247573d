"""File systems behind a URL, by fsspec: timeouts, and which errors are temporary.

Every kind of file system raises its own errors, and not all of them are ``OSError``: s3fs translates the
answers of an S3 server, but passes on the network errors of botocore and aiohttp. This module lists the
errors that are known to be temporary. Every other error has to be corrected by the user.
"""

import errno
import socket
from typing import Any

import fsspec

CONNECT_SECONDS = 3
READ_SECONDS = 30  # without a byte of the answer, after the request is sent
STALL_SECONDS = 15  # without an acknowledgement of sent data; TCP alone would retry for fifteen minutes
REQUEST_ATTEMPTS = 2  # by botocore itself, before the error is raised

TRANSIENT_ERRNOS = {
    errno.EIO,  # s3fs raises it for an answer that it does not know: a proxy's 502 or 504
    getattr(errno, "EREMOTEIO", errno.EIO),  # 500
    errno.EBUSY,  # 503
    errno.EAGAIN,
    errno.EPIPE,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
}
# By module and name, because these packages need not be installed.
TRANSIENT_TYPES = {
    ("botocore.exceptions", "HTTPClientError"),  # read timeouts, closed connections
    ("botocore.exceptions", "ConnectionError"),  # no connection, no such host
    ("aiohttp.client_exceptions", "ClientConnectionError"),
    ("aiohttp.client_exceptions", "ClientPayloadError"),  # an answer that is cut short
}
TRANSIENT_STATUSES = {408, 425, 429}  # HTTP: too slow, too early, too many; and every one from 500 on


def open_file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path within it.

    Args:
        url: A local path, or a URL such as ``s3://bucket/folder``.

    Raises:
        ValueError: If the URL's protocol is unknown.
        ImportError: If the package for the protocol is not installed.
        Exception: Whatever a file system raises that connects at once.
    """
    protocol, _ = fsspec.core.split_protocol(url)
    return fsspec.core.url_to_fs(url, **(_s3_options() if protocol in ("s3", "s3a") else {}))  # type: ignore[no-any-return]


def _s3_options() -> dict[str, Any]:
    """Return S3's timeouts; botocore settings of the user in fsspec's configuration take precedence."""
    ours = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"total_max_attempts": REQUEST_ATTEMPTS},
        "connector_args": {"socket_factory": _make_socket},
    }
    return {"config_kwargs": {**ours, **fsspec.config.conf.get("s3", {}).get("config_kwargs", {})}}


def _make_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALL_SECONDS * 1000)
    return made


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error is temporary: no connection, no answer, or a server with a problem.

    Errors that are not known to be temporary count as permanent.
    """
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    if ("aiohttp.client_exceptions", "ClientResponseError") in kinds:
        status = getattr(error, "status", 0)
        return status in TRANSIENT_STATUSES or status >= 500
    return bool(kinds & TRANSIENT_TYPES)


def error_text(error: BaseException) -> str:
    """Return an error's message, or the name of its type if it has none.

    The message of an OSError is returned without its number and path.
    """
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def advice(error: BaseException) -> str:
    """Return what the user can do about an error that is not temporary."""
    if isinstance(error, FileNotFoundError):
        return "--artifacts or HPO_ARTIFACTS says where they are; hpo creates no bucket"
    name = type(error).__name__
    if isinstance(error, PermissionError) or "Credentials" in name or "Profile" in name:
        return (
            "it takes credentials that may list, read, write and delete there "
            "(S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "set TMPDIR to a disk with more space: files are stored there before they are uploaded"
    return "see --artifacts or HPO_ARTIFACTS"
