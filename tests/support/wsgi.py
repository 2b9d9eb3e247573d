"""Send requests to a WSGI application; its responses are checked against the WSGI standard."""

import io
import json
import re
import wsgiref.util
import wsgiref.validate
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import optuna_dashboard

TOKEN = "a-token-that-is-only-for-tests-0123456789ab"
HOST = "127.0.0.1:8080"


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(app: Any, method: str, path: str, body: Any = None, **environ: str) -> Answer:
    """Send a request; ``environ`` overrides what an authenticated browser sends."""
    content = json.dumps(body).encode() if body is not None else b""
    path, _, query = path.partition("?")
    request: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_HOST": HOST,
        "HTTP_COOKIE": f"hpo-8080={TOKEN}",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.input": io.BytesIO(content),
        **environ,
    }
    wsgiref.util.setup_testing_defaults(request)
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        started.append((status, headers))
        return lambda _: None

    chunks = wsgiref.validate.validator(app)(request, start_response)
    try:
        content = b"".join(chunks)
    finally:
        chunks.close()
    status, headers = started[0]
    names = [name.lower() for name, _ in headers]
    assert len(names) == len(set(names)), f"a header occurs twice: {headers}"
    return Answer(status=int(status[:3]), headers={n.lower(): v for n, v in headers}, body=content)


def routes(
    *, study: int = 1, trial: int = 1, file: str = "0a-1b", plot: str = "slice"
) -> list[tuple[str, str]]:
    """Return every route of optuna-dashboard as a method and a path that matches it.

    Args:
        study: The id of the study in the path.
        trial: The id of the trial.
        file: The id of the artifact.
        plot: The kind of plot.
    """
    app = optuna_dashboard.wsgi(optuna.storages.InMemoryStorage())
    fills = {
        "study_id:int": str(study),
        "trial_id:int": str(trial),
        "plot_type": plot,
        "history_id": "0a-1b",
    }
    fills |= {":re:(/.*)?": "/studies/1", "filename:path": "bundle.js"}
    return [(route.method, _example_path(route.rule, fills, file)) for route in app.routes]


def _example_path(rule: str, fills: Mapping[str, str], file: str) -> str:
    for name, given in fills.items():
        rule = rule.replace(f"<{name}>", given)
    rule = re.sub("<artifact_id:[^>]*>", file, rule)
    assert "<" not in rule, f"a new kind of route: {rule}"
    return rule
