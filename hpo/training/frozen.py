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

SHARE = 1 / 3  # of a model's arithmetic that must lie before a cut; AlexNet's at 64 pixels has 0.42


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A place to cut a model, in terms of its layers' names: it fits every copy of the model."""

    name: str  # of the operation that gives the features
    before: fx.Graph  # inputs to features
    after: fx.Graph  # features to logits
    size: int  # bytes of an image's features

    def apart(self, module: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Give what lies before the cut and after it; both share their layers with ``module``."""
        return _module(module, self.before), _module(module, self.after)


def find(module: nn.Module, config: Config, inputs: Tensor) -> Cut | None:
    """Find where to cut a module that ``model.build`` gave for ``config``; None if there is no such place.

    ``inputs`` is a batch of at least two images as the module takes them, on its device; the module is run
    on it once, in train mode, which it is left in. torch's generators stay as they were.
    """
    sequences = []
    for mode in ("eval", "train"):
        module.eval() if mode == "eval" else models.train_mode(module, config)
        try:
            sequences.append(fx.Tracer().trace(module))
        except Exception as error:  # a forward that cannot be traced may raise anything
            log.debug("%s cannot be cut: %s", config.model, error)
            return None
    sequence = sequences[-1]
    if len({str(each) for each in sequences}) > 1:
        return None
    seen = _Observed(_module(module, sequence))
    seen.watch(inputs)
    nodes = list(sequence.nodes)
    place = _place(nodes, module, seen, len(inputs))
    if place is None or seen.work[nodes[place].name] < SHARE * seen.work[nodes[-1].name]:
        return None
    features = seen.tensors[nodes[place].name]
    return Cut(
        name=nodes[place].name,
        before=_before(nodes, place),
        after=_after(nodes, place),
        size=features.numel() // len(inputs) * features.element_size(),
    )


def _module(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    # A graph remembers its module, so a copy of it is used: a cut outlives the modules that it is used on.
    return fx.GraphModule(module, copy.deepcopy(graph))


class _Observed(fx.Interpreter):
    """Runs a traced module and notes of each operation, by its name, what it gives, draws and costs."""

    def watch(self, inputs: Tensor) -> None:
        from torch.utils import flop_counter  # takes its time to import

        self.tensors: dict[str, Tensor] = {}  # without numbers: shape and type
        self.random: set[str] = set()
        self.work: dict[str, int] = {}  # arithmetic up to here, in floating-point operations
        self.device = inputs.device
        self.counter = flop_counter.FlopCounterMode(display=False)
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), self.counter:
            self.run(inputs)

    def run_node(self, n: fx.Node) -> Any:
        before = self._generators()
        result = super().run_node(n)
        if not torch.equal(before, self._generators()):
            self.random.add(n.name)
        if isinstance(result, Tensor):
            self.tensors[n.name] = result.to("meta")
        self.work[n.name] = self.counter.get_total_flops()
        return result

    def _generators(self) -> Tensor:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return torch.cat(states)


def _place(nodes: list[fx.Node], module: nn.Module, seen: _Observed, images: int) -> int | None:
    """Give the place of the operation to cut behind."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    places = {node: place for place, node in enumerate(nodes)}
    found = None
    waiting: set[fx.Node] = set()  # whose results are used further on
    for place, node in enumerate(nodes):
        if node.name in seen.random or _is_trained(node, trained):
            return found
        waiting.add(node)
        waiting = {each for each in waiting if any(places[user] > place for user in each.users)}
        features = seen.tensors.get(node.name)
        is_row_each = features is not None and features.dim() > 0 and len(features) == images
        if waiting == {node} and node.op != "placeholder" and is_row_each:
            found = place
    return None


def _is_trained(node: fx.Node, trained: set[str]) -> bool:
    if node.op == "call_module":
        return any(name.startswith(f"{node.target}.") for name in trained)
    return node.op == "get_attr" and node.target in trained


def _before(nodes: list[fx.Node], place: int) -> fx.Graph:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[: place + 1]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[place]])
    return graph


def _after(nodes: list[fx.Node], place: int) -> fx.Graph:
    graph = fx.Graph()
    # A copy, since layers behind the cut may work in place, and features are read again and again.
    copies = {nodes[place]: graph.call_method("clone", (graph.placeholder("features"),))}
    for node in nodes[place + 1 :]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return graph
