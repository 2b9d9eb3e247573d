import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo import errors
from hpo.study import definition, extension, file, space
from hpo.study.definition import Definition, Point
from hpo.training import config

DIGITS = {"dataset": "digits", "image_size": 32, "weights": "none", "epochs": 3}
SPACE = {
    "optimizer": ["sgd", "adam"],
    "lr": {"low": 1e-4, "high": 0.1},
    "momentum": {"low": 0.0, "high": 0.9},
}


def searched(trials=8, points=(), train=DIGITS, space=SPACE, **search) -> Definition:
    document = {"name": "s", "train": train, "space": space, "points": list(points)}
    return file.parse_document({**document, "search": {"trials": trials, **search}}, "s.toml")


def listed(*points) -> Definition:
    document = {"name": "s", "train": DIGITS, "search": {"sampler": "grid"}, "points": list(points)}
    return file.parse_document(document, "s.toml")


def refusal(stored: Definition, new: Definition) -> str:
    with pytest.raises(errors.DefinitionError) as caught:
        extension.extend_definition(stored, new)
    return str(caught.value)


@pytest.mark.parametrize("name", file.shipped_studies())
def test_a_shipped_study_comes_back_from_json_as_it_was(name):
    found = file.load_study_file(file.find_study_file(name))
    assert definition.load_definition(definition.dump_definition(found)) == found


def test_values_keep_their_types_in_json():
    found = searched(
        points=[{"optimizer": "sgd", "lr": 0.1, "momentum": 0, "nesterov": True, "dropout": 0.5}],
        space=SPACE | {"nesterov": [True, False], "batch_size": [1, 16], "dropout": [0, 0.5]},
        train=DIGITS | {"model": "alexnet"},
    )
    back = definition.load_definition(definition.dump_definition(found))
    assert back == found
    assert [repr(v) for v in back.points[0].setting.values()] == ["'sgd'", "0.1", "0.0", "True", "0.5"]
    by_name = {p.name: p.values for p in back.space}
    assert repr(by_name["nesterov"].choices) == "(True, False)"
    assert repr(by_name["batch_size"].choices) == "(1, 16)"
    assert repr(by_name["dropout"].choices) == "(0.0, 0.5)"


def test_every_default_is_stored_so_that_a_new_one_changes_no_study_under_way():
    stored = json.loads(definition.dump_definition(searched()))
    assert stored["train"].keys() == set(config.OPTIONS)
    assert stored["search"].keys() == definition.Search.model_fields.keys()
    assert stored["search"]["pruner"].keys() == definition.Pruner.model_fields.keys()


def test_a_setting_falls_back_to_what_is_stored_rather_than_to_our_defaults():
    found = searched()
    older = found.model_copy(update={"train": found.train | {"momentum": 0.5}})
    assert older.trial_config({"optimizer": "adam"}).momentum == 0.5
    assert (
        older.complete_hyperparameters(Point(setting={"optimizer": "sgd", "lr": 0.01}))["momentum"] == 0.5
    )


@pytest.mark.parametrize(
    ("part", "newer", "where"),
    [
        ('"tpe"', '"cmaes"', "search.sampler.name"),
        ('"train":{', '"train":{"mixup":0.2,', "mixup"),
        ('"sgd"', '"lion"', "optimizer"),
        ('"percentile":25.0', '"percentile":25.0,"margin":0.1', "search.pruner.margin"),
    ],
)
def test_a_stored_definition_that_another_version_wrote_is_refused_with_what_to_do(part, newer, where):
    text = definition.dump_definition(searched())
    assert part in text
    with pytest.raises(errors.DefinitionError) as caught:
        definition.load_definition(text.replace(part, newer))
    assert str(caught.value).startswith(f"the stored definition's {where} is unknown here (")
    assert str(caught.value).endswith("); use the version of hpo that made the study")


