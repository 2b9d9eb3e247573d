"""A study that was run, and the dashboard that shows it."""

import base64
import threading
from pathlib import Path

from hpo.dashboard import gate
from hpo.dashboard.app import DashboardApp
from hpo.store import rows as store_rows
from hpo.store import studies
from hpo.study.file import load_study_file
from hpo.workers import worker
from tests.support.wsgi import HOST, TOKEN, ask

OWN = """
import pathlib


def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        if config.speed == 4 and pathlib.Path("broken").exists():
            raise RuntimeError("no\\n  <b>```such```</b> luck")
        yield config.speed / 100 + epoch / 10, {"epoch": epoch}
"""

STUDY = """# with ```` in it
[train]
objective = "dashboard_app_objective:climb"
epochs = 2

[search]
sampler = "grid"
"""


def create_and_run(url, artifacts, name, *others):
    """Store a study of three points, with further parameters if given, and run it. The last one fails."""
    text = STUDY
    for n in range(2, 5):
        text += f'[[points]]\nspeed = {n}\nsite = "C_{n}"\n' + "".join(f"{each} = {n}\n" for each in others)
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, load_study_file(write_study_file(name, text)), text)
    run_study(storage, artifacts, name)
    return storage


def write_study_file(name, text):
    path = Path(f"{name}.toml")
    path.write_text(text)
    return path


def run_study(storage, artifacts, name):
    settings = worker.WorkerSettings(
        artifacts=artifacts, data=Path(), device="cpu", shown_as="cpu", lease_seconds=60
    )
    list(worker.run_worker(storage, name, settings, threading.Event()))


def behind_gate(url, artifacts, *, read_only):
    inner = DashboardApp(studies.open_storage(url, create=False, read_only=read_only), artifacts)
    return gate.Gate(inner, token=TOKEN, origin=f"http://{HOST}", read_only=read_only)


def detail(app, study=1):
    answer = ask(app, "GET", f"/api/studies/{study}")
    assert answer.status == 200
    return answer.json()


MUTATIONS = {
    "create": ("POST", "/api/studies", {"study_name": "new", "directions": ["maximize"]}),
    "rename": ("POST", "/api/studies/1/rename", {"study_name": "other"}),
    "delete": ("DELETE", "/api/studies/1", {}),
    "study note": ("PUT", "/api/studies/1/note", {"version": 1, "body": "mine"}),
    "trial note": ("PUT", "/api/studies/1/1/note", {"version": 1, "body": "mine"}),
    "tell": ("POST", "/api/trials/4/tell", {"state": "Complete", "values": [1.0]}),
    "attributes": ("POST", "/api/trials/4/user-attrs", {"user_attrs": {"checked": "yes"}}),
    "preference": (
        "POST",
        "/api/studies/1/preference",
        {"mode": "ChooseWorst", "candidates": [0, 1], "clicked": 0},
    ),
    "preference component": (
        "PUT",
        "/api/studies/1/preference_feedback_component",
        {"output_type": "note"},
    ),
    "trial artifact": (
        "POST",
        "/api/artifacts/1/4",
        {"file": f"data:text/html;base64,{base64.b64encode(b'<script>').decode()}", "filename": "a.html"},
    ),
    "study artifact": (
        "POST",
        "/api/artifacts/1",
        {"file": f"data:text/html;base64,{base64.b64encode(b'<script>').decode()}", "filename": "a.html"},
    ),
    "schema upgrade": ("POST", "/incompatible-rdb-schema", {}),
}


def set_attributes(url, study_id=1, trial=None, system=False, **given):
    """Write attributes as any other tool may."""
    storage = studies.open_storage(url, create=False)
    for key, value in given.items():
        if trial is None:
            storage.set_study_user_attr(study_id, key, value)
        else:
            models = storage.get_all_trials(study_id)
            with storage.transaction() as session:
                store_rows.write_attributes(session, models[trial]._trial_id, {key: value}, system=system)
