"""Where models are cut, and that the two parts together give the output of the whole model."""

import gc
import weakref

import pytest
import torch
from torch import nn

from hpo.training import frozen, models, transforms
from hpo.training.config import Config
from tests.support import networks
from tests.support.models import has_state


def build(name: str, size: int = 64, **settings) -> tuple[nn.Module, Config, torch.Tensor]:
    config = Config(model=name, weights="none", tune="head", image_size=size, **settings)
    torch.manual_seed(0)
    inputs = transforms.normalise(torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8))
    return models.build_model(config, 10), config, inputs


@pytest.mark.parametrize(
    ("name", "size", "operation", "floats"),
    [
        pytest.param("alexnet", 64, "flatten", 256 * 6 * 6, marks=pytest.mark.slow),
        pytest.param("vgg16", 32, "classifier_1", 4096, marks=pytest.mark.slow),
        ("resnet18", 32, "flatten", 512),
        ("densenet121", 32, "flatten", 1024),
        ("mobilenet_v3_small", 32, "classifier_1", 1024),
        ("efficientnet_b0", 32, "flatten", 1280),
        pytest.param("convnext_tiny", 32, "classifier_1", 768, marks=pytest.mark.slow),
        ("swin_t", 32, "flatten", 768),
        pytest.param("swin_v2_t", 32, "flatten", 768, marks=pytest.mark.slow),
        pytest.param("maxvit_t", 224, "classifier_4", 512, marks=pytest.mark.slow),
        ("squeezenet1_1", 64, "cat_7", 512 * 3 * 3),
        pytest.param("vit_b_32", 224, "getitem_29", 768, marks=pytest.mark.slow),
    ],
)
def test_a_model_is_cut_before_what_is_trained_or_random(name, size, operation, floats):
    module, config, inputs = build(name, size)
    frozen_part = frozen.find_frozen_part(module, config, inputs)
    assert (frozen_part.name, frozen_part.bytes_per_image) == (operation, 4 * floats)
    before, after = frozen_part.split_module(module)
    for mode in ("eval", "train"):
        module.eval() if mode == "eval" else models.set_train_mode(module, config)
        with torch.no_grad():
            torch.manual_seed(1)
            whole = module(inputs)
            torch.manual_seed(1)
            assert torch.equal(after(before(inputs)), whole), mode


def test_without_dropout_a_model_is_cut_before_its_last_layer():
    module, config, inputs = build("mobilenet_v3_small", 32, dropout=0.0)
    assert (
        frozen.find_frozen_part(module, config, inputs).name == "classifier_2"
    )  # with dropout classifier_1


@pytest.mark.parametrize(
    ("name", "size", "random"),
    [
        ("efficientnet_b0", 32, {"drop_path": 0.2}),
        ("efficientnet_b0", 32, {"drop_path": None}),  # the model's own
        pytest.param("convnext_tiny", 32, {"drop_path": 0.1}, marks=pytest.mark.slow),
        pytest.param("swin_t", 32, {"drop_path": 0.1}, marks=pytest.mark.slow),
        pytest.param("swin_t", 32, {"dropout": 0.1}, marks=pytest.mark.slow),
        # Random from its first layer on.
        pytest.param("vit_b_32", 32 * 7, {"dropout": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_a_model_with_early_random_layers_is_not_cut(name, size, random):
    assert frozen.find_frozen_part(*build(name, size, **random)) is None


class SmallModel(nn.Module):
    """A backbone and a head; each test defines what lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3).requires_grad_(False)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def features(self, inputs):
        return self.backbone(inputs).mean((2, 3))


def find_cut(module: nn.Module) -> frozen.FrozenPart | None:
    return frozen.find_frozen_part(module, Config(tune="head"), torch.randn(2, 3, 8, 8))


def test_an_in_place_layer_behind_the_cut_does_not_change_the_features():
    class InPlace(SmallModel):
        def forward(self, inputs):
            features = self.features(inputs)
            positive = self.relu(features)
            return self.head(self.dropout(positive) + features)

    module = InPlace().eval()
    frozen_part = find_cut(module)
    assert frozen_part.name == "mean"
    before, after = frozen_part.split_module(module.eval())
    features = before(torch.randn(4, 3, 8, 8))
    kept = features.clone()
    assert (features < 0).any()
    after(features)
    assert torch.equal(features, kept)


def test_a_model_is_not_cut_where_two_tensors_cross():
    class Crossed(SmallModel):
        def forward(self, inputs):
            features = self.features(inputs)
            return self.head(self.dropout(features * 2) + features * 3)

    assert find_cut(Crossed()).name == "mean"


def test_a_model_is_not_cut_where_rows_are_not_images():
    class Summed(SmallModel):
        def forward(self, inputs):
            features = self.features(inputs)
            return self.head(self.dropout(features.sum(0)))

    assert find_cut(Summed()).name == "mean"


def test_a_model_that_cannot_be_traced_or_holds_constants_is_not_cut():
    class Branching(SmallModel):
        def forward(self, inputs):
            features = self.features(inputs)
            return self.head(features if features.sum() > 0 else -features)

    class Constant(SmallModel):
        def forward(self, inputs):
            return self.head(self.features(inputs) + torch.ones(8))

    class Optional(SmallModel):
        def forward(self, inputs, mask=None):
            features = self.features(inputs)
            return self.head(features if mask is None else features * mask.float())

    assert find_cut(Branching()) is None
    assert find_cut(Optional()) is None
    assert find_cut(Constant()) is None


def test_a_model_whose_operations_depend_on_the_mode_is_not_cut():
    class Functional(SmallModel):
        def forward(self, inputs):
            return self.head(nn.functional.dropout(self.features(inputs), 0.5, self.training))

    assert find_cut(Functional()) is None


def test_a_forward_that_draws_random_numbers_is_detected():
    class Noisy(SmallModel):
        def forward(self, inputs):
            features = self.features(inputs)
            return self.head(features * torch.rand_like(features))

    assert find_cut(Noisy()).name == "mean"


def test_finding_a_cut_leaves_generators_and_buffers_unchanged():
    module, config, inputs = build("mobilenet_v3_small")
    state = {key: value.clone() for key, value in module.state_dict().items()}
    before = torch.get_rng_state()
    frozen.find_frozen_part(module, config, inputs)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_a_cut_keeps_no_module_in_memory():
    module, config, inputs = build("resnet18")
    frozen_part = frozen.find_frozen_part(module, config, inputs)
    frozen_part.split_module(module)
    reference = weakref.ref(module.conv1)
    del module
    gc.collect()
    assert reference() is None


def test_a_network_of_the_users_own_is_cut_before_its_dropout():
    module, config, inputs = build(networks.name(networks.WithHead), 32)
    frozen_part = frozen.find_frozen_part(module, config, inputs)
    assert (frozen_part.name, frozen_part.bytes_per_image) == ("mean", 4 * 16)


def test_a_layer_that_draws_a_random_number_in_python_lies_behind_the_cut():
    module, config, inputs = build(networks.name(networks.DropsInPython), 32)
    assert frozen.find_frozen_part(module, config, inputs).name == "body_4"  # the dropping layer is body_5


@pytest.mark.parametrize(
    "function",
    [
        *(networks.CountsSteps, networks.DrawsInPython, networks.with_hook, networks.ReadsValues),
        networks.TrainsOnHalf,
    ],
)
def test_a_network_whose_trace_would_do_something_else_is_not_cut(function):
    module, config, inputs = build(networks.name(function), 32)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert frozen.find_frozen_part(module, config, inputs) is None
    assert has_state(module, before)
