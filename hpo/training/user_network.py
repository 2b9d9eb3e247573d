"""A network of the user's own: a function that a study names as its model.

``train.model = "package.module:function"`` names it. The function is called as ``function(num_classes=K)``
and returns an ``nn.Module`` from preprocessed images float [N, 3, S, S] to logits [N, K]. Everything else
of the built-in training stays: data, loop, checkpoints, pruning, export.

**Head.** If the module has a method ``get_classifier()``, as timm's models have, what it returns is the
last layer: ``tune = "head"`` trains this layer alone, and a file of weights may have another one. Which
layer that is, is never guessed.

**Checks.** When a study is stored, a network is built once for ``PROBE_CLASSES`` classes and run on two
images: on the meta device, or on the CPU where the code needs real tensors. Workers build it anew for each
trial. Whatever goes wrong with the function is a ``DefinitionError``, so that it costs no trial.

Shape suffixes: N images of a batch, K classes.
"""

import contextlib
import functools
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hpo.errors import QUOTED_LENGTH, DefinitionError
from hpo.training import catalog, user_code

PROBE_CLASSES = 7  # outputs of a network that is only checked; no function returns these by chance


def check_importable(model: str, option: str = "train.model") -> None:
    """Check that a function can be imported and takes ``num_classes``; does not call it.

    Args:
        model: ``package.module:function``.
        option: What names it, for error messages.

    Raises:
        DefinitionError: If it does not exist, its module cannot be imported, or it needs other arguments.
    """
    _name_option(option, _import_function, model)


def build_user_network(model: str, classes: int, option: str = "train.model") -> nn.Module:
    """Import a function and call it; what it prints goes to stderr.

    Args:
        model: ``package.module:function``.
        classes: Number of outputs.
        option: What names the function, for error messages.

    Returns:
        What it returned.

    Raises:
        DefinitionError: If the function cannot be imported or called, raises anything but a lack of memory,
            or returns no network that can be trained and saved.
    """
    module: nn.Module = _name_option(option, _build, model, classes)
    return module


def find_head(module: nn.Module, model: str, option: str = "train.model") -> tuple[str, nn.Module] | None:
    """Return the name and the module of the last layer, or None if the network does not say which it is.

    Args:
        module: The network.
        model: ``package.module:function``, which returned it.
        option: What names the function, for error messages.

    Raises:
        DefinitionError: If ``get_classifier()`` raises, or returns something else than a layer of the
            network with weights.
    """
    method = getattr(module, "get_classifier", None)
    if method is None:
        return None
    try:
        found = method()
    except Exception as error:
        raise DefinitionError(f"{option}: '{model}': get_classifier() {_raised(error)}") from error
    name = next((name for name, each in module.named_modules() if each is found and name), None)
    if name is None or not list(found.parameters()):
        raise DefinitionError(
            f"{option}: '{model}': get_classifier() returned {_first_line(repr(found))[:QUOTED_LENGTH]}; "
            "want one layer of the network, with weights"
        )
    return name, found


def describe_missing_head(model: str, instead: str = "use 'all'") -> str:
    """Return the message that a network does not say which layer is its head.

    Args:
        model: ``package.module:function``, which returns it.
        instead: What can be done other than to change the network.
    """
    return (
        f"'{model}' does not say which layer is its head; {instead}, or let the network have a method "
        "get_classifier() that returns its last layer"
    )


