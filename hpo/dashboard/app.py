"""optuna-dashboard on a store, extended by notes and files that it does not know about.

Its page gets a style sheet of ours (``page_style``). Notes and files of trials are added to its
responses on the way out. Nothing is written to the store for them, so they exist for every study, are
never out of date, and cost workers nothing. A note that a user has written is shown instead of ours.
The routes are optuna-dashboard's. This module depends on their paths and on the field names in their
responses; ``tests/dashboard/test_app.py`` checks that contract.
"""

import contextlib
import functools
import mimetypes
import threading
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import bottle
import optuna_dashboard
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import _importance
from optuna_dashboard._bottle_util import json_api_view

from hpo.analysis import importance, records, results
from hpo.artifacts.folders import Artifacts, file_name
from hpo.artifacts.optuna_store import FolderArtifactStore
from hpo.dashboard import changes, notes, page_style, pages
from hpo.dashboard.checked_storage import CheckedStorage
from hpo.dashboard.gate import App, Environ, Start, request_path
from hpo.errors import DefinitionError, HpoError
from hpo.store import attachments, fingerprint, folders, lease_info, plan
from hpo.store.attempts import Attempt, read_attempts
from hpo.store.attributes import check_trial, is_text
from hpo.store.storage import Storage
from hpo.study.definition import Definition, load_definition
from hpo.training import option_tables

View = Callable[..., Any]


