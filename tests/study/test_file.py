import re

import pytest

from hpo.cli.options import SHIPPED_STUDIES
from hpo.study import definition, file, search_options
from hpo.training import config
from tests.support.study_files import (
    BOTH,
    FINETUNE,
    GRID,
    POINT,
    SPACE,
    TRAIN,
    assert_message,
    in_search,
    in_space,
    load,
    searched_values,
    write_file,
)
from tests.support.wrong_controls import WRONG_CONTROLS
from tests.support.wrong_options import WRONG_OPTIONS
from tests.support.wrong_searches import WRONG_SEARCHES

CASES = WRONG_OPTIONS | WRONG_SEARCHES | WRONG_CONTROLS

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
            "'quickstart'? those that ship: " + ", ".join(SHIPPED_STUDIES),
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
    assert found.search.sampler == search_options.Sampler(name="tpe", seed=0)
    assert found.search.pruner == search_options.Pruner(name="hyperband", min_epochs=2, reduction_factor=3)
    assert [point.setting for point in found.points] == [
        {"model": "resnet18", "optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "batch_size": 16}
    ]
    assert found.setting_count == 51


def test_the_specified_example_is_shipped(tmp_path):
    assert file.load_study_file(file.find_study_file("finetune")) == load(tmp_path, FINETUNE)


def test_help_names_the_studies_that_ship():
    assert tuple(file.shipped_studies()) == SHIPPED_STUDIES


@pytest.mark.parametrize("name", SHIPPED_STUDIES)
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
    assert "preprocessing" in found.idle_options  # all three models ask for ImageNet's
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


def test_freeze_thaw_may_pause_trials_from_the_first_epoch_on(tmp_path):
    found = load(tmp_path, in_search("pruner = 'freeze_thaw'")).search.pruner
    later = load(tmp_path, in_search("pruner = { name = 'freeze_thaw', min_epochs = 4 }")).search.pruner
    assert (found.min_epochs, later.min_epochs) == (1, 4)


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