class Probe:
    """A network that was built only to check what a study asks of it; see ``probe_network``.

    Attributes:
        module: The network with ``PROBE_CLASSES`` outputs, on the meta device if it can be built there.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._on_meta = self._build_on_meta()
        self.module = self._on_cpu if self._on_meta is None else self._on_meta
        self._problems: dict[tuple[int, int], str | None] = {}

    def _build_on_meta(self) -> nn.Module | None:
        try:
            with _quiet(), catalog.meta_device():
                return _build(self.model, PROBE_CLASSES).to("meta")
        except Exception:  # it needs real tensors, or cannot be built at all: then _on_cpu raises
            return None

    @functools.cached_property
    def _on_cpu(self) -> nn.Module:
        with _quiet():
            return _build(self.model, PROBE_CLASSES)

    def has_dropout(self) -> bool:
        """Return whether the network has a dropout layer."""
        return any(isinstance(layer, nn.Dropout) for layer in self.module.modules())

    def has_stochastic_depth(self) -> bool:
        """Return whether the network has blocks that training can leave out at random."""
        from torchvision.ops import StochasticDepth  # slow to import

        return any(isinstance(layer, StochasticDepth) for layer in self.module.modules())

    def image_size_problem(self, image_size: int, batch_size: int, option: str) -> str | None:
        """Return why the network cannot be run on such batches, or None if it can.

        Args:
            image_size: Side of the square images in pixels.
            batch_size: Images per batch.
            option: What names the network, for error messages.

        Returns:
            What the network raised, as one line.

        Raises:
            DefinitionError: If it returns something else than logits of the right shape.
        """
        key = (image_size, batch_size)
        if key not in self._problems:
            reason = None
            if self._on_meta is None or self._run_problem(self._on_meta, *key, option):
                # Code that reads the values of tensors fails on the meta device, but not on the CPU.
                reason = self._run_problem(self._on_cpu, *key, option)
            self._problems[key] = reason
        return self._problems[key]

    def first_accepted_image_size(self, option: str) -> int | None:
        """Return the first usual image size that the network accepts on the meta device, or None."""
        module = self._on_meta
        if module is None:  # on the CPU it could take minutes
            return None
        sizes = catalog.USUAL_IMAGE_SIZES
        return next((size for size in sizes if not self._run_problem(module, size, 2, option)), None)

    def _run_problem(self, module: nn.Module, image_size: int, batch_size: int, option: str) -> str | None:
        device = next(module.parameters()).device
        images_NCHW = torch.zeros(batch_size, 3, image_size, image_size, device=device)
        try:
            with _quiet(), torch.no_grad():
                outputs = [module.train(is_training)(images_NCHW) for is_training in (True, False)]
        except Exception as error:
            return _describe(error)
        for logits_NK in outputs:
            _name_option(option, _check_logits, logits_NK, batch_size, self.model)
        return None


_probes: dict[str, tuple[Callable[..., Any], Probe]] = {}  # by name: the function, and its network


def probe_network(model: str, option: str) -> Probe:
    """Build a network for checks, once in this process; torch's random generator does not advance.

    Args:
        model: ``package.module:function``.
        option: What names the function, for error messages.

    Raises:
        DefinitionError: As ``build_user_network``.
    """
    # Imported before anything is built: tensors that its module keeps must not be on the meta device.
    function = _name_option(option, _import_function, model)
    if model not in _probes or _probes[model][0] is not function:
        _probes[model] = function, _name_option(option, Probe, model)
    return _probes[model][1]


def _name_option(option: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function; put the option that is wrong in front of its errors."""
    try:
        return function(*args)
    except DefinitionError as error:
        raise DefinitionError(f"{option}: {error}") from error


def _import_function(model: str) -> Callable[..., Any]:
    function = user_code.import_function(f"'{model}'", model)
    try:
        inspect.signature(function).bind(num_classes=PROBE_CLASSES)
    except TypeError as error:
        raise DefinitionError(
            f"'{model}' cannot be called with num_classes alone ({error}); let it take num_classes, and "
            "give its other parameters defaults"
        ) from error
    except ValueError:  # written in C: the call will tell
        pass
    return function


def _build(model: str, classes: int) -> nn.Module:
    function = _import_function(model)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = function(num_classes=classes)
    except (KeyboardInterrupt, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        raise DefinitionError(
            f"'{model}': called with num_classes={classes}, it {_raised(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        found = _first_line(repr(module))[:QUOTED_LENGTH]
        raise DefinitionError(f"'{model}' returned {found}; want a torch.nn.Module")
    _check_tensors(module, model)
    return module


def _check_tensors(module: nn.Module, model: str) -> None:
    """Refuse a network that cannot be trained, or whose state cannot be saved as tensors."""
    if lazy := [name for name, each in module.named_parameters() if is_lazy(each)]:
        raise DefinitionError(
            f"'{model}': the size of its {lazy[0]} is not known before the first batch; give lazy layers "
            "their sizes, or let the function run the network on a batch"
        )
    if not any(each.requires_grad for each in module.parameters()):
        raise DefinitionError(f"'{model}': its network has no parameters to train")
    others = [name for name, each in module.state_dict().items() if not isinstance(each, Tensor)]
    if others:
        raise DefinitionError(
            f"'{model}': {others[0]} in its state_dict() is no tensor; weights are saved as tensors alone"
        )


def _check_logits(logits: Any, images: int, model: str) -> None:
    wanted = f"want a floating-point tensor of logits, {images}x{PROBE_CLASSES}"
    called = f"'{model}': with num_classes={PROBE_CLASSES}, its network returned"
    if not isinstance(logits, Tensor):
        found = f"a {type(logits).__name__}"
    elif logits.shape != (images, PROBE_CLASSES) or not logits.is_floating_point():
        found = f"{'x'.join(map(str, logits.shape)) or 'a number'} of {logits.dtype}"
    else:
        return
    raise DefinitionError(f"{called} {found} for {images} images; {wanted}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let the block neither advance torch's random generator, nor warn, nor print to stdout."""
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sys.stderr),
    ):
        warnings.simplefilter("ignore")
        yield


def _raised(error: BaseException) -> str:
    return f"raised {_describe(error)}"


def _describe(error: BaseException) -> str:
    """Return class and text of an error in one line, and where in the working directory it arose."""
    text = _first_line(user_code.describe_error(error))
    here = Path.cwd()
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(here)
        and "site-packages" not in frame.filename
        and not Path(frame.filename).is_relative_to(Path(__file__).parents[1])
    ]
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else text


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