def test_the_budget_is_points_and_searched_trials():
    assert searched(trials=8).setting_count == 8
    assert searched(trials=8, points=[{"optimizer": "adam"}]).setting_count == 9
    assert listed({"lr": 0.1}, {"lr": 0.1}).setting_count == 2
    assert (
        listed({"lr": 0.1}).model_copy(update={"enqueued": (Point(setting={"lr": 0.2}),)}).setting_count
        == 2
    )


def test_a_point_of_a_search_gets_the_searched_parameters_that_it_leaves_out():
    found = searched(points=[{"optimizer": "sgd", "batch_size": 8, "epochs": 2, "seed": 3}])
    assert found.complete_hyperparameters(found.points[0]) == {
        "optimizer": "sgd",
        "lr": 0.001,
        "momentum": 0.9,
        "batch_size": 8,
    }
    assert found.points[0].run_options() == {"epochs": 2, "seed": 3}
    adam = searched(points=[{"optimizer": "adam"}])
    assert adam.complete_hyperparameters(adam.points[0]) == {"optimizer": "adam", "lr": 0.001}


def test_a_point_of_a_grid_has_just_what_it_names():
    found = listed({"optimizer": "adam", "lr": 0.1, "site": "C", "epochs": 2})
    assert found.complete_hyperparameters(found.points[0]) == {"optimizer": "adam", "lr": 0.1}
    assert found.points[0].attributes == {"site": "C"}
    beside_lists = searched(sampler="grid", points=[{"optimizer": "sgd"}])
    assert beside_lists.complete_hyperparameters(beside_lists.points[0]) == {"optimizer": "sgd"}


def test_every_parameter_that_a_trial_can_have_is_known_beforehand():
    found = searched(points=[{"optimizer": "sgd", "batch_size": 8}, {"optimizer": "sgd", "batch_size": 32}])
    parameters = found.parameters()
    assert list(parameters) == ["optimizer", "lr", "momentum", "batch_size"]
    assert parameters["batch_size"].values == space.Range(low=8, high=32)
    grid = listed({"lr": 0.1, "model": "vgg16"}, {"lr": 0.001, "nesterov": True}).parameters()
    assert {name: str(p.values) for name, p in grid.items()} == {
        "lr": "0.001 to 0.1, log",
        "model": "'vgg16'",
        "nesterov": "true",
    }


def test_the_kinds_of_model_are_those_that_a_trial_can_have():
    image_size = {"choices": [32, 64], "when": {"model": "resnet18"}}
    names = {"model": ["alexnet", "resnet18"], "image_size": image_size, "lr": [0.1, 0.2]}
    found = searched(
        space=names,
        train={"dataset": "digits"},
        points=[{"model": "resnet18", "lr": 0.1, "image_size": 64}],
    )
    kinds = [(part, c.model, c.image_size) for part, c in found.model_configs()]
    assert kinds == [
        ("points[1]", "resnet18", 64),
        ("", "alexnet", 224),
        ("", "resnet18", 32),
        ("", "resnet18", 64),
    ]


# Extending a study


def test_the_same_file_extends_to_the_same_definition():
    found = searched(points=[{"optimizer": "adam"}])
    assert extension.extend_definition(found, found) == found


def test_more_trials_extend_a_study():
    assert extension.extend_definition(searched(trials=8), searched(trials=12)) == searched(trials=12)


def test_points_are_added_anywhere_and_the_old_ones_keep_their_numbers():
    one, two, three, four = ({"lr": lr} for lr in (0.1, 0.2, 0.3, 0.4))
    extended = extension.extend_definition(listed(one, two), listed(three, two, four, one))
    assert extended.points == listed(one, two, three, four).points


def test_a_point_listed_twice_counts_as_two():
    one, two = {"lr": 0.1}, {"lr": 0.2}
    extended = extension.extend_definition(listed(one, two), listed(one, one, two, one))
    assert extended.points == listed(one, two, one, one).points
    assert "points: 1 of 2 changed or removed" in refusal(listed(one, one), listed(one, two))


