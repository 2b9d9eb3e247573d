"""An exported folder is input: what its files say is checked before a model is built from it."""

import json

import pytest

from hpo.errors import ArtifactError
from hpo.export import predict

CONFIG = {
    "model": "squeezenet1_1",
    "arguments": {"num_classes": 2},
    "preprocessing": {"pixels": 8, "grey": False, "image_size": 32},
    "settings": {},
    "study": "s",
    "trial": 0,
}
WRONG = [
    ("model", "../../x"),
    ("model", "os.system"),
    ("model", None),
    ("model", ["resnet18"]),
    ("arguments", {"num_classes": 0}),
    ("arguments", {"num_classes": -1}),
    ("arguments", {"num_classes": 10**12}),
    ("arguments", {"num_classes": "x"}),
    ("arguments", {"num_classes": float("nan")}),
    ("arguments", {"num_classes": 2, "weights": True}),
    ("arguments", {}),
    ("arguments", []),
    ("preprocessing", {"pixels": 0, "grey": False, "image_size": 32}),
    ("preprocessing", {"pixels": 10**9, "grey": False, "image_size": 32}),
    ("preprocessing", {"pixels": 8, "grey": False, "image_size": 2**40}),
    ("preprocessing", {"pixels": 8, "grey": False, "image_size": "/etc"}),
    ("preprocessing", None),
    ("settings", 5),
    ("trial", "../x"),
]


def refusal(folder) -> str:
    with pytest.raises(ArtifactError) as refused:
        predict.Predictor(folder)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_description_that_hpo_does_not_write_is_refused_before_a_model_is_built(tmp_path, key, value):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {key: value}))
    assert f"config.json: {key}" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "9" * 5000, "\ud800", "null"])
def test_a_description_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    assert "config.json: " in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 8, b"\x08" + b"\0" * 7 + b"{}", b"[" * 1000])
def test_weights_that_are_no_safetensors_are_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    assert "cannot build squeezenet1_1 from it; export it again" in refusal(tmp_path)
