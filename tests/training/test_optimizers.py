import pytest
import torch
from torch import nn

from hpo.training import config, optimizers


def train_weights(settings: config.Config, build) -> torch.Tensor:
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    images, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 1])
    steps = build(settings, layer.parameters())
    for _ in range(5):
        steps.zero_grad()
        nn.functional.cross_entropy(layer(images), labels).backward()
        steps.step()
    return layer.weight.detach()


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.7, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.01),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.7, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_agree_with_the_plain_optimizer(name):
    settings = config.Config(optimizer=name, lr=0.1, momentum=0.7, weight_decay=0.01)
    expected = train_weights(settings, lambda _, parameters: OPTIMIZERS[name](parameters))
    torch.testing.assert_close(
        train_weights(settings, optimizers.build_optimizer), expected, rtol=1e-6, atol=1e-7
    )


def test_nesterov_is_used_only_with_momentum():
    layer = nn.Linear(2, 2)
    for momentum, used in ((0.9, True), (0.0, False)):
        settings = config.Config(nesterov=True, momentum=momentum)
        assert optimizers.build_optimizer(settings, layer.parameters()).defaults["nesterov"] is used


def test_arguments_without_an_option_have_torchs_defaults():
    layer = nn.Linear(2, 2)
    for name in OPTIMIZERS:
        settings = config.Config(optimizer=name, lr=1e-3, momentum=0.0)
        kind = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}[name]
        plain = getattr(torch.optim, kind)(layer.parameters(), lr=1e-3, weight_decay=0.0)
        assert optimizers.build_optimizer(settings, layer.parameters()).defaults | {
            "fused": None
        } == plain.defaults | {"fused": None}


def test_frozen_parameters_are_left_out():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    (group,) = optimizers.build_optimizer(config.Config(), layer.parameters()).param_groups
    assert group["params"] == [layer.weight]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_cross_entropy_with_smoothing(smoothing):
    torch.manual_seed(0)
    logits_NK, labels_N = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = optimizers.loss_function(config.Config(label_smoothing=smoothing))
    targets_NK = (1 - smoothing) * nn.functional.one_hot(labels_N, 4) + smoothing / 4
    expected = -(targets_NK * logits_NK.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss(logits_NK, labels_N), expected)


def test_the_margin_loss_is_the_mean_hinge_over_the_other_classes():
    torch.manual_seed(0)
    logits_NK, labels_N = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = optimizers.loss_function(config.Config(loss="multi_margin"))
    correct_N1 = logits_NK.gather(1, labels_N[:, None])
    hinges_NK = (1 - correct_N1 + logits_NK).clamp(min=0)
    expected = ((hinges_NK.sum(dim=1) - 1) / 4).mean()  # the hinge of the correct class is 1
    torch.testing.assert_close(loss(logits_NK, labels_N), expected)