def test_a_point_is_the_same_however_its_options_are_ordered_and_its_numbers_written():
    stored = listed({"lr": 1, "momentum": 0})
    assert extension.extend_definition(stored, listed({"momentum": 0.0, "lr": 1.0})) == stored


def test_two_points_that_differ_in_their_site_are_two():
    stored = listed({"lr": 0.1, "site": "C"})
    extended = extension.extend_definition(
        stored, listed({"lr": 0.1, "site": "C"}, {"lr": 0.1, "site": "L"})
    )
    assert [point.attributes for point in extended.points] == [{"site": "C"}, {"site": "L"}]


def test_settings_queued_by_hand_stay_queued():
    enqueued = (Point(setting={"lr": 0.05}),)
    stored = searched(trials=8).model_copy(update={"enqueued": enqueued})
    extended = extension.extend_definition(stored, searched(trials=9, points=[{"optimizer": "adam"}]))
    assert extended.enqueued == enqueued
    assert extended.setting_count == 11


def test_the_order_of_options_in_a_file_is_no_change():
    reordered = dict(reversed(SPACE.items()))
    assert extension.extend_definition(searched(), searched(space=reordered)) == searched()


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"trials": 7}, "search.trials: 8 -> 7"),
        ({"train": DIGITS | {"epochs": 4}}, "train.epochs: 3 -> 4"),
        ({"train": DIGITS | {"dropout": 0.5}}, "train.dropout: nothing -> 0.5"),
        ({"train": DIGITS | {"nesterov": True}}, "train.nesterov: false -> true"),
        ({"sampler": "random"}, "search.sampler.name: 'tpe' -> 'random'"),
        ({"sampler": {"seed": 1}}, "search.sampler.seed: 0 -> 1"),
        ({"pruner": {"min_epochs": 3}}, "search.pruner.min_epochs: 2 -> 3"),
        ({"prune_points": True}, "search.prune_points: false -> true"),
        ({"max_attempts": 3}, "search.max_attempts: 10 -> 3"),
        (
            {"space": SPACE | {"lr": {"low": 1e-3, "high": 0.1}}},
            "space.lr: 0.0001 to 0.1 -> 0.001 to 0.1",
        ),
        (
            {"space": SPACE | {"optimizer": ["adam", "sgd"]}},
            "space.optimizer: 'sgd', 'adam' -> 'adam', 'sgd'",
        ),
        ({"space": SPACE | {"batch_size": [8, 16]}}, "space.batch_size: nothing -> 8, 16"),
        (
            {"space": {k: v for k, v in SPACE.items() if k != "momentum"}},
            "space.momentum: 0.0 to 0.9, when optimizer is 'sgd' or 'rmsprop' -> nothing",
        ),
    ],
)
def test_any_other_change_is_refused_with_what_changed_and_what_to_do(changed, difference):
    assert refusal(searched(), searched(**changed)) == (
        f"study 's' is stored with another definition ({difference}); only more search.trials, "
        "larger budgets and more points extend a study: give this one a --name of its own, "
        "or 'hpo delete s' first"
    )


def test_all_changes_are_named_at_once():
    text = refusal(
        searched(points=[{"optimizer": "adam"}]), searched(trials=3, train=DIGITS | {"epochs": 4})
    )
    for difference in (
        "train.epochs: 3 -> 4",
        "search.trials: 8 -> 3",
        "points: 1 of 1 changed or removed",
    ):
        assert difference in text


def test_a_point_with_another_value_is_a_change():
    assert "points: 1 of 1 changed or removed" in refusal(listed({"lr": 0.1}), listed({"lr": 0.2}))


def test_the_trials_of_a_grid_mean_nothing():
    stored = listed({"lr": 0.1})
    fewer = stored.model_copy(update={"search": stored.search.model_copy(update={"trials": 1})})
    assert extension.extend_definition(stored, fewer).setting_count == 1


