"""Other spellings of options, wherever a study names one."""

import pytest

from hpo.errors import DefinitionError
from hpo.study import definition, file
from hpo.study.aliases import SEARCH_ALIASES, TRAIN_ALIASES
from hpo.study.search_options import Search
from hpo.training import config

PLAIN = """
[train]
dataset = "digits"
image_size = 32
weights = "none"
valid_fraction = 0.2
[space]
lr = [0.1, 0.2]
schedule = ["step", "cosine"]
step_size = { choices = [3, 5], when = { schedule = "step" } }
[search]
trials = 3
[[points]]
lr = 0.1
schedule = "cosine"
"""
SPELLED = """
[train]
dataset = "digits"
imgsz = 32
pretrained = false
val_fraction = 0.2
[space]
lr = [0.1, 0.2]
lr_scheduler = ["step", "cosine"]
step_size = { choices = [3, 5], when = { lr_scheduler = "step" } }
[search]
n_trials = 3
[[points]]
lr = 0.1
lr_scheduler = "cosine"
"""
PRETRAINED = """
[train]
dataset = "digits"
img_size = 32
[space]
pretrained = {}
lr = {{ choices = [0.1, 0.2], when = {{ pretrained = {} }} }}
"""


def load(tmp_path, text: str, *sets: str) -> definition.Definition:
    (tmp_path / "s.toml").write_text(text)
    return file.load_study_file(tmp_path / "s.toml", sets)


def refusal(tmp_path, text: str, *sets: str) -> str:
    with pytest.raises(DefinitionError) as refused:
        load(tmp_path, text, *sets)
    return str(refused.value).removeprefix(f"{tmp_path / 's.toml'}: ")


def test_every_alias_is_the_same_as_an_option(tmp_path):
    assert {*TRAIN_ALIASES.values()} <= {*config.OPTIONS}
    assert not TRAIN_ALIASES.keys() & {*config.OPTIONS}
    assert {*SEARCH_ALIASES.values()} <= Search.model_fields.keys()
    assert load(tmp_path, SPELLED) == load(tmp_path, PLAIN)


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("train.imgsz=64", "train.image_size=64"),
        ("train.img_size=64", "train.image_size=64"),
        ("train.lr_scheduler=cosine", "train.schedule=cosine"),
        ("train.pretrained=true", "train.weights=imagenet"),
        ("train.pretrained=False", "train.weights=none"),
        ("space.imgsz=[32,224]", "space.image_size=[32,224]"),
        ("space.pretrained=[false,true]", 'space.weights=["none","imagenet"]'),
        ("space.step_size.when.lr_scheduler=step", "space.step_size.when.schedule=step"),
        ("search.n_trials=7", "search.trials=7"),
    ],
)
def test_an_alias_is_set_like_the_option(tmp_path, spelled, plain):
    expected = load(tmp_path, PLAIN, plain)
    assert load(tmp_path, PLAIN, spelled) == load(tmp_path, SPELLED, spelled) == expected
    assert load(tmp_path, SPELLED, plain) == expected


@pytest.mark.parametrize(
    ("listed", "wanted"), [("[true, false]", "true"), ("{ choices = [true, false] }", "[true]")]
)
def test_pretrained_is_searched_as_weights(tmp_path, listed, wanted):
    found = load(tmp_path, PRETRAINED.format(listed, wanted))
    values = {each.name: each.values for each in found.space}
    assert values["weights"].choices == ("imagenet", "none")
    assert values["lr"].when == {"weights": ("imagenet",)}


def test_a_setting_is_queued_with_aliases(tmp_path):
    found = load(tmp_path, PLAIN)
    texts = ["lr=0.2", "lr_scheduler=cosine"]
    assert file.point_from_texts(found, texts).setting == {"lr": 0.2, "schedule": "cosine"}
    with pytest.raises(DefinitionError, match=r"setting\.schedule: the same option as setting\.lr_sch"):
        file.point_from_texts(found, [*texts, "schedule=step"])


def test_an_option_under_two_names_is_refused_everywhere_at_once(tmp_path):
    text = SPELLED.replace("imgsz = 32", "imgsz = 32\nimg_size = 32\nimage_size = 32")
    text = text.replace("n_trials = 3", "n_trials = 3\ntrials = 3") + 'schedule = "step"\n'
    assert refusal(tmp_path, text) == (
        "4 problems: (1) search.trials: the same option as search.n_trials; keep one; (2) train.img_size: "
        "the same option as train.imgsz; keep one; (3) train.image_size: the same option as train.imgsz; "
        "keep one; (4) points[1].schedule: the same option as points[1].lr_scheduler; keep one"
    )


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ("[train]\npretrained = 'IMAGENET1K_V2'", "train.pretrained", "'IMAGENET1K_V2'"),
        ("[space]\npretrained = [true, 1]", "space.pretrained[2]", "1"),
        (
            "[space]\nlr = { choices = [1.0], when = { pretrained = 'x' } }",
            "space.lr.when.pretrained",
            "'x'",
        ),
    ],
)
def test_pretrained_is_true_or_false(tmp_path, text, key, found):
    assert refusal(tmp_path, text) == (
        f"{key}: want true or false, found {found}; for other weights than ImageNet's, give the option "
        "weights"
    )


def test_a_custom_objective_may_have_options_of_these_names(tmp_path):
    text = '[train]\nobjective = "json:loads"\nimgsz = 3\n[space]\npretrained = ["a", "b"]\n'
    found = load(tmp_path, f"{text}[search]\nn_trials = 4\n", "train.img_size=5")
    assert (found.train["imgsz"], found.train["img_size"]) == (3, 5)
    assert [each.name for each in found.space] == ["pretrained"]
    assert found.search.trials == 4
