"""Initial weights: those of ImageNet, downloaded once, and those from a file."""

import functools
import hashlib
import http.server
import os
import re
import threading
from collections import OrderedDict
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from hpo import errors
from hpo.training import catalog, models, weights
from tests.support.models import RESNET18, has_state, settings


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Return the empty folder where torchvision looks for ImageNet weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


class Server(http.server.SimpleHTTPRequestHandler):
    requests: list[str]

    def do_GET(self):
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Make torchvision download ResNet18's weights from a local server.

    Yields a function that publishes a file on the server, and the list of requested paths.
    """
    folder, requests = tmp_path / "served", []
    folder.mkdir()
    handler = type("Counting", (Server,), {"requests": requests})
    serve = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    threading.Thread(target=serve.serve_forever, daemon=True).start()
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value

    def publish(source: Path) -> str:
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        name = f"resnet18-{digest[:8]}.pth"
        os.link(source, folder / name)
        monkeypatch.setattr(entry, "url", f"http://127.0.0.1:{serve.server_port}/{name}")
        return name

    yield publish, requests
    serve.shutdown()
    serve.server_close()


# ImageNet weights


def test_stored_imagenet_weights_are_loaded_without_a_network(resnet18, checkpoints, monkeypatch):
    state, path = resnet18
    os.link(path, checkpoints / RESNET18)
    monkeypatch.setattr(torch.hub, "urlopen", None)  # a download would fail
    module = models.build_model(settings(weights="imagenet"), 10)
    assert has_state(module, state, except_for="fc")
    assert has_state(
        module, torchvision.models.resnet18(weights="IMAGENET1K_V1").state_dict(), except_for="fc"
    )
    assert module.fc.weight.shape == (10, 512)
    assert file_names(checkpoints) == [RESNET18]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_imagenet_weights_are_loaded_without_auxiliary_heads(name, checkpoints):
    torch.manual_seed(1)
    full = torchvision.models.get_model(name, weights=None, init_weights=False)
    entry = catalog.imagenet_weights(name)
    path = checkpoints / Path(entry.url).name
    torch.save(full.state_dict(), path)
    module = models.build_model(settings(name, "imagenet"), 3)
    kept = {key: tensor for key, tensor in full.state_dict().items() if not key.lower().startswith("aux")}
    assert has_state(module, kept, except_for="fc")
    assert models.get_head(module)[1].weight.shape[0] == 3
    # The same file, given by its path, builds the same model with the same transform of its input.
    again = models.build_model(settings(name, str(path)), 3)
    assert has_state(again, kept, except_for="fc")
    assert again.transform_input is module.transform_input is True


def test_several_workers_download_the_weights_once(resnet18, checkpoints, server, capsys):
    publish, requests = server
    state, path = resnet18
    name = publish(path)
    with futures.ThreadPoolExecutor(3) as pool:
        modules = list(pool.map(lambda _: models.build_model(settings(weights="imagenet"), 10), range(3)))
    assert all(torch.equal(module.conv1.weight, state["conv1.weight"]) for module in modules)
    assert requests == [f"/{name}"]
    assert file_names(checkpoints) == [name, f"{name}.lock"]
    assert capsys.readouterr() == ("", "")


def test_a_download_with_a_wrong_hash_is_refused_and_not_kept(resnet18, checkpoints, server, tmp_path):
    publish, _ = server
    name = publish(resnet18[1])
    served = tmp_path / "served" / name
    served.unlink()
    served.write_bytes(b"a proxy's login page")
    with pytest.raises(errors.WeightsError, match=re.escape(name) + ".*invalid hash value"):
        models.build_model(settings(weights="imagenet"), 10)
    assert file_names(checkpoints) == [f"{name}.lock"]


def test_a_server_without_the_file_is_reported_with_its_answer(checkpoints, server, resnet18, tmp_path):
    name = server[0](resnet18[1])
    (tmp_path / "served" / name).unlink()
    with pytest.raises(errors.WeightsError, match="404"):
        models.build_model(settings(weights="imagenet"), 10)


def test_without_a_network_the_error_says_which_file_goes_where(checkpoints, monkeypatch):
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    url = f"http://127.0.0.1:1/models/{RESNET18}"  # no server listens on this port
    monkeypatch.setattr(entry, "url", url)
    with pytest.raises(errors.WeightsError) as raised:
        models.build_model(settings(weights="imagenet"), 10)
    message = str(raised.value)
    assert f"{RESNET18} is not in {checkpoints} and could not be downloaded" in message
    assert "Connection refused" in message
    assert f"get {url} and put it there; to train all layers from scratch instead: " in message
    assert message.endswith("--set train.weights=none --set train.tune=all")
    assert "\n" not in message


@pytest.mark.parametrize("length", [0, 100, 1_000_000, -1000])
def test_a_truncated_file_is_reported_with_the_advice_to_remove_it(length, resnet18, checkpoints):
    path = checkpoints / RESNET18
    path.write_bytes(resnet18[1].read_bytes()[:length])
    with pytest.raises(errors.WeightsError) as raised:
        models.build_model(settings(weights="imagenet"), 10)
    message = str(raised.value)
    assert message.startswith(f"{path} is damaged")
    assert "remove it" in message
    assert "\n" not in message


def test_an_intact_file_is_not_reported_as_damaged(checkpoints, monkeypatch, tmp_path):
    content = tmp_path / "content"
    torch.save({"this": "is no resnet"}, content)
    digest = hashlib.sha256(content.read_bytes()).hexdigest()
    name = f"resnet18-{digest[:8]}.pth"
    content.rename(checkpoints / name)
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(entry, "url", f"http://127.0.0.1:1/{name}")
    with pytest.raises(RuntimeError, match="Missing key"):
        models.build_model(settings(weights="imagenet"), 10)


def test_the_name_of_every_file_ends_in_its_hash():
    for name in catalog.model_names():
        for each in ("imagenet", *catalog.weights_names(name)):
            url = catalog.find_weights(name, each).url
            assert re.search(r"-[0-9a-f]{8,}\.pth$", url), (name, each)


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT"])
def test_weights_are_loaded_by_torchvisions_name(weights, resnet18, checkpoints):
    os.link(resnet18[1], checkpoints / RESNET18)
    module = models.build_model(settings(weights=weights), 10)
    assert has_state(module, resnet18[0], except_for="fc")


def test_weights_that_a_model_lacks_are_refused_with_those_that_it_has():
    with pytest.raises(errors.WeightsError) as raised:
        models.build_model(settings(weights="IMAGENET1K_V2"), 10)
    assert str(raised.value) == (
        "torchvision has no weights 'IMAGENET1K_V2' for resnet18; use IMAGENET1K_V1, DEFAULT, \"none\" "
        "or a file"
    )


def test_files_that_are_still_to_be_downloaded_are_listed_once(checkpoints):
    kinds = [("resnet18", "imagenet"), ("resnet18", "DEFAULT"), ("resnet50", "IMAGENET1K_V2")]
    kinds += [("alexnet", "none"), ("vgg16", "own.pt"), ("resnet18", "IMAGENET1K_V2")]
    found = weights.missing_files(kinds)
    assert [each.path for each in found] == [checkpoints / RESNET18, checkpoints / "resnet50-11ad3fa6.pth"]
    assert weights.describe_missing(found) == (
        f"not yet in {checkpoints}: {RESNET18} (45 MB), resnet50-11ad3fa6.pth (98 MB)"
    )
    (checkpoints / RESNET18).touch()
    assert [each.url.rpartition("/")[2] for each in weights.missing_files(kinds)] == [
        "resnet50-11ad3fa6.pth"
    ]


# Weights from a file


def saved(state: dict[str, torch.Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def with_classes(state: dict[str, torch.Tensor], classes: int) -> OrderedDict[str, torch.Tensor]:
    head = {"fc.weight": torch.randn(classes, 512), "fc.bias": torch.randn(classes)}
    return OrderedDict({**state, **head})


@pytest.mark.parametrize(
    ("ending", "classes"),
    [
        ("safetensors", 10),
        ("safetensors", 7),
        ("pt", 10),
        ("pt", 1000),
        pytest.param("safetensors", 1000, marks=pytest.mark.slow),
        pytest.param("pt", 7, marks=pytest.mark.slow),
    ],
)
def test_a_file_fills_the_model_and_its_head_if_the_classes_are_as_many(
    ending, classes, resnet18, tmp_path
):
    state = with_classes(resnet18[0], classes)
    weights = saved(state, tmp_path / f"weights.{ending}")
    torch.manual_seed(3)
    untrained = models.build_model(settings(), 10).fc
    torch.manual_seed(3)
    module = models.build_model(settings(weights=weights), 10)
    if classes == 10:
        assert has_state(module, state)
    else:
        assert has_state(module, state, except_for="fc")
        assert torch.equal(module.fc.weight, untrained.weight)
        assert torch.equal(module.fc.bias, untrained.bias)


@pytest.mark.parametrize("under", ["state_dict", "model"])
def test_a_state_dict_is_found_inside_a_checkpoint(under, resnet18, tmp_path):
    state = with_classes(resnet18[0], 10)
    path = tmp_path / "checkpoint.tar"
    torch.save({"epoch": 3, under: state, "optimizer": {"lr": 0.1}}, path)
    assert has_state(models.build_model(settings(weights=str(path)), 10), state)


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        "mnasnet0_5",
        pytest.param("maxvit_t", marks=pytest.mark.slow),
        pytest.param("swin_t", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights_files_of_other_families_are_loaded(name, ending, tmp_path):
    state = models.build_model(settings(name), 4).state_dict()
    weights = saved(state, tmp_path / f"weights.{ending}")
    assert has_state(models.build_model(settings(name, weights), 4), state)


OLD_KEYS = {
    "densenet121": lambda key: re.sub(r"(layer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key),
    "vit_b_32": lambda key: re.sub(r"\.mlp\.(\d)", lambda m: f".mlp.linear_{int(m[1]) // 3 + 1}", key),
}


@pytest.mark.parametrize("name", ["densenet121", pytest.param("vit_b_32", marks=pytest.mark.slow)])
def test_old_keys_of_torchvisions_files_are_converted(name, tmp_path):
    state = models.build_model(settings(name), 4).state_dict()
    old = {OLD_KEYS[name](key): tensor for key, tensor in state.items() if "num_batches" not in key}
    assert old.keys() - state.keys()
    path = saved(old, tmp_path / "weights.safetensors")
    assert has_state(models.build_model(settings(name, path), 4), state)


def load_error(weights: Path, **options) -> str:
    with pytest.raises(errors.WeightsError) as raised:
        models.build_model(settings(weights=str(weights), **options), 10)
    message = str(raised.value)
    assert "\n" not in message
    assert str(weights) in message
    return message


def test_missing_and_unexpected_tensors_are_named_up_to_three(resnet18, tmp_path):
    path = tmp_path / "weights.pt"
    state = {key: tensor for key, tensor in resnet18[0].items() if "layer4" not in key}
    saved({**state, "neck.weight": torch.zeros(2)}, path)
    message = load_error(path)
    assert "does not fit resnet18: it lacks layer4.0.conv1.weight, layer4.0.bn1.weight, " in message
    assert re.search(r"and \d+ more; it has unexpected neck.weight$", message)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(resnet18, tmp_path):
    path = tmp_path / "weights.safetensors"
    saved({**resnet18[0], "conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    assert load_error(path).endswith("does not fit resnet18: conv1.weight is 64x1x7x7 instead of 64x3x7x7")


def test_a_misspelt_word_and_a_missing_file_are_reported(tmp_path):
    assert load_error(Path("imagnet")) == (
        "weights: no file imagnet; did you mean 'imagenet'? allowed: imagenet, none, a name of "
        "torchvision's, or a file"
    )
    assert "no file" in load_error(tmp_path / "absent.pt")
    assert "no file" in load_error(tmp_path)


@pytest.mark.parametrize("name", ["rubbish.pt", "rubbish.safetensors", "empty.pt", "empty.safetensors"])
def test_a_file_without_weights_is_reported(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"rubbish" * 100 if name.startswith("rubbish") else b"")
    assert "cannot be read" in load_error(path)


@pytest.mark.parametrize("content", [[1, 2], {"lr": 0.1}, {0: torch.zeros(1)}, torch.zeros(3)])
def test_a_file_with_something_else_is_reported(content, tmp_path):
    path = tmp_path / "content.pt"
    torch.save(content, path)
    assert "holds no state dict" in load_error(path)


def test_a_pickled_model_is_not_executed(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(nn.Linear(1, 1), path)
    message = load_error(path)
    assert (
        "contains a torch.nn.modules.linear.Linear, which is not loaded because it could run code"
        in message
    )
    assert "torch.save(model.state_dict(), FILE)" in message


def test_a_numpy_number_in_a_file_is_named(tmp_path):
    path = tmp_path / "scalar.pt"
    torch.save({"accuracy": np.float64(0.5), "model": {}}, path)
    assert re.search(r"contains a numpy\.\S*scalar, which is not loaded", load_error(path))


def test_a_file_without_the_last_layer_is_accepted(resnet18, tmp_path):
    state = {key: value for key, value in resnet18[0].items() if not key.startswith("fc.")}
    module = models.build_model(settings(weights=saved(state, tmp_path / "backbone.pt")), 10)
    assert has_state(module, resnet18[0], except_for="fc")
    assert module.get_submodule("fc").weight.shape == (10, 512)
    state.pop("conv1.weight")
    saved(state, tmp_path / "backbone.pt")
    assert "it lacks conv1.weight" in load_error(tmp_path / "backbone.pt")
