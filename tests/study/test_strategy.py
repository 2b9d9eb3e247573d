"""``search.strategy``: which sampler and pruner a study gets whose file names neither."""

import json

import pytest

from hpo import errors
from hpo.study import definition, extension, file
from hpo.study.definition import Definition
from hpo.study.search_options import Pruner
from hpo.study.strategy import describe_strategy

TWO = {"objectives": ["accuracy", "parameters"]}


def study(epochs: int = 9, **search) -> Definition:
    document = {
        "name": "s",
        "train": {"dataset": "digits", "epochs": epochs},
        "space": {"lr": {"low": 0.001, "high": 0.1}},
    }
    return file.parse_document({**document, "search": search}, "s.toml")


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ({}, ("freeze_thaw", "freeze_thaw")),
        ({"strategy": "auto"}, ("freeze_thaw", "freeze_thaw")),
        ({"sampler": {"seed": 3}}, ("freeze_thaw", "freeze_thaw")),
        (TWO, ("nsgaii", "asha")),
        ({**TWO, "sampler": {"seed": 3}}, ("nsgaii", "asha")),
        ({"sampler": "random"}, ("random", "asha")),
        ({"sampler": {"name": "tpe", "seed": 3}}, ("tpe", "asha")),
        ({"pruner": "median"}, ("tpe", "median")),
        ({"pruner": {"min_epochs": 3}}, ("tpe", "asha")),
        ({**TWO, "pruner": "none"}, ("nsgaii", "none")),
        ({"strategy": "auto", "pruner": "none"}, ("tpe", "none")),
    ],
)
def test_auto_chooses_where_the_file_names_neither(search, names):
    found = study(**search)
    assert (found.search.sampler.name, found.search.pruner.name) == names
    seed = search["sampler"].get("seed", 0) if isinstance(search.get("sampler"), dict) else 0
    assert found.search.sampler.seed == seed
    assert definition.load_definition(definition.dump_definition(found)) == found


def test_the_pruner_that_auto_chooses_has_the_defaults_of_its_name():
    assert study().search.pruner == Pruner.model_validate({"name": "freeze_thaw"})
    assert study().search.pruner.min_epochs == 1


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            study(),
            "strategy auto: sampler and pruner freeze_thaw; a model of all learning curves decides which "
            "setting begins and which trial continues",
        ),
        (study(epochs=1), "strategy auto: sampler freeze_thaw; with one epoch no trial ends early"),
        (study(**TWO), "strategy auto: sampler nsgaii and pruner asha, for 2 objectives"),
        (study(sampler="tpe"), None),
    ],
)
def test_one_line_says_what_was_chosen_and_why(found, text):
    assert describe_strategy(found) == text


def test_nothing_is_said_where_nothing_is_searched():
    document = {
        "name": "s",
        "train": {"dataset": "digits"},
        "points": [{"lr": 0.1}],
        "search": {"trials": 0},
    }
    assert describe_strategy(file.parse_document(document, "s.toml")) is None


def stored_before(**search) -> Definition:
    """A study as it was stored before the option existed."""
    record = json.loads(definition.dump_definition(study(**search)))
    del record["search"]["strategy"]
    return definition.load_definition(json.dumps(record))


def test_a_study_stored_before_the_option_keeps_its_sampler_and_pruner():
    before = stored_before(sampler="tpe", trials=8)
    extended = extension.extend_definition(before, study(trials=9))
    assert (extended.search.sampler.name, extended.search.pruner.name) == ("tpe", "asha")
    assert extended.search.trials == 9


def test_another_named_sampler_and_another_seed_are_changes():
    for stored in (study(), stored_before(sampler="tpe")):
        for changed in ({"sampler": "random"}, {"sampler": {"seed": 1}}):
            with pytest.raises(errors.DefinitionError, match=r"search\.sampler\."):
                extension.extend_definition(stored, study(**changed))
