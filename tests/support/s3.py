"""An S3 server for tests (moto's), with a bucket."""

import contextlib
import io
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import torch

from tests.support import postgres
from tests.support.processes import wait_for

BUCKET = "studies"
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True, kw_only=True)
class S3:
    """A running S3 server with a bucket."""

    port: int

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}"

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.url(),
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )

    def names(self) -> set[str]:
        """Return the names of all objects, as the store's rows name them."""
        objects = self.client().list_objects_v2(Bucket=BUCKET, Prefix="vision/").get("Contents", [])
        return {each["Key"].removeprefix("vision/") for each in objects}

    def load(self, name: str):
        content = self.client().get_object(Bucket=BUCKET, Key=f"vision/{name}")["Body"].read()
        return torch.load(io.BytesIO(content), weights_only=True)

    def allow_unauthenticated(self, requests: str) -> None:
        """Accept this many more requests from anyone, then only requests with known credentials."""
        url, plain = f"{self.url()}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, requests.encode(), plain)).close()


@contextlib.contextmanager
def running_s3() -> Iterator[S3]:
    """Run a server on a free port that listens on every address."""
    server = S3(port=postgres.free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(server.port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: is_listening(server.port))
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        process.wait()


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
