"""Where models are cut, and that what lies before and after gives what the whole model gives."""

import gc
import weakref

import pytest
import torch
from torch import nn

from hpo.training import frozen, models, transforms
from hpo.training.config import Config


def built(name: str, size: int = 64, **settings) -> tuple[nn.Module, Config, torch.Tensor]:
    config = Config(model=name, weights="none", tune="head", image_size=size, **settings)
    torch.manual_seed(0)
    inputs = transforms.normalise(torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8))
    return models.build_model(config, 10), config, inputs


@pytest.mark.parametrize(
    ("name", "size", "operation", "floats"),
    [
        ("alexnet", 64, "flatten", 256 * 6 * 6),
        ("vgg16", 32, "classifier_1", 4096),
        ("resnet18", 32, "flatten", 512),
        ("densenet121", 32, "flatten", 1024),
        ("mobilenet_v3_small", 32, "classifier_1", 1024),
        ("squeezenet1_1", 64, "cat_7", 512 * 3 * 3),
        ("vit_b_32", 224, "getitem_29", 768),
    ],
)
def test_a_model_is_cut_before_what_is_trained_or_random(name, size, operation, floats):
    module, config, inputs = built(name, size)
    found = frozen.find_frozen_part(module, config, inputs)
    assert (found.name, found.bytes_per_image) == (operation, 4 * floats)
    before, after = found.split_module(module)
    for mode in ("eval", "train"):
        module.eval() if mode == "eval" else models.set_train_mode(module, config)
        with torch.no_grad():
            torch.manual_seed(1)
            whole = module(inputs)
            torch.manual_seed(1)
            assert torch.equal(after(before(inputs)), whole), mode


def test_without_dropout_a_model_is_cut_before_its_last_layer():
    for name, operation in (("alexnet", "classifier_5"), ("mobilenet_v3_small", "classifier_2")):
        module, config, inputs = built(name, dropout=0.0)
        assert frozen.find_frozen_part(module, config, inputs).name == operation


@pytest.mark.parametrize(
    ("name", "size", "dropout"),
    [
        ("efficientnet_b0", 32, None),
        ("convnext_tiny", 32, None),
        ("swin_t", 32, None),
        ("vit_b_32", 32 * 7, 0.1),  # random from its first layer on
    ],
)
def test_a_model_that_is_random_from_early_on_is_not_cut(name, size, dropout):
    assert frozen.find_frozen_part(*built(name, size, dropout=dropout)) is None


class Own(nn.Module):
    """A backbone and a head; what lies between is each test's own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3).requires_grad_(False)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def features(self, inputs):
        return self.backbone(inputs).mean((2, 3))


def find(module: nn.Module) -> frozen.FrozenPart | None:
    return frozen.find_frozen_part(module, Config(tune="head"), torch.randn(2, 3, 8, 8))


def test_a_layer_that_works_in_place_behind_the_cut_leaves_the_features_alone():
    class InPlace(Own):
        def forward(self, inputs):
            features = self.features(inputs)
            positive = self.relu(features)
            return self.head(self.dropout(positive) + features)

    module = InPlace().eval()
    found = find(module)
    assert found.name == "mean"
    before, after = found.split_module(module.eval())
    features = before(torch.randn(4, 3, 8, 8))
    kept = features.clone()
    assert (features < 0).any()
    after(features)
    assert torch.equal(features, kept)


def test_a_model_is_not_cut_where_two_tensors_cross():
    class Crossed(Own):
        def forward(self, inputs):
            features = self.features(inputs)
            return self.head(self.dropout(features * 2) + features * 3)

    assert find(Crossed()).name == "mean"


def test_a_model_is_not_cut_where_its_rows_are_not_those_of_images():
    class Summed(Own):
        def forward(self, inputs):
            features = self.features(inputs)
            return self.head(self.dropout(features.sum(0)))

    assert find(Summed()).name == "mean"


def test_a_model_that_cannot_be_traced_or_holds_constants_is_not_cut():
    class Branching(Own):
        def forward(self, inputs):
            features = self.features(inputs)
            return self.head(features if features.sum() > 0 else -features)

    class Constant(Own):
        def forward(self, inputs):
            return self.head(self.features(inputs) + torch.ones(8))

    assert find(Branching()) is None
    assert find(Constant()) is None


def test_a_model_whose_steps_depend_on_the_mode_is_not_cut():
    class Functional(Own):
        def forward(self, inputs):
            return self.head(nn.functional.dropout(self.features(inputs), 0.5, self.training))

    assert find(Functional()) is None


def test_a_forward_that_draws_by_itself_is_found_out():
    class Noisy(Own):
        def forward(self, inputs):
            features = self.features(inputs)
            return self.head(features * torch.rand_like(features))

    assert find(Noisy()).name == "mean"


def test_finding_a_cut_leaves_generators_and_buffers_as_they_were():
    module, config, inputs = built("mobilenet_v3_small")
    state = {key: value.clone() for key, value in module.state_dict().items()}
    before = torch.get_rng_state()
    frozen.find_frozen_part(module, config, inputs)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_a_cut_keeps_no_module_in_memory():
    module, config, inputs = built("resnet18")
    found = frozen.find_frozen_part(module, config, inputs)
    found.split_module(module)
    gone = weakref.ref(module.conv1)
    del module
    gc.collect()
    assert gone() is None
