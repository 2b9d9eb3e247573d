"""The order of a model's layers, from its stem to its head, for learning rates that decay with the depth.

A layer is a block as papers count them: a residual block, a transformer block, an Inception module, or a
single convolution where a model has no blocks. The order is that in which a model defines its modules:

1. The first layer is the stem. It also has what belongs to no block, such as a position embedding.
2. ``nn.Sequential``, ``nn.ModuleList`` and torchvision's classes for stages contain layers; every other
   module with parameters is one. If all of a network but its head is one such module, that is looked into.
3. A norm on its own belongs to the layer before it.
4. The head, the last linear layer, is the last layer.

A few joints are those of timm, so that its models have as many layers as torchvision's: downsampling
belongs to the block behind it (ConvNeXt, Swin), a transition to the block before it (DenseNet), and so does
the last convolution of EfficientNet and MobileNetV2.
"""

from collections.abc import Collection, Iterator, Mapping

from torch import nn

# torchvision's classes that contain layers, besides those of torch.
CONTAINERS = ("AnyStage", "Encoder", "MaxVitBlock", "_DenseBlock")


def layer_depths(module: nn.Module, head: str) -> dict[str, int]:
    """Return the layer of each parameter, counted from the stem, which is 0.

    Args:
        module: A model of torchvision, or a network of the user's own.
        head: The name of its last layer.

    Returns:
        The layers by name of the parameter; no number is left out, and the head alone has the last one.
    """
    names = [name for name, _ in module.named_parameters()]
    body = [name for name in names if not name.startswith(f"{head}.")]
    joints = _joints(module)
    depths: dict[str, int] = {}
    depth, joins = -1, False  # whether the next unit joins the layer before it
    for unit in _units(module, "", body, joints):
        own = [name for name in body if name.startswith(f"{unit}.")]
        is_norm = all(module.get_parameter(name).ndim <= 1 for name in own)
        if depth < 0 or not (joins or is_norm or joints.get(unit) == "before"):
            depth += 1
        joins = joints.get(unit) == "behind"
        depths |= dict.fromkeys(own, depth)
    return {name: depths.get(name, 0 if name in body else depth + 1) for name in names}


def _units(
    module: nn.Module, prefix: str, body: Collection[str], joints: Mapping[str, str]
) -> Iterator[str]:
    """Yield the names of the modules within a module that are not looked into.

    Args:
        module: Contains layers.
        prefix: Its own name with a dot, or nothing for the model.
        body: The names of all parameters that do not belong to the head.
        joints: Names of modules that are not looked into either.
    """
    children = [
        (f"{prefix}{name}", child)
        for name, child in module.named_children()
        if any(each.startswith(f"{prefix}{name}.") for each in body)
    ]
    for name, child in children:
        has_all = len(children) == 1 and all(each.startswith(f"{name}.") for each in body)
        is_container = _contains_layers(child) or (has_all and any(True for _ in child.children()))
        if is_container and name not in joints:
            yield from _units(child, f"{name}.", body, joints)
        else:
            yield name


def _contains_layers(module: nn.Module) -> bool:
    is_plain = type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return is_plain or type(module).__name__ in CONTAINERS


def _joints(module: nn.Module) -> dict[str, str]:
    """Return the modules that belong to the layer "before" or "behind" them, by name."""
    match type(module).__name__:
        case "ConvNeXt" | "SwinTransformer":
            return dict.fromkeys(("features.2", "features.4", "features.6"), "behind")
        case "DenseNet":
            return dict.fromkeys((f"features.transition{stage}" for stage in (1, 2, 3)), "before")
        case "EfficientNet" | "MobileNetV2":
            return {f"features.{len(module.get_submodule('features')) - 1}": "before"}  # type: ignore[arg-type]  # a Sequential
    return {}
