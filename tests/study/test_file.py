import re
import sys
from pathlib import Path

import pytest

from hpo import errors
from hpo.cli import main
from hpo.study import definition, file, space
from hpo.study.definition import Definition
from hpo.training import config
from tests.support.study_files import (
    BOTH,
    CASES,
    FINETUNE,
    GRID,
    LR,
    OPTIONS,
    POINT,
    POINT_OPTIONS,
    SPACE,
    TRAIN,
    in_search,
    in_space,
)

# The original report's 14 points: site, epochs, model, batch size, optimizer, lr, momentum.
REPORT = """
C 30 alexnet  16 sgd  0.001   0.9
C 30 alexnet  16 adam 0.001   -
C 30 vgg16    16 sgd  0.001   0.9
C 30 vgg16    16 adam 0.001   -
C 30 resnet18 16 sgd  0.001   0.9
C 30 resnet18 16 adam 0.001   -
L 20 resnet18 16 sgd  0.1     0.9
L 20 resnet18 16 sgd  0.001   0.9
L 20 resnet18 16 sgd  0.00001 0.9
L 20 resnet18 16 sgd  0.001   0.45
L 20 resnet18 16 sgd  0.001   0.0
L 20 resnet18  8 sgd  0.001   0.9
L 20 resnet18 32 sgd  0.001   0.9
L 20 resnet18 64 sgd  0.001   0.9
"""


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Return a function that runs ``hpo create``, checks that it is refused, and returns the error line."""

    def run(*args: str) -> str:
        store = tmp_path / "store" / "hpo.db"
        monkeypatch.setattr(sys, "argv", ["hpo", "create", *args, "--store", f"sqlite:///{store}"])
        with pytest.raises(SystemExit) as exit_:
            main.run_command_line()
        out, err = capsys.readouterr()
        assert (exit_.value.code, out) == (1, "")
        assert err.startswith("hpo: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert not store.parent.exists()
        return err.removeprefix("hpo: ").removesuffix("\n")

    return run


def assert_message(line: str, expected: str) -> None:
    if expected.endswith(" ..."):
        assert line.startswith(expected.removesuffix(" ...")), line
    else:
        assert line == expected


def write_file(folder: Path, text: str | bytes, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(folder: Path, text: str | bytes, *sets: str, name: str | None = None) -> Definition:
    return file.load_study_file(write_file(folder, text), sets, name)


def searched_values(found: Definition) -> dict[str, str]:
    return {parameter.name: str(parameter.values) for parameter in found.space}


@pytest.mark.parametrize("wrong", CASES)
def test_a_study_file_is_refused_in_one_line(refused, tmp_path, wrong):
    text, expected = CASES[wrong]
    path = write_file(tmp_path, text)
    assert_message(refused(str(path)), f"{path}: {expected}")


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (
            "quickstrat",
            "quickstrat: no such study file, and none of that name ships with hpo; did you mean "
            "'quickstart'? those that ship: finetune, original-grid, quickstart, wishlist",
        ),
        (
            "my/folder/of/studies/finetun.toml",
            "my/folder/of/studies/finetun.toml: no such study file, ...; did you mean 'finetune'? ...",
        ),
        (
            "nowhere.toml",
            "nowhere.toml: no such study file, and none of that name ships with hpo; those ...",
        ),
        ("~nobody-at-all/x.toml", "~nobody-at-all/x.toml: no such study file, ..."),
        (1000 * "x", "xxx...xxx: no such study file, ..."),
        ("two\nlines", "two lines: no such study file, ..."),
        ("/", "/: want a study file, found a folder"),
        ("", "'': want a study file, found a folder"),
    ],
)
def test_an_unknown_study_is_refused_with_the_nearest_name(refused, study, message):
    line = refused(study)
    assert re.match(re.escape(message).replace(re.escape("..."), ".*"), line), line


def test_a_file_that_is_not_utf8_is_refused(refused, tmp_path):
    path = write_file(tmp_path, TRAIN.encode("utf-16"))
    assert refused(str(path)).startswith(f"{path}: not a TOML file: 'utf-8' codec can't decode byte 0xff")


def test_the_create_command_refuses_in_one_line_and_creates_nothing(workplace):
    study = workplace.study(in_space("lr = { low = 0.1, high = nan }"))
    done = workplace.hpo("create", study, code=1)
    assert (done.out, done.err) == ("", "hpo: small.toml: space.lr.high: want a finite number, found nan\n")
    assert not (workplace.path / "storage").exists()


def test_a_name_that_is_not_utf8_is_refused(refused):
    assert refused("quickstart", "--name", "\udcff") == (
        "argument '\\udcff': want UTF-8; rename what it names"
    )


# Loading


def test_the_specified_example_is_loaded_as_specified(tmp_path):
    found = load(tmp_path, FINETUNE)
    assert found.name == "finetune"
    assert found.trial_config({}) == config.Config(epochs=20)
    assert searched_values(found) == {
        "model": "'alexnet', 'vgg16', 'resnet18'",
        "optimizer": "'sgd', 'adam'",
        "lr": "1e-05 to 0.1, log",
        "momentum": "0.0 to 0.95, when optimizer is 'sgd'",
        "batch_size": "8, 16, 32, 64",
    }
    assert found.search.trials == 50
    assert found.search.sampler == definition.Sampler(name="tpe", seed=0)
    assert found.search.pruner == definition.Pruner(name="hyperband", min_epochs=2, reduction_factor=3)
    assert [point.setting for point in found.points] == [
        {"model": "resnet18", "optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "batch_size": 16}
    ]
    assert found.setting_count == 51


def test_the_specified_example_is_shipped(tmp_path):
    assert file.load_study_file(file.find_study_file("finetune")) == load(tmp_path, FINETUNE)


@pytest.mark.parametrize("name", ["finetune", "original-grid", "quickstart", "wishlist"])
def test_a_shipped_study_is_found_by_its_name_and_states_its_source_cost_and_command(name):
    path = file.find_study_file(name)
    assert file.load_study_file(path).name == path.stem == name
    comment = path.read_text().partition("\n\n")[0]
    for heading in ("# Source:", "# Cost:", f"# Run it:  hpo run {name}"):
        assert heading in comment


def test_the_original_grid_equals_the_table_of_the_report():
    found = file.load_study_file(file.find_study_file("original-grid"))
    rows = []
    for point in found.points:
        setting = dict(point.setting)
        momentum = setting.pop("momentum", "-")
        columns = ("epochs", "model", "batch_size", "optimizer", "lr")
        rows.append((point.attributes["site"], *(setting.pop(column) for column in columns), momentum))
        assert setting == {}
    table = [line.split() for line in REPORT.strip().splitlines()]
    assert rows == [
        (site, int(epochs), model, int(batch), optimizer, float(lr), m if m == "-" else float(m))
        for site, epochs, model, batch, optimizer, lr, m in table
    ]
    assert len(rows) == found.setting_count == 14
    procedure = config.Config(schedule="step", step_size=5, gamma=0.1, loss="cross_entropy", tune="all")
    assert found.trial_config({}) == procedure.model_copy(update={"selection": "test", "image_size": 224})
    assert (found.train["dataset"], found.train["weights"]) == ("cifar10", "imagenet")


def test_the_original_grid_notes_that_the_report_contradicts_itself_on_point_9():
    text = file.find_study_file("original-grid").read_text()
    note, _, point = text.partition("[[points]]                          # 9")
    assert "lr = 1e-5" in point.partition("[[points]]")[0]
    note = note.rpartition("\n\n")[2]
    for part in ("0.0001", "0.00001 four times", "write lr = 1e-4"):
        assert part in note


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    text = TRAIN + SPACE
    plain = load(tmp_path, text)
    assert load(tmp_path, "\ufeff" + text.replace("\n", "\r\n")) == plain


def test_a_study_without_a_name_is_named_after_its_file(tmp_path):
    path = write_file(tmp_path, TRAIN + SPACE, "Größen 数字.toml")
    assert file.load_study_file(path).name == "Größen 数字"
    assert file.load_study_file(path, name="other").name == "other"


def test_non_ascii_names_are_kept(tmp_path):
    found = load(tmp_path, f'name = "日本 🎉"\n{TRAIN}{GRID}[[points]]\nsite = "Köln"\nlr = 0.1\n')
    assert (found.name, found.points[0].attributes["site"]) == ("日本 🎉", "Köln")
    assert definition.load_definition(definition.dump_definition(found)) == found


def test_a_sampler_and_a_pruner_may_be_given_as_a_name(tmp_path):
    short = load(tmp_path, in_search("sampler = 'qmc'\npruner = 'asha'"))
    assert short == load(tmp_path, in_search("sampler = { name = 'qmc' }\npruner = { name = 'asha' }"))


def test_whole_numbers_are_accepted_for_fractions(tmp_path):
    found = load(
        tmp_path,
        in_space("lr = [1, 0.1]\nweight_decay = { low = 0, high = 1, step = 1 }", "[[points]]\nlr = 1"),
    )
    assert searched_values(found) == {"lr": "1.0, 0.1", "weight_decay": "0.0 to 1.0, step 1"}
    assert repr(found.points[0].setting["lr"]) == "1.0"


def test_a_grid_of_lists_has_each_distinct_combination(tmp_path):
    found = load(tmp_path, in_space(f"momentum = [0.0, 0.9]\n{BOTH}", GRID))
    assert [point.setting for point in found.points] == [
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam"},
    ]


def test_a_grid_of_points_has_only_its_points(tmp_path):
    found = load(tmp_path, TRAIN + SPACE + GRID + "[[points]]\nlr = 0.7\n")
    assert [point.setting for point in found.points] == [{"lr": 0.7}]
    assert found.setting_count == 1


def test_points_alone_need_no_trials(tmp_path):
    assert load(tmp_path, f"{TRAIN}[search]\ntrials = 0\n{POINT}").setting_count == 1


def test_a_model_is_checked_at_the_image_sizes_that_it_is_trained_on(tmp_path):
    small = (
        "model = ['alexnet', 'resnet18']\nimage_size = { choices = [32], when = { model = 'resnet18' } }"
    )
    found = load(tmp_path, f"[space]\n{small}")
    assert {c.model: c.image_size for _, c in found.model_configs()} == {"alexnet": 224, "resnet18": 32}


def test_dropout_is_searched_for_the_models_that_have_it(tmp_path):
    dropout = "dropout = { low = 0.0, high = 0.5, when = { model = 'mobilenet_v2' } }"
    found = load(tmp_path, in_space(f"model = ['mobilenet_v2', 'resnet18']\n{dropout}"))
    assert searched_values(found)["dropout"] == "0.0 to 0.5, when model is 'mobilenet_v2'"


def test_the_stored_source_is_the_file_below_the_options_of_the_command(tmp_path):
    path = write_file(tmp_path, TRAIN + SPACE)
    text = file.annotated_source(str(path), ["train.epochs=1", "space.lr=[\n0.1]"])
    assert text == f"# --set train.epochs=1\n# --set space.lr=[ 0.1]\n{TRAIN}{SPACE}"
    assert load(tmp_path, text) == load(tmp_path, TRAIN + SPACE)
    named = file.annotated_source(str(path), ["train.epochs=1"], "replay")
    assert named == f"# --name replay\n# --set train.epochs=1\n{TRAIN}{SPACE}"


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
        (["search.sampler=random"], definition.Sampler(name="random")),
        (["search.sampler.name=random"], definition.Sampler(name="random", seed=7)),
        (["search.sampler.seed=3"], definition.Sampler(name="gp", seed=3)),
        (["search.sampler=qmc", "search.sampler.seed=3"], definition.Sampler(name="qmc", seed=3)),
        (["search.sampler={name='random', seed=2}"], definition.Sampler(name="random", seed=2)),
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
        (
            "space.optimizer=['adam']",
            "space.momentum.when.optimizer: optimizer is never 'sgd'; it is one of 'adam'",
        ),
        ("search.sampler.name=cmaes", "search.sampler.name: found 'cmaes'; allowed: ..."),
        ("search.sampler=grid", "space.lr: sampler 'grid' wants lists or [[points]], found a range"),
    ],
)
def test_a_set_value_is_checked_like_a_value_of_the_file(refused, text, message):
    line = refused("quickstart", "--set", text)
    assert_message(line, f"{file.find_study_file('quickstart')}: {message}")


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
