import pytest
import torch
from torch import nn

from hpo.training import models, optimizers, parameter_groups
from hpo.training.config import Config


def groups_of(settings: Config) -> tuple[nn.Module, list[parameter_groups.ParameterGroup]]:
    module = models.build_seeded_model(settings, 3, 0)
    return module, parameter_groups.group_parameters(module, settings)


def test_all_parameters_are_one_group_by_default():
    module, (group,) = groups_of(Config(model="shufflenet_v2_x0_5", weights="none", weight_decay=0.1))
    assert (group.lr_factor, group.weight_decay) == (1.0, 0.1)
    assert [id(each) for each in group.parameters] == [id(each) for each in module.parameters()]


def test_frozen_parameters_are_left_out():
    module, (group,) = groups_of(Config(model="shufflenet_v2_x0_5", weights="none", tune="head"))
    assert [id(each) for each in group.parameters] == [id(module.fc.weight), id(module.fc.bias)]


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1", "tests.support.networks:DeepHead"])
def test_the_groups_hold_every_parameter_once(name):
    settings = Config(
        model=name, weights="none", head_lr_multiplier=10, decay_norms=False, weight_decay=0.1
    )
    module, groups = groups_of(settings)
    held = [id(each) for group in groups for each in group.parameters]
    assert sorted(held) == sorted(map(id, module.parameters()))
    assert len(held) == len(set(held))


def test_norms_and_biases_do_not_decay_and_the_head_has_its_own_rate():
    settings = Config(
        model="shufflenet_v2_x0_5",
        weights="none",
        optimizer="adamw",
        lr=0.01,
        head_lr_multiplier=10,
        decay_norms=False,
        weight_decay=0.5,
    )
    module, groups = groups_of(settings)
    factors = {id(each): group.lr_factor for group in groups for each in group.parameters}
    assert factors == {
        id(each): 10 if name.startswith("fc.") else 1 for name, each in module.named_parameters()
    }
    decays = {id(each): group.weight_decay for group in groups for each in group.parameters}
    assert decays == {id(each): 0.5 if each.ndim > 1 else 0.0 for each in module.parameters()}
    built = optimizers.build_optimizer(settings, groups).param_groups
    assert [each["weight_decay"] for each in built] == [0.5, 0.0, 0.5, 0.0]
    assert isinstance(built[0]["params"][0], torch.Tensor)
