"""Our own pages beside optuna-dashboard: an overview of all studies, and each study's report."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hpo.artifacts.folders import Artifacts
from hpo.dashboard import overview
from hpo.dashboard.gate import OVERVIEW_PATH, REPORT_PATH, Environ, Start
from hpo.errors import HpoError
from hpo.store.storage import Storage


@dataclass(frozen=True, kw_only=True)
class OwnPage:
    """A response: a page, or one line of text that says why there is none."""

    status: str
    kind: str  # its media type
    text: str

    def respond(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Send the response, as WSGI has it; to HEAD without its body."""
        body = self.text.encode()
        headers = [("Content-Type", f"{self.kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
        start(self.status, headers)
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

    Args:
        path: Of the request.
        storage: The store.
        artifacts: Where the studies' files are.
    """
    found = re.fullmatch(rf"{REPORT_PATH}(\d{{1,9}})", path)
    if path != OVERVIEW_PATH and not found:
        return None
    try:
        text = _report(int(found[1]), storage, artifacts) if found else overview.render_overview(storage)
        return OwnPage(status="200 OK", kind="text/html", text=text)
    except KeyError:
        return OwnPage(status="404 Not Found", kind="text/plain", text="there is no such study\n")
    except HpoError as error:
        return OwnPage(status="503 Service Unavailable", kind="text/plain", text=f"{error}\n")


def _report(study_id: int, storage: Storage, artifacts: Artifacts) -> str:
    # It imports Plotly and scikit-learn, which take seconds; the dashboard starts without them.
    from hpo.report import page

    name = storage.get_study_name_from_id(study_id)
    return page.render_html(page.read_report(storage, name, artifacts))
