"""Our own pages beside optuna-dashboard: the overview of all studies, and reports."""

import re

import pytest

from hpo.store import control, plan, studies
from hpo.study.file import load_study_file
from tests.support.dashboard_study import STUDY, behind_gate, create_and_run, detail, write_study_file
from tests.support.wsgi import ask

HOSTILE = "<script>window.hacked = 1</script>"


def create_new(storage) -> None:
    """Store a study of one point, and run nothing."""
    file = write_study_file("new", f"{STUDY}[[points]]\nspeed = 9")
    studies.create_study(storage, load_study_file(file), "")


def overview(app) -> str:
    answer = ask(app, "GET", "/overview")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    return answer.body.decode()


def test_the_overview_tells_state_progress_and_best_value_of_each_study(url, storage, artifacts, rows):
    create_and_run(url, artifacts, "another")
    control.set_order(storage, "another", plan.ORDER_STOPPED)
    create_new(storage)
    before, page = rows(), overview(behind_gate(url, artifacts, read_only=True))
    assert re.findall('<h2><a href="/dashboard/studies/([0-9])">([a-z]+)</a></h2>', page) == [
        *(("3", "new"), ("2", "another"), ("1", "small"))
    ]
    new, another, small = page.split("<article ")[1:]
    assert "idle</span> 0 of 1 trials ended" in new
    assert "no trial is complete yet" in new
    assert "/report/" not in new
    for each, number in ((another, 2), (small, 1)):
        assert "complete</span> 3 of 3 trials ended" in each
        assert "2 complete, 1 failed" in each
        assert "accuracy 0.2300" in each
        assert "speed 3" in each
        assert f'href="/report/{number}"' in each
    assert rows() == before


def test_the_report_of_a_study_opens_from_its_note(read_only_app, rows):
    before = rows()
    links = re.findall(r"\]\((/[^)]*)\)", detail(read_only_app)["note"]["body"])
    assert links == ["/overview", "/report/1"]
    answer = ask(read_only_app, "GET", links[1])
    assert answer.status == 200
    assert b"<title>small: report</title>" in answer.body
    assert "sandbox allow-scripts" in answer.headers["content-security-policy"]
    assert "allow-same-origin" not in answer.headers["content-security-policy"]
    head = ask(read_only_app, "HEAD", links[1])
    assert (head.status, head.body) == (200, b"")
    assert rows() == before


@pytest.mark.parametrize("path", ["/overview", "/report/1"])
def test_our_pages_need_the_token(read_only_app, path):
    assert ask(read_only_app, "GET", path, HTTP_COOKIE="").status == 401


@pytest.mark.parametrize("path", ["/report/9", "/report/x", "/report/", "/overview/", "/report/1/2"])
def test_a_page_that_does_not_exist_is_not_found(read_only_app, path):
    assert ask(read_only_app, "GET", path).status == 404


def test_instead_of_a_report_without_a_complete_trial_the_overview_says_how_far_the_study_is(
    url, storage, artifacts
):
    create_new(storage)
    app = behind_gate(url, artifacts, read_only=True)
    answer = ask(app, "GET", "/report/2")
    path, _, place = answer.headers["location"].partition("#")
    assert (answer.status, path) == (303, "/overview")
    (line,) = (each for each in overview(app).split("<article ") if each.startswith(f'id="{place}"'))
    assert "/dashboard/studies/2" in line
    assert "no trial is complete yet" in line


def test_names_and_problems_stay_text(url, storage, artifacts, sql):
    sql(f"UPDATE studies SET study_name = '{HOSTILE}' WHERE study_id = 1")
    create_and_run(url, artifacts, "broken")
    sql(
        "UPDATE study_system_attributes SET value_json = '\"{<b>\"' "
        f"WHERE study_id = 2 AND key = '{plan.DEFINITION}'"
    )
    page = overview(behind_gate(url, artifacts, read_only=True))
    assert "<script" not in page
    assert "&lt;script&gt;window.hacked" in page
    assert "unreadable</span>" in page
    assert "<b>" not in page


def test_an_empty_store_says_how_to_make_a_study(url, artifacts):
    studies.open_storage(url, create=True)
    assert "hpo run quickstart" in overview(behind_gate(url, artifacts, read_only=True))
