"""Remote file systems: their timeouts, and which of their errors are temporary."""

import errno
import socket

import aiohttp
import botocore.exceptions
import fsspec
import pytest
import yarl
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error

from hpo.artifacts import remote


def s3_error(code: str) -> OSError:
    """Return the exception that s3fs raises for an S3 error code."""
    response = {"Error": {"Code": code, "Message": code}}
    return translate_boto_error(botocore.exceptions.ClientError(response, "PutObject"))


def http_error(status: int) -> aiohttp.ClientResponseError:
    """Return what aiohttp raises for an answer with an HTTP status."""
    request = aiohttp.RequestInfo(yarl.URL("http://s3"), "PUT", CIMultiDictProxy(CIMultiDict()))
    return aiohttp.ClientResponseError(request, (), status=status, message="no")


TEMPORARY = [
    TimeoutError("no response"),
    ConnectionResetError("gone"),
    OSError(errno.EHOSTUNREACH, "no route"),
    aiohttp.ClientPayloadError("cut short"),
    aiohttp.ServerDisconnectedError(),
    *map(http_error, (408, 429, 500, 503)),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"),
    botocore.exceptions.ConnectTimeoutError(endpoint_url="http://s3"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://s3"),
    botocore.exceptions.ConnectionClosedError(endpoint_url="http://s3"),
    *map(
        s3_error, ("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "500", "502", "504")
    ),
]
PERMANENT = [
    OSError(errno.ENOSPC, "no room"),
    ValueError("no such thing"),
    aiohttp.InvalidURL("http:///"),
    *map(http_error, (400, 401, 403, 404)),
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.ProfileNotFound(profile="nosuch"),
    botocore.exceptions.ParamValidationError(report="no such bucket name"),
    *map(
        s3_error,
        ("AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "404"),
    ),
]


@pytest.mark.parametrize("error", TEMPORARY, ids=repr)
def test_errors_of_the_network_or_an_overloaded_server_are_temporary(error):
    assert remote.is_unavailable(error)
    assert remote.error_text(error)


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_errors_that_the_user_must_fix_are_permanent(error):
    assert not remote.is_unavailable(error)
    assert remote.error_text(error)
    assert remote.advice(error)


def test_s3_has_our_timeouts_unless_the_user_sets_them(monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 77}})
    filesystem, path = remote.open_file_system("s3://bucket/vision")
    assert path == "bucket/vision"
    assert filesystem.config_kwargs["read_timeout"] == 77
    assert filesystem.config_kwargs["connect_timeout"] == remote.CONNECT_SECONDS
    connection = filesystem.config_kwargs["connector_args"]["socket_factory"](
        (socket.AF_INET, socket.SOCK_STREAM, 6)
    )
    with connection:
        stall = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert stall == 1000 * remote.STALL_SECONDS
