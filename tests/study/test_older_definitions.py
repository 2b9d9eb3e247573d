"""Definitions that were stored before an option existed."""

import json

import pytest

from hpo import errors
from hpo.study import definition, extension, file
from hpo.study.definition import Definition
from hpo.training import config

DIGITS = {"dataset": "digits", "image_size": 32, "weights": "none", "epochs": 3}


def search_of(trials=8, train=DIGITS, **search: object) -> Definition:
    search = {"trials": trials, **search}
    document = {"name": "s", "train": train, "space": {"lr": [0.1, 0.2]}, "search": search}
    return file.parse_document(document, "s.toml")


def refusal(stored: Definition, new: Definition) -> str:
    with pytest.raises(errors.DefinitionError) as caught:
        extension.extend_definition(stored, new)
    return str(caught.value)


def test_an_option_that_a_stored_study_lacks_gets_the_value_from_before_it_existed(monkeypatch):
    found = search_of()
    stored = json.loads(definition.dump_definition(found))
    del stored["train"]["corrupt"], stored["train"]["nesterov"]
    assert extension.extend_definition(definition.load_definition(json.dumps(stored)), found) == found
    monkeypatch.setitem(config.VALUES_BEFORE, "corrupt", "skip")
    assert definition.load_definition(json.dumps(stored)).train["corrupt"] == "skip"
    assert definition.load_definition(definition.dump_definition(found)).train["corrupt"] == "refuse"


def older(found: Definition) -> Definition:
    """Return a definition as it is read if it was stored before transparency was an option."""
    stored = json.loads(definition.dump_definition(found))
    del stored["train"]["transparency"]
    return definition.load_definition(json.dumps(stored))


def test_an_option_that_the_file_leaves_out_is_no_change_of_an_older_study():
    stored = older(search_of())
    assert stored.train["transparency"] == "drop"
    assert search_of().train["transparency"] == "white"
    extended = extension.extend_definition(stored, search_of(trials=9))
    assert extended.train["transparency"] == "drop"
    assert extended.search.trials == 9
    same = search_of(train=DIGITS | {"transparency": "drop"})
    assert extension.extend_definition(stored, same) == stored
    given = search_of(train=DIGITS | {"transparency": "white"})
    assert "(train.transparency: 'drop' -> 'white')" in refusal(stored, given)
    other = search_of(train=DIGITS | {"transparency": "black"})
    assert "(train.transparency: 'black' -> 'white')" in refusal(other, search_of())


def test_a_study_stored_before_first_failures_could_stop_it_goes_on_whatever_fails():
    stored = json.loads(definition.dump_definition(search_of()))
    del stored["search"]["max_failures"]
    older = definition.load_definition(json.dumps(stored))
    assert (search_of().search.max_failures, older.search.max_failures) == (5, 0)
    assert extension.extend_definition(older, search_of(trials=9)).search.max_failures == 0


def test_a_study_stored_before_weights_had_presets_keeps_imagenets():
    found = search_of()
    stored = json.loads(definition.dump_definition(found))
    del stored["train"]["preprocessing"]
    older = definition.load_definition(json.dumps(stored))
    assert older.train["preprocessing"] == older.trial_config({}).preprocessing == "imagenet"
    assert found.train["preprocessing"] == "weights"
    assert extension.extend_definition(older, found) == older


def test_what_the_file_leaves_out_is_not_stored():
    found = search_of()
    assert "transparency" in found.left_out
    assert "epochs" not in found.left_out
    assert 'left_out"' not in definition.dump_definition(found)
    assert found == found.model_copy(update={"left_out": frozenset()})


def test_an_older_study_keeps_the_stochastic_depth_of_its_models():
    found = search_of()
    stored = json.loads(definition.dump_definition(found))
    del stored["train"]["drop_path"]
    read = definition.load_definition(json.dumps(stored))
    assert (read.train["drop_path"], found.train["drop_path"]) == (None, 0.0)
    assert extension.extend_definition(read, search_of(trials=9)).train["drop_path"] is None


def test_a_study_stored_when_all_weights_were_kept_keeps_them_until_its_file_says_otherwise():
    stored = json.loads(definition.dump_definition(search_of()))
    assert stored["search"]["keep_weights"] == 5
    stored["search"]["keep_weights"] = None  # the default of 0.1.0
    read = definition.load_definition(json.dumps(stored))
    assert read.search.keep_weights == "all"
    assert extension.extend_definition(read, search_of(trials=9)).search.keep_weights == "all"
    assert extension.extend_definition(read, search_of(keep_weights=3)).search.keep_weights == 3
    assert definition.load_definition(definition.dump_definition(read)) == read


@pytest.mark.parametrize("given", [0, True, "none", 2.5])
def test_keep_weights_is_a_number_or_all(given):
    assert search_of(keep_weights="all").search.keep_weights == "all"
    allowed = 'search.keep_weights: want a whole number, at least 1, or "all", found '
    with pytest.raises(errors.DefinitionError, match=allowed):
        search_of(keep_weights=given)
