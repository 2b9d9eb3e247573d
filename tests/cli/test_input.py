"""Arguments that no store can hold, and long ones: one short line each."""

import pytest

from hpo.errors import MESSAGE_LENGTH, HpoError, join_names
from hpo.store import rows, status, studies
from tests.support import lease_worker, two_trials

STUDY, OWN = two_trials.STUDY, two_trials.OWN
BYTE = "caf\udce9"  # the byte E9 in an argument, as Python hands it over
LONG = "a" * 100_000


@pytest.mark.parametrize(
    "words",
    [
        ("status", BYTE),
        ("create", "small.toml", "--name", BYTE),
        ("create", "small.toml", "--set", f"train.kind={BYTE}"),
        ("status", "small", "--store", f"sqlite:///{BYTE}.db"),
        ("worker", "small", "--artifacts", BYTE),
        ("worker", "small", "--data", BYTE),
        ("report", "small", "-o", BYTE),
    ],
)
def test_an_argument_that_is_not_utf8_is_refused_in_one_line(place, words):
    place.study(STUDY)
    err = place.here(*words, code=1).err
    assert err.startswith("hpo: argument ")
    assert err.endswith("want UTF-8; rename what it names\n")
    assert err.count("\n") == 1
    assert sorted(each.name for each in place.path.iterdir()) == ["own.py", "small.toml"]


def test_a_setting_that_is_not_utf8_is_refused_in_one_line(workplace):
    err = workplace.here("studies", code=1, HPO_STORE=f"sqlite:///{BYTE}.db").err
    assert err.startswith("hpo: HPO_STORE 'sqlite:///caf")


@pytest.mark.parametrize(
    "words",
    [
        ("create", "small.toml", "--set", LONG),
        ("create", "small.toml", "--set", f"{LONG}=1"),
        ("create", "small.toml", "--set", f"train.epochs={LONG}"),
        ("create", "small.toml", "--set", f"search.sampler={LONG}"),
        ("create", "small.toml", "--set", "train.epochs=1", "--set", f"train.epochs.x={LONG}"),
        ("create", "small.toml", "--name", LONG),
        ("create", LONG),
        ("status", LONG),
        ("status", "small", "--store", LONG),
        ("status", "small", "--store", f"sqlite:///{LONG}"),
        ("enqueue", "small", LONG),
        ("enqueue", "small", f"x={LONG}"),
        ("predict", LONG, LONG),
        ("simulate", "--curves", LONG),
        ("dashboard", "--host", LONG),
    ],
)
def test_a_long_argument_is_shortened_in_its_message(place, words):
    place.here("create", place.study(STUDY))
    err = place.here(*words, code=1).err
    assert err.count("\n") == 1
    assert len(err) <= MESSAGE_LENGTH + len("hpo: \n")


@pytest.mark.parametrize(
    "words",
    [
        (LONG,),
        (f"--{LONG}",),
        ("studies", f"--{LONG}"),
        ("studies", LONG),
        ("launch", "small", "--engine", LONG),
        ("launch", "small", "--data", f"~{LONG}"),
    ],
)
def test_a_long_word_is_shortened_where_typer_refuses_it(workplace, words):
    err = workplace.here(*words, code=2).err
    assert "..." in err
    assert len(err) < 2000


def test_a_long_message_keeps_its_beginning_and_its_end():
    text = str(HpoError(f"where: {LONG}; what to do"))
    assert text.startswith("where: aaa")
    assert text.endswith("aaa; what to do")
    assert len(text) == MESSAGE_LENGTH


def test_names_are_joined_up_to_a_number():
    assert join_names(["a", "b", "c"]) == "a, b, c"
    assert join_names(map(str, range(2000)), 2) == "0, 1 and 1998 more"


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
def test_a_deadline_beyond_the_calendar_is_refused_in_one_line(place, moment):
    file = place.study(STUDY)
    for words in ((file, "--set", f"search.deadline={moment}"), ("dated.toml",)):
        (place.path / "dated.toml").write_text(f"{STUDY}deadline = {moment}\n")
        err = place.here("create", *words, code=1).err
        assert "search.deadline: want a date and time such as 2030-01-31T18:00:00Z" in err
        assert err.count("\n") == 1


def test_trials_are_read_as_optuna_reads_them(url):
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, lease_worker.definition(2, {"lr": 0.5}), "text")
    study_id = studies.find_study_id(storage, lease_worker.NAME)
    claim = lease_worker.claim_next(storage, study_id)
    claim.commit(report=(1, 0.25), user_attributes={"epochs": 1})
    with storage.transaction() as session:
        assert rows.read_study(session, study_id) == storage.get_all_trials(study_id)
    assert [trial.number for trial in status.read_trials(storage, lease_worker.NAME)] == [0, 1, 2]
    assert status.count_waiting(storage, lease_worker.NAME) == 2
