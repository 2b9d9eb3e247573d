"""``hpo.create``: from a file, from a dict and by name, with the checks of the command."""

import copy
import sys
import tomllib

import pytest

import hpo
from hpo.store import studies
from tests.support.api_study import NAME, STUDY
from tests.support.databases import closed_engines

FILE = (
    '[train]\ndataset = "digits"\nimage_size = 32\nweights = "none"\nepochs = 2\n[space]\nlr = [0.1, 0.2]\n'
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("HPO_STORE", "HPO_ARTIFACTS", "HPO_DATA"):
        monkeypatch.delenv(name, raising=False)
    with closed_engines():
        yield tmp_path


def train_of(study):
    return studies.read_definition(study.storage, study.name).train


def test_a_file_a_path_and_a_dict_make_the_same_study(here):
    (here / "mine.toml").write_text(FILE)
    made = [
        hpo.create("mine.toml"),
        hpo.create(here / "mine.toml", "other"),
        hpo.create(tomllib.loads(FILE), "third"),
    ]
    assert [each.name for each in made] == ["mine", "other", "third"]
    found = [studies.read_definition(each.storage, each.name) for each in made]
    assert found[0].model_copy(update={"name": ""}) == found[1].model_copy(update={"name": ""})
    assert found[0].model_copy(update={"name": ""}) == found[2].model_copy(update={"name": ""})
    assert (here / "storage/hpo.db").exists()


def test_overrides_fix_options_as_set_does(here):
    study = hpo.create("quickstart", "q", {"train.epochs": 5, "train.lr": 0.5, "search.trials": 2})
    found = studies.read_definition(study.storage, "q")
    assert (found.train["epochs"], found.train["lr"], found.search.trials) == (5, 0.5, 2)
    assert "lr" not in [each.name for each in found.space]


def test_the_same_call_finds_the_study_and_more_trials_extend_it(study, url):
    again = hpo.create(STUDY, store=url)
    assert len(again.trials()) == 4
    again = hpo.create(STUDY, overrides={"search.trials": 6}, store=url)
    assert len(study.trials()) == 6


def test_another_study_replaces_one_that_has_not_begun(study, url, capsys):
    hpo.create(STUDY, overrides={"train.epochs": 2}, store=url)
    assert train_of(study)["epochs"] == 2
    assert "it is replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"epochs": "two"}}, "the dict: train.epochs: "),
        ({"train": {"epoch": 2}}, "the dict: train.epoch is not an option"),
        ({"serach": {}}, "the dict: serach is not an option; did you mean 'search'?"),
        ({"name": None}, "the dict: name: want a number, a string, true or false, a list or a dict, "),
        ({"train": {"epochs": object}}, "the dict: train.epochs: want a number, a string"),
    ],
)
def test_a_wrong_dict_is_refused_in_one_line(here, change, message):
    document = {**tomllib.loads(FILE), "name": "mine", **change}
    with pytest.raises(hpo.HpoError) as raised:
        hpo.create(document)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert not (here / "storage").exists()


def test_a_dict_without_a_name_is_refused(here):
    with pytest.raises(hpo.HpoError, match=r"^the dict: name: want 1 to 100 printable characters"):
        hpo.create(tomllib.loads(FILE))


def test_a_wrong_override_is_named_like_a_wrong_set(here):
    with pytest.raises(hpo.HpoError, match=r"^--set train\.: want KEY=VALUE|^--set train"):
        hpo.create("quickstart", overrides={"train": 1})
    with pytest.raises(hpo.HpoError, match=r"^overrides: train\.lr: want a number"):
        hpo.create("quickstart", overrides={"train.lr": None})


def test_an_unknown_study_names_those_that_ship(here):
    with pytest.raises(hpo.HpoError, match=r"'quickstart'.*those that ship: .*wishlist"):
        hpo.create("quikstart")


def test_the_name_of_a_stored_study_is_no_study_file_and_its_start_is_named(study, url, monkeypatch):
    with pytest.raises(hpo.HpoError, match=f"^{NAME}: no study file; .* which 'hpo launch {NAME}' runs$"):
        hpo.create(NAME, store=url)

    def climb(config, state):
        yield 0.5, None

    climb.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "climb", climb, raising=False)
    hpo.create(STUDY, "here", {"train.objective": "__main__:climb"}, store=url)
    with pytest.raises(hpo.HpoError, match=r"^here: no study file; .* which study\.run\(objective=climb\)"):
        hpo.create("here", store=url)


def test_a_dict_is_not_changed(study, url):
    given = copy.deepcopy(STUDY)
    hpo.create(given, "other", {"train.epochs": 1}, store=url)
    assert given == STUDY


def test_a_study_is_found_after_the_working_directory_has_changed(here, monkeypatch):
    study = hpo.create(STUDY)
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert study.status().trials["waiting"] == 4
    assert study.locations.artifacts == str(here / "storage/artifacts")


def test_the_environment_says_where_studies_are(here, monkeypatch):
    monkeypatch.setenv("HPO_STORE", f"sqlite:///{here}/other.db")
    hpo.create(STUDY)
    assert (here / "other.db").exists()
    assert [each.study for each in hpo.studies()] == [NAME]
    assert [each.study for each in hpo.studies(f"sqlite:///{here}/other.db")] == [NAME]
