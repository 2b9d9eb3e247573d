import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from hpo.training import config, optimizers, parameter_groups


def train_weights(settings: config.Config, build) -> torch.Tensor:
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    images, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 1])
    steps = build(settings, parameter_groups.group_parameters(layer, settings))
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
    expected = train_weights(settings, lambda _, groups: OPTIMIZERS[name](groups[0].parameters))
    torch.testing.assert_close(
        train_weights(settings, optimizers.build_optimizer), expected, rtol=1e-6, atol=1e-7
    )


def test_nesterov_is_used_only_with_momentum():
    layer = nn.Linear(2, 2)
    for momentum, used in ((0.9, True), (0.0, False)):
        settings = config.Config(nesterov=True, momentum=momentum)
        groups = parameter_groups.group_parameters(layer, settings)
        assert optimizers.build_optimizer(settings, groups).defaults["nesterov"] is used


def test_arguments_without_an_option_have_torchs_defaults():
    layer = nn.Linear(2, 2)
    for name in OPTIMIZERS:
        settings = config.Config(optimizer=name, lr=1e-3, momentum=0.0)
        kind = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}[name]
        plain = getattr(torch.optim, kind)(layer.parameters(), lr=1e-3, weight_decay=0.0)
        groups = parameter_groups.group_parameters(layer, settings)
        found = optimizers.build_optimizer(settings, groups).defaults
        assert found | {"fused": None} == plain.defaults | {"fused": None}


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


def test_balanced_weights_are_those_of_scikit_learn_and_0_for_an_absent_class():
    labels = [0] * 6 + [1] * 2 + [3]
    found = optimizers.balanced_class_weights(torch.bincount(torch.tensor(labels), minlength=4))
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert found.tolist() == pytest.approx([expected[0], expected[1], 0.0, expected[2]])


@pytest.mark.parametrize("loss", ["cross_entropy", "multi_margin", "focal"])
def test_class_weights_multiply_the_loss_of_each_image(loss):
    torch.manual_seed(0)
    logits_NK, labels_N, weights_K = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.rand(3)
    settings = config.Config(loss=loss)
    single = optimizers.loss_function(settings)
    losses_N = torch.stack([single(logits_NK[i : i + 1], labels_N[i : i + 1]) for i in range(5)])
    weights_N = weights_K[labels_N]
    total = 5 if loss == "multi_margin" else weights_N.sum()
    found = optimizers.loss_function(settings, weights_K)(logits_NK, labels_N)
    torch.testing.assert_close(found, (weights_N * losses_N).sum() / total)


def test_the_focal_loss_is_its_formula_and_with_gamma_0_the_cross_entropy():
    torch.manual_seed(0)
    logits_NK, labels_N = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    p_N = logits_NK.softmax(1)[torch.arange(6), labels_N]
    loss = optimizers.loss_function(config.Config(loss="focal", focal_gamma=1.5))
    torch.testing.assert_close(loss(logits_NK, labels_N), ((1 - p_N) ** 1.5 * -p_N.log()).mean())
    plain = optimizers.loss_function(config.Config(loss="focal", focal_gamma=0.0))
    torch.testing.assert_close(plain(logits_NK, labels_N), nn.functional.cross_entropy(logits_NK, labels_N))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_of_a_certain_answer_has_a_finite_gradient(gamma):
    logits_NK = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    optimizers.focal_loss(logits_NK, torch.tensor([0, 0]), gamma=gamma).backward()
    assert logits_NK.grad.isfinite().all()
