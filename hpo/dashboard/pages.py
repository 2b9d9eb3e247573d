"""Our own pages beside optuna-dashboard: an overview of all studies, each study's report, the metrics."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hpo.artifacts.folders import Artifacts
from hpo.dashboard import overview, prometheus
from hpo.dashboard.gate import OVERVIEW_PATH, REPORT_PATH, Environ, Start
from hpo.errors import HpoError, NoCompleteTrial
from hpo.store.storage import Storage

METRICS_PATH = "/metrics"


@dataclass(frozen=True, kw_only=True)
class OwnPage:
    """A response: a page, one line of text that says why there is none, or a way to another page."""

    status: str
    kind: str = "text/plain"  # its media type
    text: str = ""
    location: str = ""  # of the other page

    def respond(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Send the response, as WSGI has it; to HEAD without its body."""
        body = self.text.encode()
        headers = [("Content-Type", f"{self.kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
        start(self.status, headers + [("Location", self.location)] * bool(self.location))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def links(study_id: int, *, has_report: bool) -> str:
    """Return a line in Markdown with links to our pages.

    Args:
        study_id: The study's id in the database.
        has_report: Whether the study has a complete trial.
    """
    report = f" \N{MIDDLE DOT} [Report of this study]({REPORT_PATH}{study_id})" if has_report else ""
    return f"[All studies]({OVERVIEW_PATH}){report}"


def find_page(path: str, storage: Storage, artifacts: Artifacts) -> OwnPage | None:
    """Return the page at a path, or why it cannot be made; None if the path is not one of ours.

    A study without a complete trial has no report yet: its line in the overview, which reloads itself,
    says how far it is, and links to the report as soon as there is one.

    Args:
        path: Of the request.
        storage: The store.
        artifacts: Where the studies' files are.
    """
    found = re.fullmatch(rf"{REPORT_PATH}(\d{{1,9}})", path)
    if path not in (OVERVIEW_PATH, METRICS_PATH) and not found:
        return None
    try:
        if path == METRICS_PATH:
            metrics = prometheus.render_metrics(storage)
            return OwnPage(status="200 OK", kind=prometheus.MEDIA_TYPE, text=metrics)
        if not found:
            return _html(overview.render_overview(storage, artifacts))
        study_id = int(found[1])
        text = _report(study_id, storage, artifacts)
        return _html(text) if text else _elsewhere(f"{OVERVIEW_PATH}#{overview.element_id(study_id)}")
    except KeyError:
        return OwnPage(status="404 Not Found", text="there is no such study\n")
    except HpoError as error:
        return OwnPage(status="503 Service Unavailable", text=f"{error}\n")


def _html(text: str) -> OwnPage:
    return OwnPage(status="200 OK", kind="text/html", text=text)


def _elsewhere(location: str) -> OwnPage:
    return OwnPage(status="303 See Other", location=location)


def _report(study_id: int, storage: Storage, artifacts: Artifacts) -> str | None:
    """Return a study's report; None if no trial is complete."""
    name = storage.get_study_name_from_id(study_id)
    # It imports Plotly and scikit-learn, which take seconds; the dashboard starts without them.
    from hpo.report import page

    try:
        return page.render_html(page.read_report(storage, name, artifacts))
    except NoCompleteTrial:
        return None
