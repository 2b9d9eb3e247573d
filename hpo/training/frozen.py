"""Where a model whose layers are frozen can be cut: what lies before gives the same in every epoch.

The model is traced (``torch.fx``) into the sequence of its operations, and run once, operation by
operation, in train mode. The cut is the last place in the sequence

* before the first operation that is trained, or random: one that moves a generator of torch's, as dropout
  does when its probability is above 0,
* that nothing but a single tensor crosses, with a row for each image: an image's features.

That is behind the pooling of ResNet, DenseNet and AlexNet (whose classifier begins with dropout), and
behind the first layer of VGG's classifier with its ReLU. There is none where it would be unsound or of no
use: if the model cannot be traced, if its sequence depends on the mode (stochastic depth of EfficientNet,
ConvNeXt, Swin and MaxViT, which is random nearly from the start), or if less than ``SHARE`` of the
arithmetic lies before it (ViT with dropout).
"""

import copy
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from hpo.training import models
from hpo.training.config import Config

log = logging.getLogger(__name__)

MIN_WORK_SHARE = (
    1 / 3
)  # of a model's arithmetic that must lie before a cut; AlexNet's at 64 pixels has 0.42


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """A place to cut a model, in terms of its layers' names: it fits every copy of the model."""

    name: str  # of the operation that gives the features
    frozen_graph: fx.Graph  # inputs to features
    remaining_graph: fx.Graph  # features to logits
    bytes_per_image: int  # bytes of an image's features

    def split_module(self, module: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Give what lies before the cut and after it; both share their layers with ``module``."""
        return _graph_module(module, self.frozen_graph), _graph_module(module, self.remaining_graph)


def find_frozen_part(module: nn.Module, config: Config, inputs: Tensor) -> FrozenPart | None:
    """Find where to cut a module that ``model.build`` gave for ``config``; None if there is no such place.

    ``inputs`` is a batch of at least two images as the module takes them, on its device; the module is run
    on it once, in train mode, which it is left in. torch's generators stay as they were.
    """
    sequences = []
    for mode in ("eval", "train"):
        module.eval() if mode == "eval" else models.set_train_mode(module, config)
        try:
            sequences.append(fx.Tracer().trace(module))
        except Exception as error:  # a forward that cannot be traced may raise anything
            log.debug("%s cannot be cut: %s", config.model, error)
            return None
    sequence = sequences[-1]
    if len({str(each) for each in sequences}) > 1:
        return None
    seen = _Profiler(_graph_module(module, sequence))
    seen.profile(inputs)
    nodes = list(sequence.nodes)
    place = _cut_index(nodes, module, seen, len(inputs))
    if place is None or seen.flops[nodes[place].name] < MIN_WORK_SHARE * seen.flops[nodes[-1].name]:
        return None
    features = seen.outputs[nodes[place].name]
    return FrozenPart(
        name=nodes[place].name,
        frozen_graph=_graph_up_to(nodes, place),
        remaining_graph=_graph_after(nodes, place),
        bytes_per_image=features.numel() // len(inputs) * features.element_size(),
    )


def _graph_module(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    # A graph remembers its module, so a copy of it is used: a cut outlives the modules that it is used on.
    return fx.GraphModule(module, copy.deepcopy(graph))


class _Profiler(fx.Interpreter):
    """Runs a traced module and notes of each operation, by its name, what it gives, draws and costs."""

    def profile(self, inputs: Tensor) -> None:
        from torch.utils import flop_counter  # takes its time to import

        self.outputs: dict[str, Tensor] = {}  # without numbers: shape and type
        self.random_nodes: set[str] = set()
        self.flops: dict[str, int] = {}  # arithmetic up to here, in floating-point operations
        self.device = inputs.device
        self.counter = flop_counter.FlopCounterMode(display=False)
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), self.counter:
            self.run(inputs)

    def run_node(self, n: fx.Node) -> Any:
        before = self._generator_states()
        result = super().run_node(n)
        if not torch.equal(before, self._generator_states()):
            self.random_nodes.add(n.name)
        if isinstance(result, Tensor):
            self.outputs[n.name] = result.to("meta")
        self.flops[n.name] = self.counter.get_total_flops()
        return result

    def _generator_states(self) -> Tensor:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return torch.cat(states)


def _cut_index(nodes: list[fx.Node], module: nn.Module, seen: _Profiler, images: int) -> int | None:
    """Give the place of the operation to cut behind."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    places = {node: place for place, node in enumerate(nodes)}
    found = None
    waiting: set[fx.Node] = set()  # whose results are used further on
    for place, node in enumerate(nodes):
        if node.name in seen.random_nodes or _is_trained(node, trained):
            return found
        waiting.add(node)
        waiting = {each for each in waiting if any(places[user] > place for user in each.users)}
        features = seen.outputs.get(node.name)
        is_row_each = features is not None and features.dim() > 0 and len(features) == images
        if waiting == {node} and node.op != "placeholder" and is_row_each:
            found = place
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
    # A copy, since layers behind the cut may work in place, and features are read again and again.
    copies = {nodes[cut]: graph.call_method("clone", (graph.placeholder("features"),))}
    for node in nodes[cut + 1 :]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return graph
