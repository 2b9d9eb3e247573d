"""A file system elsewhere, by fsspec: how long a silent one is waited for, and what its errors mean.

Each kind of place raises errors of its own, and not all are ``OSError``: s3fs makes such of what S3
answers, but passes on what botocore and aiohttp say of a network. They are told apart by what is known to
pass by itself; whatever else a place says is for a person to put right.
"""

import errno
import socket
from typing import Any

import fsspec

CONNECT_SECONDS = 3
READ_SECONDS = 30  # without a byte of an answer, once all is sent
STALL_SECONDS = 15  # without a sign that what is sent arrives; TCP alone would try for a quarter of an hour
REQUEST_ATTEMPTS = 2  # at each request, before the error is ours

TRANSIENT_ERRNOS = {
    errno.EIO,  # what s3fs makes of an answer that it does not know: a proxy's 502 or 504
    getattr(errno, "EREMOTEIO", errno.EIO),  # 500
    errno.EBUSY,  # 503
    errno.EAGAIN,
    errno.EPIPE,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
}
# By module and name, since what they are of need not be installed.
TRANSIENT_TYPES = {
    ("botocore.exceptions", "HTTPClientError"),  # read timeouts, closed connections
    ("botocore.exceptions", "ConnectionError"),  # no connection, no such host
    ("aiohttp.client_exceptions", "ClientError"),
}


def open_file_system(url: str) -> tuple[Any, str]:
    """Give a place's file system and the path in it; raises ValueError or ImportError for none we know."""
    protocol, _ = fsspec.core.split_protocol(url)
    return fsspec.core.url_to_fs(url, **(_s3_options() if protocol in ("s3", "s3a") else {}))  # type: ignore[no-any-return]


def _s3_options() -> dict[str, Any]:
    """Give S3's timeouts; what the user has set for botocore's configuration, in fsspec's, stands."""
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
    """Tell whether an error passes by itself: no connection, no answer, a server that is not well."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    return any((kind.__module__, kind.__name__) in TRANSIENT_TYPES for kind in type(error).__mro__)


def error_text(error: BaseException) -> str:
    """Give what a place, or the network on the way, said."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def advice(error: BaseException) -> str:
    """Say what to do about an error that does not pass by itself."""
    if isinstance(error, FileNotFoundError):
        return "--artifacts or HPO_ARTIFACTS says where they are, and hpo makes no bucket"
    name = type(error).__name__
    if isinstance(error, PermissionError) or "Credentials" in name or "Profile" in name:
        return (
            "it takes credentials that may list, read, write and delete there "
            "(S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "files on their way lie where TMPDIR says"
    return "see --artifacts or HPO_ARTIFACTS"
