import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo import errors
from hpo.study import definition, extension, file, search_options, space
from hpo.study.definition import Definition, Point
from hpo.training import config

DIGITS = {"dataset": "digits", "image_size": 32, "weights": "none", "epochs": 3}
SPACE = {
    "optimizer": ["sgd", "adam"],
    "lr": {"low": 1e-4, "high": 0.1},
    "momentum": {"low": 0.0, "high": 0.9},
}


def search_of(trials=8, points=(), train=DIGITS, space=SPACE, **search) -> Definition:
    document = {"name": "s", "train": train, "space": space, "points": list(points)}
    search = {"trials": trials, "sampler": {"name": "tpe"}, **search}
    return file.parse_document({**document, "search": search}, "s.toml")


def grid_of(*points) -> Definition:
    document = {"name": "s", "train": DIGITS, "search": {"sampler": "grid"}, "points": list(points)}
    return file.parse_document(document, "s.toml")


def extension_error(stored: Definition, new: Definition) -> str:
    with pytest.raises(errors.DefinitionError) as caught:
        extension.extend_definition(stored, new)
    return str(caught.value)


@pytest.mark.parametrize("name", file.shipped_studies())
def test_a_shipped_study_survives_the_json_round_trip(name):
    found = file.load_study_file(file.find_study_file(name))
    assert definition.load_definition(definition.dump_definition(found)) == found


