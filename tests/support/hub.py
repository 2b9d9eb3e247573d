"""A small Hugging Face hub on this machine, and data sets for it.

It answers what ``huggingface_hub`` asks to read files at a commit. The commit of a data set is a hash of
its files.
"""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from tests.support.images import draw_shape

NAMES = ("zebra", "ant")  # the classes, in an order that is not the alphabet's
COUNTS = {"train": 12, "validation": 4, "test": 4}


def encoded(kind: int, number: int) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    return datasets.Image().encode_example(draw_shape(kind, (20 + number % 5, 24), number))["bytes"]


def make_splits(counts=COUNTS, names=NAMES, **columns) -> DatasetDict:
    """Return a data set with the columns id, image and label; other values of a column may be given."""
    features = Features(
        {"id": Value("int64"), "image": datasets.Image(), "label": ClassLabel(names=list(names))}
    )
    found = {}
    for place, (split, count) in enumerate(counts.items()):
        rows = {
            "id": list(range(count)),
            "image": [
                {"bytes": encoded(n % len(names), n + 100 * place), "path": None} for n in range(count)
            ],
            "label": [n % len(names) for n in range(count)],
        }
        rows |= {name: make(count) for name, make in columns.items()}
        found[split] = Dataset.from_dict(rows, features=features)
    return DatasetDict(found)


def write_parquet(folder: Path, splits: DatasetDict) -> None:
    """Write a data set as the hub stores it."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"data/{name}-00000-of-00001.parquet")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, *_args) -> None:
        pass

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        found = re.fullmatch(
            r"(/api)?/datasets/([\w-]+/[\w-]+)(/(revision|tree|resolve)/([^/]+)(/(.*))?)?", path
        )
        folder = self.root / found[2] if found else self.root / "nowhere"
        if not folder.is_dir():
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif found[1] and found[4] in (None, "revision"):
            self._answer(200, json.dumps({"id": found[2], "sha": commit(folder)}).encode())
        elif found[4] == "tree" and (folder / (found[7] or ".")).is_dir():
            self._answer(
                200,
                json.dumps(
                    _list_files(folder, found[7] or ".", "recursive=true" in self.path.lower())
                ).encode(),
            )
        elif found[4] == "resolve" and (folder / found[7]).is_file():
            self._send_file(folder / found[7], found[5])
        else:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def _send_file(self, file: Path, revision: str) -> None:
        content = file.read_bytes()
        etag = hashlib.sha1(content).hexdigest()
        headers = {"X-Repo-Commit": revision, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            first, last = int(span[1]), min(int(span[2]), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._answer(206, content[first : last + 1], headers)
        else:
            self._answer(200, content, headers)

    def _answer(self, code: int, content: bytes, headers=()) -> None:
        self.send_response(code)
        for key, value in {**dict(headers), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def commit(folder: Path) -> str:
    """Return the commit that a data set is at."""
    digest = hashlib.sha1()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()


def _list_files(folder: Path, below: str, recursive: bool) -> list[dict]:
    return [
        {
            "type": "directory" if each.is_dir() else "file",
            "path": str(each.relative_to(folder)),
            "size": 0 if each.is_dir() else each.stat().st_size,
            "oid": "0" * 40,
        }
        for each in sorted((folder / below).glob("**/*" if recursive else "*"))
    ]


@contextlib.contextmanager
def running_hub(root: Path) -> Iterator[str]:
    """Serve the data sets in the folders OWNER/NAME of ``root``; yield the hub's URL."""
    handler = type("Handler", (_Handler,), {"root": root})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def use_hub(url: str, place: Path, monkeypatch) -> None:
    """Let the libraries of this process use another hub; what they cache goes to ``place``."""
    constants, config = huggingface_hub.constants, datasets.config
    path = "resolve/{revision}/"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub-cache"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/{path}{{filename}}")
    monkeypatch.setattr(config, "HF_ENDPOINT", url)
    monkeypatch.setattr(config, "HUB_DATASETS_URL", f"{url}/datasets/{{repo_id}}/{path}{{path}}")
