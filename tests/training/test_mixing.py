"""Mixup and CutMix beside torchvision's, and the loss for two labels."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from hpo.training import mixing, optimizers
from hpo.training.config import Config
from tests.support.images import random_images

LABELS_N = torch.tensor([0, 1, 2, 2, 1])


def mix(images: torch.Tensor, labels: torch.Tensor, seed: int = 0, **settings):
    return mixing.mix(images, labels, Config(**settings), torch.Generator().manual_seed(seed))


def batch(count: int = 5, side: int = 16) -> torch.Tensor:
    return torch.from_numpy(random_images(count, 3, side, side))


def test_without_the_options_nothing_is_mixed_and_nothing_is_drawn():
    images, generator = batch(), torch.Generator().manual_seed(0)
    state = generator.get_state()
    mixed, targets = mixing.mix(images, LABELS_N, Config(), generator)
    assert mixed is images
    assert targets.dominant_N is LABELS_N
    assert torch.equal(generator.get_state(), state)


def test_mixup_adds_the_image_before_by_its_share():
    images = batch()
    for seed in range(5):
        mixed, targets = mix(images, LABELS_N, seed, mixup_alpha=1.0)
        expected = images.double() * targets.share + images.roll(1, 0).double() * (1 - targets.share)
        assert mixed.dtype == torch.uint8
        assert (mixed.double() - expected).abs().max() <= 0.5 + 1e-4  # half a level: rounded
        assert torch.equal(targets.others_N, LABELS_N.roll(1))


def test_cutmix_cuts_in_a_box_of_the_image_before_and_its_area_is_the_share():
    images = torch.arange(1, 6, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 20, 30).contiguous()
    kept = images.clone()
    areas = set()
    for seed in range(30):
        mixed, targets = mix(images, LABELS_N, seed, cutmix_alpha=1.0)
        is_other_NHW = (mixed != images).any(1)
        assert (is_other_NHW == is_other_NHW[0]).all()  # the same box in every image
        rows, columns = is_other_NHW[0].any(1), is_other_NHW[0].any(0)
        assert int(is_other_NHW[0].sum()) == int(rows.sum()) * int(columns.sum())
        assert torch.equal(mixed[1, :, is_other_NHW[0]].unique(), images[0].unique()) or not rows.any()
        assert 1 - is_other_NHW[0].double().mean() == pytest.approx(targets.share)
        areas.add(int(is_other_NHW[0].sum()))
    assert len(areas) > 15
    assert torch.equal(images, kept)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha):
    images, labels_N = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), LABELS_N[:2]
    shares = np.array([mix(images, labels_N, seed, mixup_alpha=alpha)[1].share for seed in range(2000)])
    expected = np.random.default_rng(1).beta(alpha, alpha, 2000)
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * shares.std() / math.sqrt(2000))
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)
    assert np.quantile(shares, [0.1, 0.9]) == pytest.approx(np.quantile(expected, [0.1, 0.9]), abs=0.06)


def test_with_both_options_half_of_the_batches_get_each():
    images = batch(4, 8)
    was_cut = []
    for seed in range(400):
        mixed, _ = mix(images, LABELS_N[:4], seed, mixup_alpha=1.0, cutmix_alpha=1.0)
        was_cut.append(bool(((mixed == images) | (mixed == images.roll(1, 0))).all()))
    assert 160 < sum(was_cut) < 240  # 200 expected, 4 standard deviations


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}])
def test_the_loss_is_that_for_a_target_with_both_probabilities(settings):
    logits_NK = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    targets = mixing.Targets(labels_N=LABELS_N, others_N=LABELS_N.roll(1), share=0.3)
    one_hot, others = (functional.one_hot(each, 3) for each in (LABELS_N, LABELS_N.roll(1)))
    expected = functional.cross_entropy(logits_NK, 0.3 * one_hot + 0.7 * others, **settings)
    found = targets.loss(optimizers.loss_function(Config(**settings)), logits_NK)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_class_weights_weight_both_labels(loss):
    weights_K = torch.tensor([0.5, 1.0, 3.0])
    logits_NK = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    others_N, config = LABELS_N.roll(1), Config(loss=loss)
    targets = mixing.Targets(labels_N=LABELS_N, others_N=others_N, share=0.3)
    plain = optimizers.loss_function(config)
    total = weight = 0.0
    for share, labels_N in ((0.3, LABELS_N), (0.7, others_N)):
        for logits_K, label in zip(logits_NK, labels_N, strict=True):
            total += share * weights_K[label] * plain(logits_K[None], label[None])
            weight += share * weights_K[label]
    found = targets.loss(optimizers.loss_function(config, weights_K), logits_NK)
    torch.testing.assert_close(found, total / weight)


def test_the_dominant_label_is_the_one_with_the_larger_share():
    others_N = LABELS_N.roll(1)
    for share, expected in ((0.7, LABELS_N), (0.5, LABELS_N), (0.3, others_N)):
        assert mixing.Targets(labels_N=LABELS_N, others_N=others_N, share=share).dominant_N is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("option", ["mixup_alpha", "cutmix_alpha"])
def test_a_gpu_gives_the_same_bytes_as_the_cpu(option):
    images = batch()
    for seed in range(5):
        on_cpu, on_gpu = (mix(each, LABELS_N, seed, **{option: 1.0})[0] for each in (images, images.cuda()))
        assert torch.equal(on_gpu.cpu(), on_cpu)