def test_values_keep_their_types_in_json():
    found = search_of(
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


def test_every_default_is_stored_so_that_new_defaults_do_not_change_stored_studies():
    stored = json.loads(definition.dump_definition(search_of()))
    assert stored["train"].keys() == set(config.OPTIONS)
    assert stored["search"].keys() == search_options.Search.model_fields.keys()
    assert stored["search"]["pruner"].keys() == search_options.Pruner.model_fields.keys()


def test_a_setting_is_completed_with_stored_rather_than_current_defaults():
    found = search_of()
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
def test_a_definition_stored_by_another_version_is_refused_with_advice(part, newer, where):
    text = definition.dump_definition(search_of())
    assert part in text
    with pytest.raises(errors.DefinitionError) as caught:
        definition.load_definition(text.replace(part, newer))
    assert str(caught.value).startswith(f"the stored definition's {where} is unknown here (")
    assert str(caught.value).endswith("); use the version of hpo that made the study")


def test_the_last_epoch_is_that_of_the_longest_trial_that_can_be_pruned():
    point = {"optimizer": "adam", "lr": 0.01, "epochs": 9}
    assert search_of(points=[point]).max_epochs() == 3
    assert search_of(points=[point], prune_points=True).max_epochs() == 9


def test_setting_count_includes_points_and_searched_and_enqueued_settings():
    assert search_of(trials=8).setting_count == 8
    assert search_of(trials=8, points=[{"optimizer": "adam"}]).setting_count == 9
    assert grid_of({"lr": 0.1}, {"lr": 0.1}).setting_count == 2
    assert (
        grid_of({"lr": 0.1}).model_copy(update={"enqueued": (Point(setting={"lr": 0.2}),)}).setting_count
        == 2
    )


def test_a_point_of_a_search_is_completed_with_the_searched_parameters():
    found = search_of(points=[{"optimizer": "sgd", "batch_size": 8, "epochs": 2, "seed": 3}])
    assert found.complete_hyperparameters(found.points[0]) == {
        "optimizer": "sgd",
        "lr": 0.001,
        "momentum": 0.9,
        "batch_size": 8,
    }
    assert found.points[0].run_options() == {"epochs": 2, "seed": 3}
    adam = search_of(points=[{"optimizer": "adam"}])
    assert adam.complete_hyperparameters(adam.points[0]) == {"optimizer": "adam", "lr": 0.001}


def test_a_point_of_a_grid_has_only_the_options_that_it_names():
    found = grid_of({"optimizer": "adam", "lr": 0.1, "site": "C", "epochs": 2})
    assert found.complete_hyperparameters(found.points[0]) == {"optimizer": "adam", "lr": 0.1}
    assert found.points[0].attributes == {"site": "C"}
    beside_lists = search_of(sampler="grid", points=[{"optimizer": "sgd"}])
    assert beside_lists.complete_hyperparameters(beside_lists.points[0]) == {"optimizer": "sgd"}


def test_parameters_lists_every_parameter_that_a_trial_can_have():
    found = search_of(
        points=[{"optimizer": "sgd", "batch_size": 8}, {"optimizer": "sgd", "batch_size": 32}]
    )
    parameters = found.parameters()
    assert list(parameters) == ["optimizer", "lr", "momentum", "batch_size"]
    assert parameters["batch_size"].values == space.Range(low=8, high=32)
    grid = grid_of({"lr": 0.1, "model": "vgg16"}, {"lr": 0.001, "nesterov": True}).parameters()
    assert {name: str(p.values) for name, p in grid.items()} == {
        "lr": "0.001 to 0.1, log",
        "model": "'vgg16'",
        "nesterov": "true",
    }


def test_model_configs_lists_every_model_that_a_trial_can_have():
    image_size = {"choices": [32, 64], "when": {"model": "resnet18"}}
    names = {"model": ["alexnet", "resnet18"], "image_size": image_size, "lr": [0.1, 0.2]}
    found = search_of(
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
    found = search_of(points=[{"optimizer": "adam"}])
    assert extension.extend_definition(found, found) == found


def test_more_trials_extend_a_study():
    assert extension.extend_definition(search_of(trials=8), search_of(trials=12)) == search_of(trials=12)


def test_where_decoded_images_are_kept_may_change_and_stays_if_it_is_left_out():
    stored, moved = (search_of(train={**DIGITS, "cache": place}) for place in ("disk", "memory"))
    assert extension.extend_definition(stored, moved) == moved
    assert extension.extend_definition(stored, search_of()) == stored
    other = search_of(train={**DIGITS, "cache": "auto", "weight_decay": 0.5})
    assert "(train.weight_decay: 0.0 -> 0.5)" in extension_error(stored, other)


def test_how_many_first_failures_stop_a_study_may_change_and_stays_if_it_is_left_out():
    three, one = (search_of(max_failures=most) for most in (3, 1))
    assert extension.extend_definition(three, one).search.max_failures == 1
    assert extension.extend_definition(three, search_of()).search.max_failures == 3


def test_an_option_of_a_custom_objective_that_is_called_cache_may_not_change():
    objective = {"objective": "math:sqrt", "cache": "disk"}
    space = {"x": [1, 2]}
    stored, changed = (
        search_of(train={**objective, "cache": place}, space=space) for place in ("disk", "memory")
    )
    assert "train.cache: 'disk' -> 'memory'" in extension_error(stored, changed)


def test_points_added_anywhere_leave_the_numbers_of_stored_points_unchanged():
    one, two, three, four = ({"lr": lr} for lr in (0.1, 0.2, 0.3, 0.4))
    extended = extension.extend_definition(grid_of(one, two), grid_of(three, two, four, one))
    assert extended.points == grid_of(one, two, three, four).points


def test_a_point_listed_twice_counts_as_two():
    one, two = {"lr": 0.1}, {"lr": 0.2}
    extended = extension.extend_definition(grid_of(one, two), grid_of(one, one, two, one))
    assert extended.points == grid_of(one, two, one, one).points
    assert "points: 1 of 2 changed or removed" in extension_error(grid_of(one, one), grid_of(one, two))


def test_points_are_equal_regardless_of_option_order_and_number_format():
    stored = grid_of({"lr": 1, "momentum": 0})
    assert extension.extend_definition(stored, grid_of({"momentum": 0.0, "lr": 1.0})) == stored


def test_points_with_different_sites_are_different():
    stored = grid_of({"lr": 0.1, "site": "C"})
    extended = extension.extend_definition(
        stored, grid_of({"lr": 0.1, "site": "C"}, {"lr": 0.1, "site": "L"})
    )
    assert [point.attributes for point in extended.points] == [{"site": "C"}, {"site": "L"}]


def test_enqueued_settings_stay_enqueued():
    enqueued = (Point(setting={"lr": 0.05}),)
    stored = search_of(trials=8).model_copy(update={"enqueued": enqueued})
    extended = extension.extend_definition(stored, search_of(trials=9, points=[{"optimizer": "adam"}]))
    assert extended.enqueued == enqueued
    assert extended.setting_count == 11


def test_another_order_of_options_is_not_a_change():
    reordered = dict(reversed(SPACE.items()))
    assert extension.extend_definition(search_of(), search_of(space=reordered)) == search_of()


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"trials": 7}, "search.trials: 8 -> 7"),
        ({"train": DIGITS | {"epochs": 4}}, "train.epochs: 3 -> 4"),
        ({"train": DIGITS | {"dropout": 0.5}}, "train.dropout: nothing -> 0.5"),
        ({"train": DIGITS | {"nesterov": True}}, "train.nesterov: false -> true"),
        ({"sampler": "random"}, "search.sampler.name: 'tpe' -> 'random'"),
        ({"sampler": {"name": "tpe", "seed": 1}}, "search.sampler.seed: 0 -> 1"),
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
def test_any_other_change_is_refused_with_the_difference_and_advice(changed, difference):
    assert extension_error(search_of(), search_of(**changed)) == (
        f"study 's' is stored with another definition ({difference}); only more search.trials, "
        "larger budgets and more points extend a study: give this one a --name of its own, "
        "or continue the stored one with 'hpo launch s' (or 'hpo delete s' first)"
    )