class DashboardApp:
    """A WSGI application: optuna-dashboard on a store, rebuilt when its cache is outdated.

    optuna-dashboard caches ended trials for good. It would show outdated trials after ``hpo retry``, after
    a study was extended, or after one was deleted and SQLite gave its ids to a new study. So each request,
    but for the dashboard's own static files, first compares each study's fingerprint with the last one, and
    rebuilds the application if one differs.

    Args:
        storage: The store. If it is read-only, so are the artifacts; ``gate`` refuses requests to change
            anything.
        artifacts: The artifacts of the studies.
    """

    def __init__(self, storage: Storage, artifacts: Artifacts) -> None:
        self.storage = storage
        self.artifacts = artifacts
        self.artifact_store = FolderArtifactStore(artifacts, read_only=storage.read_only)
        self._lock = threading.Lock()
        self._fingerprints: dict[int, Any] = {}
        # Optuna warns of conditional parameters at each look; our note says what to doubt about importance.
        warnings.filterwarnings("ignore", "Some regimes for parameter")
        self._app: App = self._make_app()

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Respond to a request: with one of our own pages, or as optuna-dashboard does.

        Raises:
            StoreUnavailable: The store is unavailable when the fingerprints are read.
            StoreError: The store refuses that request.
        """
        if (page := pages.find_page(request_path(environ), self.storage, self.artifacts)) is not None:
            return page.respond(environ, start)
        if not environ.get("PATH_INFO", "").startswith(("/static/", "/favicon")):
            with self._lock:
                fingerprints = fingerprint.read_fingerprints(self.storage)
                if not self._fingerprints.items() <= fingerprints.items():
                    self._app = self._make_app()
                self._fingerprints = fingerprints
        return self._app(environ, start)

    def _make_app(self) -> App:
        _importance.param_importance_cache.clear()  # else it shows importances from before
        cached_storage = CheckedStorage(self.storage)
        app: Any = optuna_dashboard.wsgi(cached_storage, artifact_store=self.artifact_store)
        app.install(_HpoPlugin(self.storage, cached_storage, self.artifact_store))
        made: App = app
        return made


class _HpoPlugin:
    """A plugin for bottle, the framework of optuna-dashboard, that wraps its views."""

    name = "hpo"
    api = 2

    def __init__(
        self, storage: Storage, cached_storage: CheckedStorage, artifact_store: FolderArtifactStore
    ) -> None:
        self.storage = storage
        self.cached_storage = cached_storage
        self.artifact_store = artifact_store
        study = "/api/studies/<study_id:int>"
        file = "<artifact_id:re:[0-9a-fA-F-]+>"
        self.views: dict[tuple[str, str], View] = {
            ("GET", "/dashboard<:re:(/.*)?>"): self.page,
            ("GET", study): self.detail,
            ("DELETE", study): self.delete,
            ("DELETE", f"/api/artifacts/<study_id:int>/{file}"): self.remove_file,
            ("DELETE", f"/api/artifacts/<study_id:int>/<trial_id:int>/{file}"): self.remove_file,
            ("GET", f"/artifacts/<study_id:int>/{file}"): self.download,
            ("GET", f"/artifacts/<study_id:int>/<trial_id:int>/{file}"): self.download,
        }

    def apply(self, callback: View, route: Any) -> View:
        """Return the view that bottle calls for a route.

        Args:
            callback: The view of optuna-dashboard.
            route: The route, with its method and rule.

        Returns:
            The callback, or a view of this plugin that wraps it, behind the checks of the request.
        """
        plain = getattr(
            callback, "__wrapped__", None
        )  # what json_api_view would answer with 500 is below it
        if plain is not None:
            callback = json_api_view(_explain_errors(plain))
        view = self.views.get((route.method, route.rule))
        inner = callback if view is None else functools.partial(view, callback)
        return _explain_errors(functools.partial(self.check, inner, route))

    def check(self, callback: View, route: Any, /, **arguments: Any) -> Any:
        """Refuse a change that is not allowed, and any request for what does not exist; else call the view.

        Args:
            callback: The view.
            route: Its route.
            arguments: What the route found in the path.
        """
        if any(isinstance(each, int) and not 0 <= each < 2**31 for each in arguments.values()):
            return _refuse(404, "there is no such study or trial")
        if refused := changes.refusal(route.method, route.rule):
            return _refuse(*refused)
        if "study_id" in arguments and not self._exists(**arguments):
            return _refuse(404, "there is no such study or trial")
        return callback(**arguments)

    def _exists(self, *, study_id: int, trial_id: int | None = None, **_: Any) -> bool:
        find = self.storage.get_trial_id_from_study_id_trial_number
        try:
            self.storage.get_study_name_from_id(study_id)
            return trial_id is None or find(study_id, self.storage.get_trial(trial_id).number) == trial_id
        except KeyError:
            return False

    def page(self, callback: View) -> Any:
        """Respond with the page that all of the dashboard's addresses have, in our style.

        Args:
            callback: The view of optuna-dashboard.
        """
        response = callback()
        if bottle.request.method == "GET" and response.status_code == 200:
            with response.body as file:
                html = file.read().decode()
            body = page_style.add_style(html, read_only=self.storage.read_only).encode()
            response.body = [body]
            response.headers["Content-Length"] = str(len(body))
        return response

    def detail(self, callback: View, study_id: int) -> Any:
        """Add notes and files to the response about a study, except a note that a user has written.

        Values get four digits; those of a custom objective stay, since their scale is not known.
        The response stays as it is for a study of another tool or of another version of hpo.

        Args:
            callback: The view of optuna-dashboard.
            study_id: The study's id in the database.
        """
        document = callback(study_id=study_id)
        definition = self._definition(study_id)
        if definition is None or "trials" not in document:  # a study of another tool, or none
            return document
        folder = folders.stored_folder(self.storage, study_id)
        trials = {
            each._trial_id: check_trial(each, folder)
            for each in self.cached_storage.get_all_trials(study_id, deepcopy=False)
        }
        text = self.cached_storage.get_study_system_attrs(study_id).get("hpo:file", "")
        found = records.trial_records(definition, trials.values())
        best = results.best_setting(definition, found)
        doubt = importance.explain_doubt(
            importance.complete_settings(
                list(trials.values()), definition.objectives.index(definition.metric)
            ),
            maximize=not definition.metric.is_minimized,
        )
        links = pages.links(study_id, has_report=best is not None)
        _set_note(document, notes.study_note(definition, text if is_text(text) else "", best, doubt, links))
        attempts: dict[int, list[Attempt]] = defaultdict(list)
        for attempt in read_attempts(self.storage, study_id):
            attempts[attempt.trial].append(attempt)
        for shown in (*document["trials"], *document["best_trials"]):
            if definition.option_table is not option_tables.CUSTOM_OPTIONS:
                _shorten_values(shown)
            if trial := trials.get(shown["trial_id"]):
                _set_note(shown, notes.trial_note(trial, definition, attempts[trial.number]))
                shown["artifacts"] += [_artifact_entry(name) for name in notes.trial_files(trial, folder)]
        return document

    def download(self, callback: View, study_id: int, artifact_id: str, trial_id: int | None = None) -> Any:
        """Respond with a file of a trial, or with an artifact that a user uploaded.

        Args:
            callback: The view of optuna-dashboard, which knows the uploaded artifacts.
            study_id: The study's id in the database.
            artifact_id: The id of the file or artifact.
            trial_id: The trial's id in the database; None for an artifact of the study.

        Raises:
            bottle.HTTPError: There is no such file (404).
        """
        try:
            if trial_id is not None and self._is_ours(study_id):
                folder = folders.stored_folder(self.storage, study_id)
                trial = check_trial(self.cached_storage.get_trial(trial_id), folder)
                for name in notes.trial_files(trial, folder):
                    if artifact_id == _artifact_id(name):
                        return _file_response(name, self.artifact_store)
            given = {} if trial_id is None else {"trial_id": trial_id}
            return callback(study_id=study_id, artifact_id=artifact_id, **given)
        except (ArtifactNotFound, KeyError):
            raise bottle.HTTPError(404, "no such file; the trial may not have written it") from None

    def remove_file(
        self, callback: View, study_id: int, artifact_id: str, trial_id: int | None = None
    ) -> Any:
        """Remove a file that a user attached, unless another study has it too (409), as a copy does.

        Args:
            callback: The view of optuna-dashboard; of a trial that has ended it would keep the record.
            study_id: The study's id in the database.
            artifact_id: The id of the file.
            trial_id: The trial's id in the database; None for a file of the study.

        Raises:
            StoreError: The record cannot be removed.
        """
        attached = attachments.attached_files(self.storage)
        if artifact_id not in attached.pop(study_id, set()):
            return _refuse(404, "no such file")
        if any(artifact_id in each for each in attached.values()):
            return _refuse(409, "the file is attached to another study, too")
        try:
            self.artifact_store.remove(artifact_id)
        except ArtifactNotFound:
            return _refuse(404, "no such file")
        attachments.forget_file(self.storage, study_id, trial_id, artifact_id)
        self.cached_storage.forget_trials()
        bottle.response.status = 204
        return {}

    def delete(self, callback: View, study_id: int) -> Any:
        """Delete a study as ``hpo delete`` does: with its files, and not while it has workers (409).

        So are the files that users attached to it. Files stay if the request says so, or if another study
        names the same folder or has the same file attached.

        Args:
            callback: The view of optuna-dashboard; it would also remove files that other studies have.
            study_id: The study's id in the database.

        Raises:
            StoreError: The store cannot be read.
            ArtifactError: The files behind a URL cannot be deleted; the study is gone then.
            OSError: The same in a local folder.
        """
        if any(worker.is_alive for worker in lease_info.read_leases(self.storage, study_id)):
            return _refuse(409, "the study has workers; stop them first")
        folder = folders.stored_folder(self.storage, study_id) if self._is_ours(study_id) else None
        name = self.cached_storage.get_study_name_from_id(study_id)
        attached = attachments.attached_files(self.storage).get(study_id, set())
        self.cached_storage.delete_study(study_id)
        if (bottle.request.json or {}).get("remove_associated_artifacts", True):
            folders.delete_unused_folder(self.storage, name, folder, self.artifact_store.artifacts)
            kept = set().union(*attachments.attached_files(self.storage).values())
            for artifact_id in attached - kept:
                with contextlib.suppress(ArtifactNotFound):
                    self.artifact_store.remove(artifact_id)
        bottle.response.status = 204
        return {}

    def _is_ours(self, study_id: int) -> bool:
        try:
            return plan.DEFINITION in self.cached_storage.get_study_system_attrs(study_id)
        except KeyError:  # there is no such study
            return False

    def _definition(self, study_id: int) -> Definition | None:
        """Return the definition of a study; None for another tool's, or one of a newer version of hpo."""
        try:
            text = self.cached_storage.get_study_system_attrs(study_id).get(plan.DEFINITION)
            return None if text is None else load_definition(text)
        except (KeyError, DefinitionError):
            return None


