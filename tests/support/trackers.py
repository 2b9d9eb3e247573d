"""Servers that trackers talk to: a real one of MLflow, and one that never answers."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

from tests.support.processes import wait_for

OFFLINE = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
BLOCK = 32_768  # bytes of a block in a .wandb file
FULL, LAST = 1, 4  # kinds of parts that end a record


class MlflowServer:
    """MLflow's tracking server in a folder, on a port of its own; killed when it is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
                *("--artifacts-destination", str(self.folder / "files")),
            ],
            cwd=self.folder,
            env={**os.environ, **OFFLINE},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers, 300)

    def close(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer,
        ):
            return answer.status == 200
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def hung_server() -> Iterator[str]:
    """Yield the URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in kept:
            each.close()


def wandb_records(file: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Yield the records of a run's ``.wandb`` file, which has LevelDB's log format after its own header."""
    content, part, at = file.read_bytes(), b"", 7
    while at + 7 <= len(content):
        if (left := BLOCK - at % BLOCK) < 7:  # no header fits: the rest of the block is padding
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""