def test_all_changes_are_named_in_one_error():
    text = extension_error(
        search_of(points=[{"optimizer": "adam"}]),
        search_of(trials=3, train=DIGITS | {"epochs": 4}),
    )
    for difference in (
        "train.epochs: 3 -> 4",
        "search.trials: 8 -> 3",
        "points: 1 of 1 changed or removed",
    ):
        assert difference in text


def test_a_point_with_another_value_is_a_change():
    assert "points: 1 of 1 changed or removed" in extension_error(
        grid_of({"lr": 0.1}), grid_of({"lr": 0.2})
    )


def test_the_trials_option_of_a_grid_is_ignored():
    stored = grid_of({"lr": 0.1})
    fewer = stored.model_copy(update={"search": stored.search.model_copy(update={"trials": 1})})
    assert extension.extend_definition(stored, fewer).setting_count == 1


# Points and their attributes


OLD_TEXT = '"points":[{"setting":{"lr":0.1},"site":"C"},{"setting":{"lr":0.2},"site":null}]'


def stored_before_points_had_attributes() -> str:
    """Return two points as an earlier version of hpo stored them, with ``site`` as a field of a point."""
    text = definition.dump_definition(grid_of({"lr": 0.1, "site": "C"}, {"lr": 0.2}))
    current = (
        '"points":[{"setting":{"lr":0.1},"attributes":{"site":"C"}},{"setting":{"lr":0.2},"attributes":{}}]'
    )
    assert current in text
    return text.replace(current, OLD_TEXT)


def test_a_definition_stored_with_sites_equals_one_with_attributes():
    stored = definition.load_definition(stored_before_points_had_attributes())
    new = grid_of({"lr": 0.1, "attributes": {"site": "C"}}, {"lr": 0.2})
    assert stored == new
    assert extension.extend_definition(stored, new) == stored


def test_site_is_shorthand_for_an_attribute():
    assert grid_of({"lr": 0.1, "site": "C"}) == grid_of({"lr": 0.1, "attributes": {"site": "C"}})


def test_attribute_names_lists_the_attributes_of_all_points():
    facts = {"room": 3, "dark": True}
    found = grid_of({"lr": 0.1, "site": "C"}, {"lr": 0.1, "attributes": facts}, {"lr": 0.2})
    assert found.points[1].attributes == facts
    assert found.attribute_names == ("site", "room", "dark")


def test_points_whose_attributes_differ_in_type_are_different():
    one, two = ({"lr": 0.1, "attributes": {"dark": value}} for value in (1, True))
    assert extension_error(grid_of(one), grid_of(two)).count("points: 1 of 1 changed or removed") == 1


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


@settings(deadline=None, max_examples=40)
@given(POINTS)
def test_any_list_of_points_survives_the_json_round_trip(points):
    found = grid_of(*points)
    back = definition.load_definition(definition.dump_definition(found))
    assert back == found
    assert repr(back) == repr(found)  # including types: 1 == True == 1.0
    assert extension.extend_definition(back, found) == found


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_any_custom_definition_survives_the_json_round_trip(data):
    lists = st.lists(SCALARS, min_size=1, max_size=4, unique=True)
    searched = data.draw(st.dictionaries(NAMES, lists, min_size=1, max_size=3))
    fixed = data.draw(st.dictionaries(NAMES.filter(lambda name: name not in searched), SCALARS, max_size=3))
    fixed = {name: value for name, value in fixed.items() if name not in ("epochs", "seed")}
    allowed = {name: values for name, values in searched.items() if name not in ("epochs", "seed", "name")}
    train = {**fixed, "objective": "package.module:climb"}
    document = {"name": "s", "train": train, "space": allowed or {"x": [1, 2]}, "search": {"trials": 2}}
    found = file.parse_document(document, "s.toml")
    back = definition.load_definition(definition.dump_definition(found))
    assert repr(back) == repr(found)
    assert extension.extend_definition(back, found) == found
