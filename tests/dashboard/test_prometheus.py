"""/metrics: what Prometheus reads, and the Grafana dashboard that queries it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hpo.store import control, plan, queue, studies, waiting_workers
from hpo.store.process import current_owner
from hpo.study.file import load_study_file
from tests.support.dashboard_study import STUDY, behind_gate, write_study_file
from tests.support.workplace import ROOT
from tests.support.wsgi import TOKEN, ask

GRAFANA = ROOT / "storage/grafana.json"


def scrape(app: Any) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what a scrape finds: the value of each sample by its name and the values of its labels,
    these by their names, the last one first.
    """
    answer = ask(app, "GET", "/metrics", HTTP_COOKIE="", HTTP_AUTHORIZATION=f"Bearer {TOKEN}")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items(), reverse=True))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.fixture
def busy(url, storage, artifacts):
    """Return the dashboard of a store with a complete study, and one that has a worker with a trial."""
    file = write_study_file("new", f"{STUDY}[[points]]\nspeed = 9\n[[points]]\nspeed = 8")
    studies.create_study(storage, load_study_file(file), "")
    study_id, owner = studies.find_study_id(storage, "new"), current_owner("cpu")
    queue.claim_trial(storage, study_id, owner, lease_seconds=60, max_attempts=1).commit(report=(1, 0.5))
    waiting_workers.Presence(storage, study_id, owner, 60.0).renew()
    control.set_order(storage, "new", plan.ORDER_PAUSED)
    return behind_gate(url, artifacts, read_only=True)


def test_a_scrape_counts_what_the_studies_have(busy, rows):
    before = rows()
    found = scrape(busy)
    assert {key[1]: value for key, value in found["hpo_trials"].items() if key[0] == "small"} == {
        "complete": 2.0,
        "failed": 1.0,
        "pruned": 0.0,
        "running": 0.0,
        "waiting": 0.0,
    }
    assert found["hpo_reports_total"] == {("new",): 1.0, ("small",): 4.0}
    assert found["hpo_attempts_total"] == {("small", "complete"): 2.0, ("small", "failed"): 1.0}
    assert found["hpo_retries_total"] == {("new",): 0.0, ("small",): 0.0}
    assert found["hpo_best_value"] == {("small", "accuracy"): 0.23}
    assert found["hpo_workers"][("new", "training")] == 1.0
    assert found["hpo_study_order"][("new", "paused")] == 1.0
    assert found["hpo_study_order"][("small", "paused")] == 0.0
    for name in ("hpo_lease_age_seconds", "hpo_report_age_seconds"):
        ((labels, age),) = found[name].items()
        assert labels == (current_owner("cpu").name, "new", "cpu")
        assert 0 <= age < 60
    assert rows() == before


@pytest.mark.parametrize("header", ["", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer"])
def test_a_scrape_needs_the_token(read_only_app, header):
    answer = ask(read_only_app, "GET", "/metrics", HTTP_COOKIE="", HTTP_AUTHORIZATION=header)
    assert answer.status == 401


def test_a_name_cannot_add_a_line(url, storage, artifacts, sql):
    sql("UPDATE studies SET study_name = :name", name='a"} 1\nhpo_fake 2\\')
    found = scrape(behind_gate(url, artifacts, read_only=True))
    assert found["hpo_reports_total"] == {('a"} 1\nhpo_fake 2\\',): 4.0}
    assert "hpo_fake" not in found


def queries(node: Any) -> Iterator[str]:
    """Yield every query of a Grafana dashboard, wherever it stands."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key in ("expr", "definition"))
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from queries(each)


def test_every_metric_and_label_of_the_grafana_dashboard_is_there(busy):
    answer = ask(busy, "GET", "/metrics", HTTP_AUTHORIZATION=f"Bearer {TOKEN}").body.decode()
    labels = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(answer)
        for sample in family.samples
    }
    asked = set()
    for query in queries(json.loads(GRAFANA.read_text())):
        selectors = re.findall(r"\b(hpo_\w+)(?:\{([^}]*)\})?", query)
        assert selectors, query
        for name, matchers in selectors:
            assert name in labels, query
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= labels[name], query
            asked.add(name)
        assert query.count("(") == query.count(")"), query
    assert asked == set(labels), "the dashboard shows every metric"
