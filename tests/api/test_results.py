"""What a study says of itself in Python is what the command prints."""

import builtins
import dataclasses
import json

import optuna
import pytest

import hpo
from hpo.analysis import documents
from hpo.store import plan
from tests.support.api_study import NAME, STUDY, climb


@pytest.fixture
def ended(study):
    """Return the study after its four trials."""
    study.run(objective=climb, progress=False)
    return study


def best_speed(study):
    return max(trial.params["speed"] for trial in study.trials())


def test_a_new_study_waits_and_has_no_best(study):
    now = study.status()
    assert (now.state, now.trials["waiting"], now.budget, now.best) == ("idle", 4, 4, None)
    assert study.best() == []
    assert [trial.state for trial in study.trials()] == ["waiting"] * 4
    with pytest.raises(hpo.HpoError, match="importance needs at least 2"):
        study.importance()


def test_the_best_settings_come_first(ended):
    found = ended.best(3)
    values = [each.value for each in found]
    assert values == sorted(values, reverse=True)
    assert len(found) == 3
    (best,) = ended.best()
    assert (best.value, best.params["speed"]) == (pytest.approx(3 * best_speed(ended)), best_speed(ended))
    assert (best.metric, best.accuracy, best.best_epoch) == ("accuracy", best.value, 3)
    assert ended.status().best == best


def test_records_are_those_that_the_command_prints(ended, workplace):
    flags = "--store", ended.locations.store
    assert workplace.here("best", NAME, "--json", *flags).json() == json_of(ended.best()[0].document())
    assert workplace.here("trials", NAME, "--json", *flags).json() == json_of(
        [each.document() for each in ended.trials()]
    )
    status = workplace.here("status", NAME, "--json", *flags).json()
    assert status == json_of(ended.status().document()) | {"logs": None}
    assert workplace.here("studies", "--json", *flags).json() == json_of(
        [each.document() for each in hpo.studies(ended.locations.store)]
    )


def json_of(value):
    return json.loads(json.dumps(value))


def test_records_cannot_be_changed(ended):
    with pytest.raises(dataclasses.FrozenInstanceError):
        ended.best()[0].value = 1.0


def test_importance_is_over_the_complete_trials(ended):
    found = ended.importance()
    assert (found.evaluator, found.trials) == ("ped-anova", 4)
    with pytest.raises(hpo.HpoError, match="allowed: ped-anova, fanova, mdi"):
        ended.importance("shap")


def test_a_dataframe_has_the_columns_of_the_csv(ended, workplace):
    table = ended.dataframe()
    csv = workplace.here("trials", NAME, "--csv", "--store", ended.locations.store).out
    assert list(table.columns) == csv.splitlines()[0].split(",")
    assert table["value"].max() == ended.best()[0].value
    assert list(table["number"]) == [0, 1, 2, 3]
    assert table["speed"].dtype == float


def test_without_pandas_a_dataframe_says_what_to_install(ended, monkeypatch):
    import_module = builtins.__import__

    def without_pandas(name, *args):
        if name == "pandas":
            raise ImportError(name)
        return import_module(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(hpo.HpoError, match="needs pandas, which is not installed; run: pip install pandas"):
        ended.dataframe()


def test_optunas_own_study_has_the_same_trials(ended):
    plain = ended.optuna
    assert isinstance(plain, optuna.Study)
    assert plain.best_value == ended.best()[0].value
    assert [trial.number for trial in plain.trials] == [0, 1, 2, 3]
    assert set(optuna.importance.get_param_importances(plain)) == {"speed", "kind"}


def test_several_objectives_give_the_front(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = hpo.create(STUDY, overrides={"search.objectives": ["accuracy", "epoch_seconds"]}, store=url)
    study.run(objective=climb, progress=False)
    front = study.best()
    assert len(front) == sum(each.on_front for each in study.best(10))
    assert list(front[0].values) == ["accuracy", "epoch_seconds"]
    assert "value" not in front[0].document()


def test_loading_an_unknown_study_names_those_that_exist(study, url):
    assert hpo.load(NAME, url).name == NAME
    with pytest.raises(hpo.HpoError, match=NAME):
        hpo.load("smal", url)


def test_a_study_of_another_version_is_listed_and_can_be_deleted(study, url, sql):
    sql("UPDATE study_system_attributes SET value_json = '\"{}\"' WHERE key = 'hpo:definition'")
    (found,) = hpo.studies(url)
    assert (found.study, found.state) == (NAME, "unreadable")
    assert "use the version of hpo that made the study" in found.reason
    loaded = hpo.load(NAME, url, artifacts=study.locations.artifacts)
    with pytest.raises(hpo.HpoError, match="use the version of hpo that made the study"):
        loaded.status()
    loaded.delete()
    assert hpo.studies(url) == []


def test_a_missing_store_is_told(tmp_path):
    with pytest.raises(hpo.HpoError, match="no store at"):
        hpo.studies(f"sqlite:///{tmp_path}/none.db")


def test_fields_of_a_trial_that_a_document_leaves_out():
    trial = documents.StudyTrial(
        number=0,
        state="waiting",
        value=None,
        values=None,
        params={},
        user_attrs={},
        intermediate_values={},
    )
    assert "values" not in trial.document()
    assert plan.ORDER_PAUSED == "paused"