# Points and their attributes


OLD_TEXT = '"points":[{"setting":{"lr":0.1},"site":"C"},{"setting":{"lr":0.2},"site":null}]'


def stored_before_points_had_attributes() -> str:
    """Return the stored text of two points as hpo wrote it when ``site`` was a field of a point."""
    text = definition.dump_definition(listed({"lr": 0.1, "site": "C"}, {"lr": 0.2}))
    now = (
        '"points":[{"setting":{"lr":0.1},"attributes":{"site":"C"}},{"setting":{"lr":0.2},"attributes":{}}]'
    )
    assert now in text
    return text.replace(now, OLD_TEXT)


def test_a_definition_stored_with_sites_is_the_one_with_attributes():
    stored = definition.load_definition(stored_before_points_had_attributes())
    new = listed({"lr": 0.1, "attributes": {"site": "C"}}, {"lr": 0.2})
    assert stored == new
    assert extension.extend_definition(stored, new) == stored


def test_a_site_is_short_for_an_attribute():
    assert listed({"lr": 0.1, "site": "C"}) == listed({"lr": 0.1, "attributes": {"site": "C"}})


def test_the_attributes_of_all_points_are_known_by_name():
    facts = {"room": 3, "dark": True}
    found = listed({"lr": 0.1, "site": "C"}, {"lr": 0.1, "attributes": facts}, {"lr": 0.2})
    assert found.points[1].attributes == facts
    assert found.attribute_names == ("site", "room", "dark")


def test_two_points_that_differ_in_the_type_of_an_attribute_are_two():
    one, two = ({"lr": 0.1, "attributes": {"dark": value}} for value in (1, True))
    assert refusal(listed(one), listed(two)).count("points: 1 of 1 changed or removed") == 1


# The round trip through the store

SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in (*definition.TRIAL_ATTRIBUTES, "site")
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "optimizer": st.sampled_from(["sgd", "rmsprop"]),
        "lr": st.floats(1e-9, 100.0),
        "momentum": st.floats(0.0, 0.99),
        "batch_size": st.integers(1, 65536),
        "seed": st.integers(0, 2**31 - 1),
        "epochs": st.integers(1, 100_000),
        "tune": st.sampled_from(["all", "head"]),
    },
)
ATTRIBUTES = st.dictionaries(NAMES, SCALARS, max_size=4)
POINTS = st.lists(
    st.builds(lambda s, a: s | {"attributes": a}, SETTINGS, ATTRIBUTES), min_size=1, max_size=4
)


@settings(deadline=None)
@given(POINTS)
def test_any_listed_points_come_back_from_json_as_they_were(points):
    found = listed(*points)
    back = definition.load_definition(definition.dump_definition(found))
    assert back == found
    assert repr(back) == repr(found)  # types and all: 1 == True == 1.0
    assert extension.extend_definition(back, found) == found


@settings(deadline=None)
@given(st.data())
def test_any_custom_definition_comes_back_from_json_as_it_was(data):
    lists = st.lists(SCALARS, min_size=1, max_size=4, unique=True)
    space_ = data.draw(st.dictionaries(NAMES, lists, min_size=1, max_size=3))
    fixed = data.draw(st.dictionaries(NAMES.filter(lambda name: name not in space_), SCALARS, max_size=3))
    fixed = {name: value for name, value in fixed.items() if name not in ("epochs", "seed")}
    searched_ = {name: values for name, values in space_.items() if name not in ("epochs", "seed", "name")}
    train = {**fixed, "objective": "package.module:climb"}
    document = {"name": "s", "train": train, "space": searched_ or {"x": [1, 2]}, "search": {"trials": 2}}
    found = file.parse_document(document, "s.toml")
    back = definition.load_definition(definition.dump_definition(found))
    assert repr(back) == repr(found)
    assert extension.extend_definition(back, found) == found
