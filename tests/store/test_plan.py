"""The plan of a study in the store: a trial for each point, with its attributes."""

import optuna
import pytest

from hpo.analysis import documents, records
from hpo.store import plan, status, studies
from hpo.study import file
from hpo.study.definition import Definition, Point, dump_definition
from tests.support.databases import closed_engines

POINTS = """
[train]
dataset = "digits"
weights = "none"
[search]
sampler = "grid"
[[points]]
lr = 0.1
site = "C"
[[points]]
lr = 0.1
[points.attributes]
room = 3
dark = true
[[points]]
lr = 0.2
"""


@pytest.fixture(autouse=True)
def _closed():
    with closed_engines():
        yield


def read(folder, text: str) -> Definition:
    path = folder / "rooms.toml"
    path.write_text(text)
    return file.load_study_file(path)


def attributes(url: str) -> list[dict]:
    """Return the user attributes of the study's trials, as plain Optuna reads them."""
    return [trial.user_attrs for trial in optuna.load_study(study_name="rooms", storage=url).trials]


def test_the_attributes_of_a_point_are_user_attributes_of_its_trial(url, tmp_path):
    storage = studies.open_storage(url, create=True)
    definition = read(tmp_path, POINTS)
    studies.create_study(storage, definition, POINTS)
    expected = [{"point": 1, "site": "C"}, {"point": 2, "room": 3, "dark": True}, {"point": 3}]
    assert attributes(url) == expected
    studies.enqueue_setting(storage, "rooms", Point(setting={"lr": 0.3}, attributes={"room": 4}))
    assert attributes(url) == [*expected, {"enqueued": True, "room": 4}]
    found = studies.read_definition(storage, "rooms")
    trials = status.read_trials(storage, "rooms")
    rows = records.trial_records(found, trials)
    table = documents.trials_csv(trials, rows, found.attribute_names).splitlines()
    assert table[0].endswith(",attempts,point,site,room,dark,best_value,images,baseline,start,end")
    assert [row.split(",")[-9:-5] for row in table[1:]] == [
        ["1", "C", "", ""],
        ["2", "", "3", "True"],
        ["3", "", "", ""],
        ["", "", "4", ""],
    ]


def test_a_study_stored_before_points_had_attributes_is_extended_by_its_file(url, tmp_path):
    storage = studies.open_storage(url, create=True)
    text = POINTS.replace("[points.attributes]\nroom = 3\ndark = true\n", "")
    definition = read(tmp_path, text)
    studies.create_study(storage, definition, text)
    stored = dump_definition(definition)
    old = stored.replace('"attributes":{"site":"C"}', '"site":"C"').replace(
        '"attributes":{}', '"site":null'
    )
    assert old.count('"site":') == 3
    study_id = studies.find_study_id(storage, "rooms")
    storage.set_study_system_attr(study_id, plan.DEFINITION, old)
    before = attributes(url)
    assert studies.read_definition(storage, "rooms") == definition
    assert studies.create_study(storage, definition, text) == studies.Stored.KEPT
    assert attributes(url) == before == [{"point": 1, "site": "C"}, {"point": 2}, {"point": 3}]
    more = read(tmp_path, f"{text}[[points]]\nlr = 0.2\nattributes = {{ site = 'L' }}\n")
    assert studies.create_study(storage, more, text) == studies.Stored.EXTENDED
    assert attributes(url)[-1] == {"point": 4, "site": "L"}