def _explain_errors(view: View) -> View:
    """Return a view that answers with 503 and the reason if the store or the artifacts refuse."""

    def explained(**arguments: Any) -> Any:
        try:
            return view(**arguments)
        except HpoError as error:
            return _refuse(503, str(error))
        except OSError as error:
            return _refuse(503, f"{error.filename or 'artifacts'}: {error.strerror or error}")

    return explained


def _set_note(shown: dict[str, Any], body: str) -> None:
    """Set the note of a study or trial, unless a user has written one."""
    if not shown["note"]["version"]:
        shown["note"] = {"version": 0, "body": body}


def _shorten_values(shown: dict[str, Any]) -> None:
    """Give the values of a trial four digits, except large numbers such as a count of parameters."""

    def shorten(value: Any) -> Any:
        is_long = isinstance(value, float) and abs(value) < 1000
        return float(f"{value:.4g}") if is_long else value

    if "values" in shown:
        shown["values"] = [shorten(value) for value in shown["values"]]
    for each in shown["intermediate_values"]:
        each["value"] = shorten(each["value"])


def _artifact_id(name: str) -> str:
    """Return the id of a trial's file, in the form that optuna-dashboard's artifact routes expect."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _artifact_entry(name: str) -> dict[str, Any]:
    """Return a trial's file in the form in which optuna-dashboard lists artifacts."""
    file = file_name(name)
    kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
    return {"artifact_id": _artifact_id(name), "filename": file, "mimetype": kind, "encoding": None}


def _file_response(name: str, artifact_store: FolderArtifactStore) -> bottle.HTTPResponse:
    entry = _artifact_entry(name)
    disposition = f'attachment; filename="{entry["filename"]}"'
    headers = {"Content-Type": entry["mimetype"], "Content-Disposition": disposition}
    return bottle.HTTPResponse(artifact_store.open(name), headers=headers)


def _refuse(status: int, reason: str) -> dict[str, str]:
    bottle.response.status = status
    return {"reason": reason}
