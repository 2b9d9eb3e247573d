"""Split a model with frozen layers: the part before the cut gives the same output in every epoch.

The model is traced (``torch.fx``) into the sequence of its operations. The sequence is then run once,
operation by operation, in train mode. The cut lies behind the last operation of the sequence that fulfils
both conditions:

* It comes before the first operation that is trained or random. An operation is random if it advances a
  random generator, as dropout and stochastic depth do when their probability is above 0.
* Only a single tensor passes from the operations before the cut to those behind it, and this tensor has one
  row for each image: the image's features.

In most models, such as ResNet, EfficientNet, Swin and AlexNet (whose classifier begins with dropout), the
cut lies behind the pooling; in VGG it lies behind the first layer of the classifier and its ReLU. There is
no cut where it would be wrong or useless:

* if the model cannot be traced,
* if the sequence of operations depends on the mode; a layer that reads its mode, such as stochastic depth,
  counts as one operation,
* if less than ``MIN_WORK_SHARE`` of the arithmetic lies before the cut: ViT and Swin with dropout, and
  ConvNeXt, EfficientNet, MaxViT and Swin with stochastic depth, are random from nearly the start,
* if a trace does not do what the model does. Code of the user's own may draw random numbers while it is
  traced, change its buffers in every step, or have hooks; its two parts are compared with the whole. So
  are those of timm's models, since they are too many to know.

Shape suffixes: N images, F... the dimensions of one image's features, K classes.
"""

import copy
import inspect
import logging
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from hpo.training import catalog, models
from hpo.training.config import Config

log = logging.getLogger(__name__)

