"""``--set`` and ``hpo enqueue``: single values, checked as those of a study file."""

import pytest

from hpo import errors
from hpo.study import file, search_options, space
from tests.support.study_files import (
    BOTH,
    FINETUNE,
    GRID,
    LR,
    OPTIONS,
    POINT_OPTIONS,
    SPACE,
    TRAIN,
    assert_message,
    in_search,
    in_space,
    load,
    searched_values,
    write_file,
)

# --set


def test_a_set_option_is_fixed_everywhere(tmp_path):
    found = load(tmp_path, FINETUNE, "train.lr=0.01", "train.batch_size = 4")
    assert (found.train["lr"], found.train["batch_size"]) == (0.01, 4)
    assert searched_values(found).keys() == {"model", "optimizer", "momentum"}
    assert found.points[0].setting == {"model": "resnet18", "optimizer": "sgd", "momentum": 0.9}


def test_a_small_replay_keeps_the_14_points():
    small = ("dataset=digits", "weights=none", "image_size=64", "epochs=1", "limit=96")
    found = file.load_study_file(file.find_study_file("original-grid"), [f"train.{text}" for text in small])
    whole = file.load_study_file(file.find_study_file("original-grid"))
    assert [point.hyperparameters() for point in found.points] == [
        p.hyperparameters() for p in whole.points
    ]
    assert [point.attributes for point in found.points] == [p.attributes for p in whole.points]
    runs = [found.trial_config(point.setting) for point in found.points]
    assert {(run.dataset, run.weights, run.image_size, run.epochs, run.limit) for run in runs} == {
        ("digits", "none", 64, 1, 96)
    }


def test_momentum_is_searched_where_sgd_is_set(tmp_path):
    found = load(tmp_path, FINETUNE, "train.optimizer=sgd")
    momentum = next(p for p in found.space if p.name == "momentum")
    assert space.is_active(momentum, found.train)


def test_momentum_is_not_searched_where_adam_is_set(tmp_path):
    found = load(tmp_path, FINETUNE, "train.optimizer=adam")
    assert searched_values(found).keys() == {"model", "lr", "batch_size"}
    assert found.points[0].setting == {"model": "resnet18", "lr": 0.001, "batch_size": 16}


def test_a_set_value_removes_inactive_parameters_and_those_that_depend_on_them(tmp_path):
    text = in_space(
        f"""
        {BOTH}
        lr = [0.1]
        schedule = {{ choices = ["exponential", "cosine"], when = {{ optimizer = "sgd" }} }}
        gamma = {{ choices = [0.5], when = {{ schedule = "exponential" }} }}
        tune = {{ choices = ["head"], when = {{ optimizer = ["sgd", "adam"] }} }}
        """
    )
    assert searched_values(load(tmp_path, text)).keys() == {"lr", "optimizer", "schedule", "gamma", "tune"}
    assert searched_values(load(tmp_path, text, "train.optimizer=adam")).keys() == {"lr", "tune"}


def test_a_whole_grid_can_be_set_to_adam():
    found = file.load_study_file(file.find_study_file("original-grid"), ["train.optimizer=adam"])
    assert len(found.points) == 14
    assert not any("momentum" in point.setting for point in found.points)


@pytest.mark.parametrize(
    ("sets", "sampler"),
    [
        (["search.sampler=random"], search_options.Sampler(name="random")),
        (["search.sampler.name=random"], search_options.Sampler(name="random", seed=7)),
        (["search.sampler.seed=3"], search_options.Sampler(name="gp", seed=3)),
        (["search.sampler=qmc", "search.sampler.seed=3"], search_options.Sampler(name="qmc", seed=3)),
        (["search.sampler={name='random', seed=2}"], search_options.Sampler(name="random", seed=2)),
    ],
)
def test_a_sampler_is_set_by_name_or_by_part(tmp_path, sets, sampler):
    text = in_search("sampler = { name = 'gp', seed = 7 }")
    assert load(tmp_path, text, *sets).search.sampler == sampler


def test_the_grid_sampler_can_be_set(tmp_path):
    found = load(tmp_path, TRAIN + SPACE, "search.sampler.name=grid")
    assert [point.setting for point in found.points] == [{"lr": 0.1}, {"lr": 0.2}]


def test_a_range_is_set_as_a_whole_or_by_part(tmp_path):
    whole = load(tmp_path, FINETUNE, "space.lr={low=1e-4,high=1e-2,log=true}")
    assert searched_values(whole)["lr"] == "0.0001 to 0.01, log"
    assert searched_values(load(tmp_path, FINETUNE, "space.lr.high=1e-2"))["lr"] == "1e-05 to 0.01, log"


def test_a_fixed_option_can_be_set_to_be_searched(tmp_path):
    found = load(tmp_path, FINETUNE, 'space.tune=["all", "head"]')
    assert searched_values(found)["tune"] == "'all', 'head'"


def test_the_last_set_wins(tmp_path):
    found = load(
        tmp_path, FINETUNE, "train.epochs=1", "train.epochs=2", "search.trials=3", "search.trials=4"
    )
    assert (found.train["epochs"], found.search.trials) == (2, 4)


