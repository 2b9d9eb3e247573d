"""What a study file may ask of a network of the user's own."""

import pytest

from hpo.errors import DefinitionError
from hpo.study import file
from tests.support import networks

OWN = networks.name(networks.WithHead)
STUDY = """
name = "s"
[train]
dataset = "digits"
image_size = 32
weights = "none"
epochs = 2
{train}
[space]
lr = [0.1, 0.2]
{space}
"""


def load(tmp_path, train: str = f"model = '{OWN}'", space: str = "", *sets: str):
    path = tmp_path / "s.toml"
    path.write_text(STUDY.format(train=train, space=space))
    return file.load_study_file(path, sets)


def refusal(tmp_path, *args: str) -> str:
    with pytest.raises(DefinitionError) as refused:
        load(tmp_path, *args)
    message = str(refused.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path / 's.toml'}: ")


def model(function) -> str:
    return f"model = '{networks.name(function)}'"


def test_a_network_of_the_users_own_can_be_fixed_searched_or_listed(tmp_path):
    assert load(tmp_path).models() == {OWN}
    found = load(tmp_path, "", f"model = ['resnet18', '{OWN}']\ntune = ['all', 'head']")
    assert found.models() == {"resnet18", OWN}
    points = f"[[points]]\nlr = 0.1\nmodel = '{OWN}'"
    assert load(tmp_path, "model = 'resnet18'", points).models() == {"resnet18", OWN}
    assert load(tmp_path, "", "", f"train.model={OWN}").train["model"] == OWN


def test_imagenet_weights_can_be_used_beside_a_network_of_the_users_own(tmp_path):
    message = refusal(tmp_path, f"model = '{OWN}'", "", "train.weights=imagenet")
    assert message.startswith(
        f"--set: weights: there are no ImageNet weights for '{OWN}', a network of your own; "
    )
    choices = f"weights = {{ choices = ['none'], when = {{ model = '{OWN}' }} }}"
    text = STUDY.format(train="", space=f"model = ['resnet18', '{OWN}']\n{choices}")
    (tmp_path / "s.toml").write_text(text.replace('weights = "none"', ""))
    settings = [config for _, config in file.load_study_file(tmp_path / "s.toml", ()).model_configs()]
    assert {(each.model, each.weights) for each in settings} == {("resnet18", "imagenet"), (OWN, "none")}


@pytest.mark.parametrize(
    ("train", "space", "message"),
    [
        (
            "model = 'own:'",
            "",
            "train.model: found 'own:'; a network of your own is named package.module:func",
        ),
        (
            "model = 'a b:c'",
            "",
            "train.model: found 'a b:c'; a network of your own is named package.module:fu",
        ),
        (
            "",
            "model = ['resnet18', ':x']",
            "space.model[2]: found ':x'; a network of your own is named packag",
        ),
        ("model = 'nowhere_at_all:net'", "", "model: 'nowhere_at_all:net': no module 'nowhere_at_all' in "),
        (
            "model = '__main__:net'",
            "",
            "model: '__main__:net': '__main__:net' is a function of a notebook or",
        ),
        (
            model(networks.raising),
            "",
            "model: 'tests.support.networks:raising': called with num_classes=7, i",
        ),
        (
            model(networks.Small),
            "tune = ['all', 'head']",
            "tune: 'tests.support.networks:Small' does not say",
        ),
        (
            model(networks.DeepHead),
            "dropout = [0.1]",
            "dropout: model 'tests.support.networks:DeepHead' has ",
        ),
        (
            model(networks.TwoOutputs),
            "",
            "model: 'tests.support.networks:TwoOutputs': with num_classes=7, it",
        ),
        (
            model(networks.FixedSize),
            "",
            "image_size: model 'tests.support.networks:FixedSize' does not accept images of 32 x 32 "
            "pixels (RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x784 and 3600x7) "
            "(networks.py, line 25)); use 64, for example",
        ),
    ],
)
def test_a_network_that_does_not_fit_the_study_is_refused(tmp_path, train, space, message):
    assert refusal(tmp_path, train, space).startswith(message)
