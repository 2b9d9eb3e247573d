"""What a browser shows of optuna-dashboard's page: no control that is refused, and all of it at 400 px."""

import pytest

from hpo.artifacts.folders import Artifacts
from tests.support.dashboard_server import SCREENSHOTS, serving
from tests.support.dashboard_study import behind_gate
from tests.support.databases import closed_engines
from tests.support.workplace import artifact
from tests.support.wsgi import ask

OWN = """
def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        yield epoch / (3 + config.lr), {"epoch": epoch}
"""
STUDY = """
[train]
objective = "own:climb"
epochs = 2

[search]
sampler = "grid"

[[points]]
lr = 0.1

[[points]]
lr = 0.2
"""
PATHS = {
    "studies": "/dashboard",
    "history": "/dashboard/studies/1",
    "analytics": "/dashboard/studies/1/analytics",
    "trials": "/dashboard/studies/1/trials",
    "comparison": "/dashboard/compare-studies",
    "note": "/dashboard/studies/1/note",
    "overview": "/overview",
}
# By page: controls that change something, and whether a dashboard with --read-write accepts that.
CONTROLS = {
    "studies": {
        'button:has-text("Create")': False,
        '[aria-label="rename study"]': False,
        '[aria-label="delete study"]': True,
    },
    "history": {
        'button:has-text("Upload a New File")': True,
        '[aria-label="delete artifact"]': True,
    },
    "trials": {'button:has([data-testid="EditIcon"])': True},
    "note": {'button:has([data-testid="EditIcon"])': True},
}
FILE = {"file": "data:text/plain;base64,aGVsbG8=", "filename": "a.txt"}


@pytest.fixture
def store(place):
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    with closed_engines():
        url, artifacts = f"sqlite:///{place.path}/storage/hpo.db", Artifacts(str(artifact(place, "")))
        app = behind_gate(url, artifacts, read_only=False)
        assert ask(app, "POST", "/api/artifacts/1", FILE).status == 201
    return place


def open_page(page, base, name):
    page.goto(base + PATHS[name])
    page.wait_for_load_state("networkidle")
    page.get_by_text("small").first.wait_for()


@pytest.mark.parametrize("arguments", [(), ("--read-write",)], ids=["read-only", "read-write"])
def test_only_controls_that_work_are_shown(store, chromium, arguments):
    with serving(store, *arguments) as (_, link):
        page, base = chromium.new_page(viewport={"width": 1400, "height": 1000}), link.partition("/?")[0]
        page.goto(link)
        for name, controls in CONTROLS.items():
            open_page(page, base, name)
            for control, is_accepted in controls.items():
                found = page.locator(control)
                found.first.wait_for(state="attached")
                shown = any(each.is_visible() for each in found.all())
                assert shown == (is_accepted and bool(arguments)), (name, control)


def test_every_page_fits_a_telephone(store, chromium):
    SCREENSHOTS.mkdir(exist_ok=True)
    with serving(store) as (_, link):
        page, base = chromium.new_page(viewport={"width": 400, "height": 900}), link.partition("/?")[0]
        page.goto(link)
        for name in PATHS:
            open_page(page, base, name)
            page.screenshot(path=SCREENSHOTS / f"narrow-{name}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
            outside = page.evaluate(
                "[...document.querySelectorAll('main .MuiCard-root, main button, main input, article')]"
                ".filter(each => each.getBoundingClientRect().right > 401).map(each => each.outerHTML)"
            )
            assert outside == [], name