MIN_WORK_SHARE = 1 / 3  # of a model's arithmetic must lie before the cut; AlexNet at 64 pixels has 0.42


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """The frozen part of a model and the rest, as graphs that name the layers.

    The graphs fit every instance of the same model, not only the one that was traced.
    """

    name: str  # of the operation whose output is the features
    frozen_graph: fx.Graph  # preprocessed images [N, C, H, W] to features [N, F...]
    remaining_graph: fx.Graph  # features [N, F...] to logits [N, K]
    bytes_per_image: int  # size of one image's features

    def split_module(self, module: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Return the frozen part and the remaining layers of a module; both share its layers.

        Args:
            module: An instance of the model that this part was found in.
        """
        return _graph_module(module, self.frozen_graph), _graph_module(module, self.remaining_graph)


def find_frozen_part(module: nn.Module, config: Config, inputs: Tensor) -> FrozenPart | None:
    """Find the part of a model that is neither trained nor random.

    The module is run on ``inputs``; it may be left in either mode. Its buffers and the states of torch's
    random generators do not change.

    Args:
        module: What ``models.build_model`` returned for ``config``.
        config: The trial's settings, with ``tune = "head"``; otherwise the run would change the running
            statistics of batch norms.
        inputs: float [N, C, H, W], at least two preprocessed images, on the module's device.

    Returns:
        The frozen part, or None if there is no cut, as described at the top of this file.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    graph = _trace(module, config)
    if graph is None:
        return None
    profiler = _Profiler(_graph_module(module, graph))
    try:
        profiler.profile(inputs)
    except Exception as error:  # such as a trace that takes an optional argument for given
        log.debug("%s cannot be cut: %s", config.model, error)
        _restore_buffers(module, before)
        return None
    if not _restore_buffers(module, before):
        return None
    nodes = list(graph.nodes)
    cut = _cut_index(nodes, module, profiler, len(inputs))
    if cut is None or profiler.flops[nodes[cut].name] < MIN_WORK_SHARE * profiler.flops[nodes[-1].name]:
        return None
    features = profiler.outputs[nodes[cut].name]
    part = FrozenPart(
        name=nodes[cut].name,
        frozen_graph=_graph_up_to(nodes, cut),
        remaining_graph=_graph_after(nodes, cut),
        bytes_per_image=features.numel() // len(inputs) * features.element_size(),
    )
    is_known = not (catalog.is_user_network(config.model) or catalog.is_timm_model(config.model))
    return part if is_known or _does_the_same(part, module, config, inputs) else None


def _trace(module: nn.Module, config: Config) -> fx.Graph | None:
    """Return the module's operations in train mode; None if they cannot be traced, or differ by mode."""
    graphs = []
    for mode in ("eval", "train"):
        module.eval() if mode == "eval" else models.set_train_mode(module, config)
        generators = _generators("cpu")
        try:
            with torch.random.fork_rng(devices=[]):
                graphs.append(_tracer_of(config).trace(module))
                is_random = _generators("cpu") != generators
        except Exception as error:  # a forward that cannot be traced may raise anything
            log.debug("%s cannot be cut: %s", config.model, error)
            return None
        if is_random:
            return None
    return graphs[-1] if str(graphs[0]) == str(graphs[1]) else None


class _Tracer(fx.Tracer):
    """Keeps a layer that reads its mode as one operation, as stochastic depth and Swin's attention do.

    So the traces of both modes are the same. Whether such a layer is random shows when it is run.
    """

    proxy_buffer_attributes = True  # else what MaxViT computes with buffers is a constant of one module

    def __init__(
        self, modules: tuple[type[nn.Module], ...] = (), functions: tuple[Callable[..., Any], ...] = ()
    ) -> None:
        super().__init__(autowrap_functions=functions)
        self.whole_modules = modules  # that are not looked into either

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        code = getattr(inspect.unwrap(type(m).forward), "__code__", None)
        reads_mode = code is not None and "training" in code.co_names
        is_whole = reads_mode or isinstance(m, self.whole_modules)
        return is_whole or super().is_leaf_module(m, module_qualified_name)


def _tracer_of(config: Config) -> _Tracer:
    if not catalog.is_timm_model(config.model):
        return _Tracer()
    from hpo.training import timm_models  # takes seconds

    return _Tracer(*timm_models.whole_operations())


def _generators(device: torch.device | str) -> bytes:
    """Return the states of the random generators that code may draw from on a device."""
    states = [torch.get_rng_state()]
    if torch.device(device).type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    of_torch = [state.numpy().tobytes() for state in states]
    return pickle.dumps((random.getstate(), np.random.get_state(), of_torch))


def _restore_buffers(module: nn.Module, before: dict[str, Tensor]) -> bool:
    """Set the buffers back that a forward pass has changed; return whether it changed none."""
    changed = [
        (buffer, before[name])
        for name, buffer in module.named_buffers()
        if name not in before or not torch.equal(buffer, before[name])
    ]
    for buffer, old in changed:
        buffer.copy_(old)
    return not changed


def _does_the_same(part: FrozenPart, module: nn.Module, config: Config, inputs: Tensor) -> bool:
    """Return whether the two parts of a model do what the whole does, but for rounding, in either mode.

    Features are computed in eval mode, and then used in either mode.
    """
    with torch.no_grad(), torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        probe = torch.randn_like(inputs)
        frozen_layers, remaining_layers = part.split_module(module.eval())
        features = frozen_layers(probe)
        outputs = []
        for mode in ("eval", "train"):
            module.eval() if mode == "eval" else models.set_train_mode(module, config)
            for run, argument in ((module, probe), (remaining_layers, features)):
                torch.manual_seed(0)
                outputs.append(run(argument))
    return all(
        torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
        for expected, found in (outputs[:2], outputs[2:])
    )


def _graph_module(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    # A graph keeps a reference to its module. A FrozenPart outlives the modules, so they get copies.
    return fx.GraphModule(module, copy.deepcopy(graph))


class _Profiler(fx.Interpreter):
    """Run a traced module and record each operation's output shape, use of random numbers and cost."""

    def profile(self, inputs: Tensor) -> None:
        from torch.utils import flop_counter  # slow to import

        self.outputs: dict[str, Tensor] = {}  # by operation, on the meta device: shape and dtype only
        self.random_nodes: set[str] = set()  # operations that draw random numbers
        self.flops: dict[str, int] = {}  # by operation: floating-point operations up to and including it
        self.device = inputs.device
        self.counter = flop_counter.FlopCounterMode(display=False)
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), self.counter:
            self.run(inputs)

    def run_node(self, n: fx.Node) -> Any:
        before = _generators(self.device)
        result = super().run_node(n)
        if _generators(self.device) != before:
            self.random_nodes.add(n.name)
        if isinstance(result, Tensor):
            self.outputs[n.name] = result.to("meta")
        self.flops[n.name] = self.counter.get_total_flops()
        return result


def _cut_index(nodes: list[fx.Node], module: nn.Module, profiler: _Profiler, images: int) -> int | None:
    """Return the index of the last operation before the cut, or None if there is no cut."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    indices = {node: index for index, node in enumerate(nodes)}
    cut = None
    live: set[fx.Node] = set()  # operations whose results are used later on
    for index, node in enumerate(nodes):
        if node.name in profiler.random_nodes or _is_trained(node, trained):
            return cut
        live.add(node)
        live = {each for each in live if any(indices[user] > index for user in each.users)}
        features = profiler.outputs.get(node.name)
        has_row_per_image = features is not None and features.dim() > 0 and len(features) == images
        if live == {node} and node.op != "placeholder" and has_row_per_image:
            cut = index
    return None


def _is_trained(node: fx.Node, trained: set[str]) -> bool:
    if node.op == "call_module":
        return any(name.startswith(f"{node.target}.") for name in trained)
    return node.op == "get_attr" and node.target in trained


def _graph_up_to(nodes: list[fx.Node], cut: int) -> fx.Graph:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[: cut + 1]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[cut]])
    return graph


def _graph_after(nodes: list[fx.Node], cut: int) -> fx.Graph:
    graph = fx.Graph()
    # The features are cloned, because layers behind the cut may work in place and features are reused.
    copies = {nodes[cut]: graph.call_method("clone", (graph.placeholder("features"),))}
    for node in nodes[cut + 1 :]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return graph
