"""File systems elsewhere: their timeouts, and which of their errors pass by themselves."""

import errno
import socket

import aiohttp
import botocore.exceptions
import fsspec
import pytest
from s3fs.errors import translate_boto_error

from hpo.artifacts import remote


def answer(code: str) -> OSError:
    """Give what s3fs makes of an S3's answer."""
    response = {"Error": {"Code": code, "Message": code}}
    return translate_boto_error(botocore.exceptions.ClientError(response, "PutObject"))


AWAY = [
    TimeoutError("no answer"),
    ConnectionResetError("gone"),
    OSError(errno.EHOSTUNREACH, "no route"),
    aiohttp.ClientPayloadError("cut short"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"),
    botocore.exceptions.ConnectTimeoutError(endpoint_url="http://s3"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://s3"),
    botocore.exceptions.ConnectionClosedError(endpoint_url="http://s3"),
    *map(
        answer, ("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "500", "502", "504")
    ),
]
REFUSED = [
    OSError(errno.ENOSPC, "no room"),
    ValueError("no such thing"),
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.ProfileNotFound(profile="nosuch"),
    botocore.exceptions.ParamValidationError(report="no such bucket name"),
    *map(
        answer,
        ("AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "404"),
    ),
]


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_what_the_network_or_a_server_that_is_not_well_says_passes(error):
    assert remote.is_unavailable(error)
    assert remote.error_text(error)


@pytest.mark.parametrize("error", REFUSED, ids=repr)
def test_what_a_person_has_to_mend_does_not_pass(error):
    assert not remote.is_unavailable(error)
    assert remote.error_text(error)
    assert remote.advice(error)


def test_an_s3_has_our_timeouts_where_the_user_set_none(monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 77}})
    filesystem, path = remote.open_file_system("s3://bucket/vision")
    assert path == "bucket/vision"
    assert filesystem.config_kwargs["read_timeout"] == 77
    assert filesystem.config_kwargs["connect_timeout"] == remote.CONNECT_SECONDS
    made = filesystem.config_kwargs["connector_args"]["socket_factory"](
        (socket.AF_INET, socket.SOCK_STREAM, 6)
    )
    with made:
        stall = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert stall == 1000 * remote.STALL_SECONDS
