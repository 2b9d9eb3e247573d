"""Small models of timm, and a local copy of the Hugging Face hub with their weights."""

from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import nn

# One small model of each of these families of timm's, at 32 pixels.
FAMILIES = (
    *("test_resnet", "test_convnext", "test_vit", "test_efficientnet", "test_maxvit", "test_coatnet"),
    *("deit_tiny_patch16_224", "mobilenetv3_small_050", "regnetx_002", "edgenext_xx_small"),
)
SLOW_FAMILIES = ("densenet121", "swin_tiny_patch4_window7_224", "mixer_s32_224")
VIT_WEIGHTS = "timm/test_vit.r160_in1k"  # their name on the hub, and of the model with their tag


def pretrained(name: str, seed: int = 0) -> nn.Module:
    """Return a model as timm's authors could have trained it: with 1000 classes, for its own image size."""
    torch.manual_seed(seed)
    return timm.create_model(name)


def store_on_hub(cache: Path, repository: str, state: dict[str, torch.Tensor]) -> Path:
    """Write weights where the hub's library looks for those that it has downloaded; return the file."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    file = folder / "snapshots" / ("0" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    safetensors.torch.save_file(state, file)
    return file
