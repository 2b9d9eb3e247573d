import pytest
import torch
import torchvision
from torch import nn

from hpo.training import catalog, models
from tests.support.models import has_state, settings, shapes_only

FAMILIES = (
    "resnet18",
    "alexnet",
    "vgg16",
    "squeezenet1_1",
    "mobilenet_v3_small",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "maxvit_t",
    "googlenet",
    "inception_v3",
)

# The last layer


def test_only_the_last_layer_of_the_reports_models_is_replaced():
    with torch.device("meta"):
        alexnet, vgg16 = torchvision.models.alexnet(), torchvision.models.vgg16()
        resnet18 = torchvision.models.resnet18()
    alexnet.classifier[6] = nn.Linear(4096, 10)
    vgg16.classifier[6] = nn.Linear(4096, 10)
    resnet18.fc = nn.Linear(512, 10)
    for name, expected in (("alexnet", alexnet), ("vgg16", vgg16), ("resnet18", resnet18)):
        assert str(shapes_only(settings(name), 10)) == str(expected)


def test_an_untrained_resnet18_is_bit_identical_to_one_built_with_torchvision():
    torch.manual_seed(7)
    expected = torchvision.models.resnet18(weights=None)
    expected.fc = nn.Linear(512, 10)
    torch.manual_seed(7)
    assert has_state(models.build_model(settings(), 10), expected.state_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_one_logit_per_class_and_only_its_last_layer_differs(name):
    module = shapes_only(settings(name, drop_path=None), 7)
    last, layer = models.get_head(module)
    size = 299 if name == "inception_v3" else 224
    for mode in (True, False):
        assert module.train(mode)(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)
    original = catalog.build_on_meta(name)
    old = original.get_submodule(last)
    assert type(layer) is type(old)
    assert old.weight.shape[0] == 1000
    assert (layer.bias is None) is (old.bias is None)
    original.set_submodule(last, layer)
    assert str(module) == str(original)


@pytest.mark.slow
def test_the_last_layer_of_every_torchvision_model_has_1000_outputs():
    for name in catalog.model_names():
        _, layer = models.get_head(catalog.build_on_meta(name))
        assert layer.weight.shape[0] == 1000, name


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_heads_return_one_tensor_in_training(name):
    torch.manual_seed(0)
    module = models.build_model(settings(name), 3)
    models.set_train_mode(module, settings(name))
    logits_NK = module(torch.randn(2, 3, 75, 75))
    assert logits_NK.shape == (2, 3)
    logits_NK.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


# Dropout and frozen layers


def test_dropout_sets_every_dropout_layer_and_defaults_to_the_models_own():
    def probabilities(**options):
        module = shapes_only(settings("efficientnet_b0", **options), 10)
        return {layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)}

    assert probabilities() == {0.2}
    assert probabilities(dropout=0.0) == {0.0}
    assert probabilities(dropout=0.35) == {0.35}


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "squeezenet1_1", "vit_b_16"])
def test_tuning_the_head_trains_only_the_last_layer(name):
    module = shapes_only(settings(name, tune="head"), 10)
    last, _ = models.get_head(module)
    trained = {key for key, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == {f"{last}.weight", f"{last}.bias"}
    everything = shapes_only(settings(name), 10)
    assert all(parameter.requires_grad for parameter in everything.parameters())


@pytest.mark.parametrize("tune", ["head", "all"])
def test_a_training_step_changes_neither_frozen_weights_nor_running_statistics(tune):
    torch.manual_seed(0)
    options = settings(tune=tune)
    module = models.build_model(options, 10)
    models.set_train_mode(module, options)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    nn.functional.cross_entropy(module(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    changed = {key for key, tensor in module.state_dict().items() if not torch.equal(tensor, before[key])}
    if tune == "head":
        assert changed == {"fc.weight", "fc.bias"}
    else:
        assert changed == set(before)


def test_train_mode_keeps_dropout_on_and_frozen_batch_norms_off():
    options = settings("efficientnet_b0", tune="head")
    module = shapes_only(options, 10)
    models.set_train_mode(module.eval(), options)
    for layer in module.modules():
        assert layer.training is not isinstance(layer, nn.BatchNorm2d)
