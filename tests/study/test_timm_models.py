"""What a study file may ask of a model of timm."""

import pytest

from hpo.errors import DefinitionError
from hpo.study import file

STUDY = """
name = "s"
[train]
dataset = "digits"
{train}
[search]
sampler = "grid"
[[points]]
lr = 0.1
"""


def load(tmp_path, train: str):
    path = tmp_path / "s.toml"
    path.write_text(STUDY.format(train=train))
    return file.load_study_file(path, ())


@pytest.mark.parametrize(
    "train",
    [
        "model = 'timm/test_vit'",
        "model = 'timm/test_vit.r160_in1k'",
        "model = 'timm/test_vit'\nweights = 'r160_in1k'\ndropout = 0.1\ndrop_path = 0.1",
        "model = 'timm/test_coatnet'\nweights = 'none'",
        "model = 'timm/vit_base_patch14_dinov2'\nimage_size = 56",  # without a classifier, for 518 pixels
        "model = 'timm/densenet121'\ndropout = 0.1",
    ],
)
def test_models_and_weights_of_timm_are_accepted(tmp_path, train):
    assert load(tmp_path, train).train["model"].startswith("timm/")


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (
            "model = 'timm/convnext_tinny'",
            "timm has no model 'convnext_tinny'; did you mean 'timm/convnext_tiny'?",
        ),
        (
            "model = 'timm/tv_resnet34'",
            "timm has no model 'tv_resnet34'; did you mean 'timm/resnet34.tv_in1k'?",
        ),
        ("model = 'timm/'", "train.model: timm has no model ''"),
        (
            "model = 'convnextv2_tiny'",
            "has no classification model 'convnextv2_tiny'; did you mean 'timm/convnextv2_tiny'?",
        ),
        (
            "model = 'Timm/ResNet18'",
            "has no classification model 'Timm/ResNet18'; did you mean 'timm/resnet18'?",
        ),
        (
            "model = 'timm/resnet18.a1_in'",
            "no weights 'a1_in' for timm/resnet18; did you mean 'a1_in1k'? it has a1_in1k, a2",
        ),
        (
            "model = 'timm/resnet18'\nweights = 'r160_in1k'",
            "model 'timm/resnet18' has no weights 'r160_in1k'; did you",
        ),
        (
            "model = 'timm/resnet18.a1_in1k'\nweights = 'a2_in1k'",
            "has no weights 'a2_in1k'; did you mean 'a1_in1k'? it has",
        ),
        ("model = 'timm/test_coatnet'", "has no weights 'imagenet'; it has none; use 'none' or a file"),
        (
            "model = 'resnet18'\nweights = 'a1_in1k'",
            "'resnet18' has no weights 'a1_in1k', which are weights of timm",
        ),
        (
            "model = 'timm/resnet18'\nweights = 'a1_in2k'",
            "train.weights: found 'a1_in2k', and there is no such file",
        ),
        ("model = 'timm/levit_128'", "model: 'timm/levit_128' has 2 heads, and hpo trains models with one"),
        (
            "model = 'timm/mobilenetv5_300m_enc'\nweights = 'none'",
            "'timm/mobilenetv5_300m_enc' is no classifier",
        ),
        ("model = 'timm/densenet121'\ndrop_path = 0.1", "model 'timm/densenet121' has no stochastic depth"),
        (
            "model = 'timm/test_vit'\nimage_size = 8",
            "image_size: model 'timm/test_vit' does not accept images of 8 x 8",
        ),
    ],
)
def test_what_timm_lacks_or_cannot_do_is_refused_in_one_line(tmp_path, train, expected):
    with pytest.raises(DefinitionError) as refused:
        load(tmp_path, train)
    message = str(refused.value)
    assert expected in message
    assert "\n" not in message