@pytest.mark.parametrize(
    "text", ["train.lr", "lr=3", "train=3", "train.=3", "=3", "", "trian.lr=3", "name=x"]
)
def test_a_set_that_is_not_key_and_value_is_refused(refused, text):
    wanted = "want KEY=VALUE with a KEY such as train.epochs, space.lr or search.trials"
    assert refused("quickstart", "--set", text) == f"--set {text}: {wanted}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr=abc", f"train.lr: {LR}, found 'abc'"),
        ("train.lr=", f"train.lr: {LR}, found ''"),
        ("train.lr.low=1", f"train.lr: {LR}, found {{ low = 1 }}"),
        ("train.lrr=1", f"train.lrr is not an option; did you mean 'lr'? {OPTIONS}"),
        ("train.nesterov=yes", "train.nesterov: want true or false, found 'yes'"),
        ("space.lr=0.1", "space.lr: want a list of values or { low = ..., high = ... }, found 0.1; ..."),
        ("space.model=[alexnet]", "space.model: want a list of values, found '[alexnet]'; ..."),
        ("search.sampler.name=cmaes", "search.sampler.name: found 'cmaes'; allowed: ..."),
    ],
)
def test_a_set_value_is_checked_like_a_value_of_the_file(refused, text, message):
    line = refused("quickstart", "--set", text)
    assert_message(line, f"--set: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "space.optimizer=['adam']",
            "space.momentum.when.optimizer: optimizer is never 'sgd'; it is one of 'adam'",
        ),
        ("search.sampler=grid", "space.lr: sampler 'grid' wants lists or [[points]], found a range"),
    ],
)
def test_a_part_of_the_file_that_does_not_fit_to_a_set_value_is_named(refused, text, message):
    assert refused("quickstart", "--set", text) == f"{file.find_study_file('quickstart')}: {message}"


def test_problems_of_the_file_and_of_a_set_are_told_apart(refused, tmp_path):
    path = write_file(tmp_path, "[train]\nlr = 'x'\n[space]\nmomentum = [0.1, 0.2]\n")
    problems = f"(1) train.lr: {LR}, found 'x'; (2) --set: search.trials: want a whole number, at least 0"
    assert_message(refused(str(path), "--set", "search.trials=few"), f"{path}: 2 problems: {problems} ...")


def test_a_set_under_another_name_is_blamed_under_the_options_own(refused):
    line = refused("quickstart", "--set", "train.lr_scheduler=x")
    assert_message(line, "--set: train.schedule: found 'x'; allowed: ...")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr=inf", "--set: train.lr: want a finite number, found inf"),
        (
            "train.dataset=folder:\udcff",
            "argument 'train.dataset=folder:\\udcff': want UTF-8; rename what it names",
        ),
        ("train.epochs.x=1", "--set train.epochs.x=1: epochs is 3, not a table; set that as a whole"),
        (
            "space.batch_size.low=1",
            "--set space.batch_size.low=1: batch_size is [16, 32, 64], not a table; set that as a whole",
        ),
    ],
)
def test_a_set_value_that_cannot_be_stored_is_refused(refused, text, message):
    assert refused("quickstart", "--set", text) == message


@pytest.mark.parametrize(
    "text", ["space = 3", "train = 3", "points = 3", "points = [1]", "[points]\na = 1", "search = 3"]
)
@pytest.mark.parametrize("set_", ["train.optimizer=adam", "space.lr=[0.1]", "search.sampler.name=tpe"])
def test_a_set_on_a_broken_file_is_refused_in_one_line(refused, tmp_path, text, set_):
    refused(str(write_file(tmp_path, text)), "--set", set_)


# Enqueued settings


def test_an_enqueued_setting_is_checked_and_typed(tmp_path):
    found = load(tmp_path, FINETUNE)
    point = file.point_from_texts(found, ["lr=1e-2", "optimizer = adam", "epochs=3"])
    assert point.setting == {"lr": 0.01, "optimizer": "adam", "epochs": 3}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lr"], "'lr': want KEY=VALUE, such as lr=0.001"),
        (["=3"], "'=3': want KEY=VALUE, such as lr=0.001"),
        (["lr=x"], f"study 'finetune': setting.lr: {LR}, found 'x'"),
        (["lr=nan"], "study 'finetune': lr: want a finite number, found nan"),
        (["lrr=1"], f"study 'finetune': setting.lrr is not an option; did you mean 'lr'? {POINT_OPTIONS}"),
        (
            ["gamma=0.5"],
            "study 'finetune': gamma is fixed at 0.1; a setting may name model, optimizer, lr, ...",
        ),
        (["dataset=mnist"], "study 'finetune': dataset is fixed at 'cifar10'; a setting may name ..."),
        (
            ["model=resnet50"],
            "study 'finetune': setting.model: found 'resnet50', outside of what space.model searches ...",
        ),
        (
            ["optimizer=adam", "momentum=0.5"],
            "study 'finetune': setting.momentum: optimizer 'adam' has no momentum; ...",
        ),
    ],
)
def test_an_invalid_enqueued_setting_is_refused(tmp_path, texts, message):
    with pytest.raises(errors.DefinitionError) as caught:
        file.point_from_texts(load(tmp_path, FINETUNE), texts)
    assert_message(str(caught.value), message)


def test_an_enqueued_setting_needs_an_image_size_that_its_model_accepts(tmp_path):
    found = load(tmp_path, TRAIN + GRID + "[[points]]\nmodel = 'resnet18'\n")
    with pytest.raises(errors.DefinitionError, match=r"setting\.image_size: model 'alexnet' does not"):
        file.point_from_texts(found, ["model=alexnet"])
