"""PSS: each equation against loops in float64, where gradients go, the teacher, the schedule, and a study."""

import itertools
import math
import re
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_backbone import tiny_backbone
from torch.nn import functional as F

from wsss_lib.inference import response_maps
from wsss_lib.losses import classification_loss
from wsss_lib.methods import base, load_config
from wsss_lib.methods.base import classification_examples
from wsss_lib.methods.pss import (
    PSS,
    RECIPE,
    PSSTraining,
    attention,
    class_prototypes,
    class_regions,
    contrastive_bounds,
    contrastive_loss,
    direct_loss,
    examples,
    mask_scores,
    mean_cosine,
    momentum,
    move_average,
    multi_scale_loss,
    multi_scale_maps,
    on_grid,
    scaled,
    targets,
)
from wsss_lib.models.trainable import Clock
from wsss_lib.study.study import Study
from wsss_lib.training import SeededExamples, build_optimiser, train

EPS = 1e-5
LABELS = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]])  # one to three of four classes


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def config(**changes) -> PSSTraining:
    preset = load_config("smoke").pss
    values = {"epochs": 8, "batch": 4, "channels": 6, "scales": (0.5, 1.5), **changes}
    return RECIPE.trained_by(preset.model_copy(update=values))


def model(seed: int = 0, **changes) -> PSS:
    """As the loop has it: F in training mode, all else in evaluation."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = PSS(tiny_backbone(seed=seed), 4, config(**changes)).eval()
    net.main.train()
    return net


def batch(photos: int = 3, side: int = 64, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"image": random(photos, 3, side, side, seed=seed).float(), "label": LABELS[:photos]}


def at(step: int, epochs: int = 8, steps: int = 1) -> Clock:
    return Clock(step, step // steps, epochs, steps)


def cells(*tensors: torch.Tensor):
    return itertools.product(*map(range, tensors[0].shape))


# --- maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "grid"), [(0.5, 8), (1, 8), (1.5, 8), (2, 8), (1, 1), (0.5, 4)])
def test_views_are_brought_to_one_grid_as_bilinear_resizing_does(scale, grid):
    cell, side = 16, 64
    maps = random(2, 3, round(side * scale) // cell, round(side * scale) // cell)
    found = on_grid(maps, cell, [round(side * scale)] * 2, [side] * 2, grid)
    expected = F.interpolate(maps, (side // grid, side // grid), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_view_whose_cells_reach_beyond_it_is_not_stretched():
    """A crop of 40 pixels at half size has 20, in two cells of 16 of which the second is mostly beyond."""
    ramp = torch.tensor([8.0, 24.0]).expand(1, 1, 2, 2)  # the pixel of the view that each cell's centre is
    found = on_grid(ramp, 16, (20, 20), (40, 40), 8)[0, 0, 0]
    in_view = (np.arange(5) + 0.5) * 8 / 2
    np.testing.assert_allclose(found, np.clip(in_view, 8, 24), rtol=1e-6)


def test_maps_are_rectified_and_divided_by_their_maximum_and_absent_classes_are_zero():
    maps = random(3, 4, 3, 5, 6)
    maps[1, 1, 2] = -1  # present, and silent at one size
    found = scaled(maps, LABELS.double())
    for b, c, s, i, j in cells(maps):
        highest = max(0.0, maps[b, c, s].max().item())
        expected = max(0.0, maps[b, c, s, i, j].item()) / (highest + EPS) * LABELS[b, c].item()
        assert found[b, c, s, i, j].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("renormalise", [True, False])
def test_the_multi_scale_map_is_the_mean_over_the_sizes(renormalise):
    maps = uniform(2, 3, 3, 4, 5)
    maps[0, 1] = 0
    found = multi_scale_maps(maps, renormalise)
    for b, c in itertools.product(range(2), range(3)):
        mean = sum(maps[b, c, s].numpy() for s in range(3)) / 3
        np.testing.assert_allclose(found[b, c], mean / (mean.max() + EPS) if renormalise else mean)


# --- equations 1 and 2 -----------------------------------------------------------------------------------


def masks_by_loops(maps, labels, threshold) -> np.ndarray:
    """M, (B, C + 1, h, w), as equations 1 and 2 have it."""
    photos, classes, height, width = maps.shape
    masks = np.zeros((photos, classes + 1, height, width))
    for b, i, j in itertools.product(range(photos), range(height), range(width)):
        present = [c for c in range(classes) if labels[b, c]]
        best = max(present, key=lambda c, b=b, i=i, j=j: maps[b, c, i, j].item())
        if maps[b, best, i, j].item() > threshold:
            masks[b, best + 1, i, j] = 1
        if not masks[b, 1:, i, j].any():
            masks[b, 0, i, j] = 1
    return masks


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
def test_regions_are_the_masks_of_a_loop(threshold):
    maps = uniform(3, 4, 6, 5)  # absent classes too: only labels say who is absent
    masks = masks_by_loops(maps, LABELS, threshold)
    assert (masks.sum(1) == 1).all()
    regions = class_regions(maps, LABELS, threshold)
    np.testing.assert_array_equal(regions, masks.argmax(1))
    for b in range(3):
        assert set(regions[b].unique().tolist()) <= {0, *(LABELS[b].nonzero()[:, 0] + 1).tolist()}
    assert threshold or (regions > 0).all()


def test_a_value_equal_to_the_threshold_is_background():
    maps = torch.tensor([0.3, 0.3 + 1e-6, 0.3 - 1e-6]).reshape(1, 1, 1, 3)
    assert class_regions(maps, torch.ones(1, 1), maps[0, 0, 0, 0].item()).flatten().tolist() == [0, 1, 0]


def test_a_photo_without_a_label_is_background():
    assert not class_regions(uniform(1, 3, 4, 4), torch.zeros(1, 3), 0.0).any()


# --- equation 3 ------------------------------------------------------------------------------------------


def prototypes_by_loops(features, regions, classes, form) -> dict[int, np.ndarray]:
    found = {}
    for k in range(classes):
        of_photos = []
        for b in range(len(features)):
            places = [features[b, :, i, j].numpy() for i, j in cells(regions[b]) if regions[b, i, j] == k]
            if places:
                of_photos.append(sum(places) / (len(places) if form == "mean" else 1))
        if of_photos:
            found[k] = sum(of_photos) / (len(of_photos) if form == "mean" else 1)
    return found


def drawn_regions(seed: int, missing: int | None = None) -> torch.Tensor:
    regions = torch.randint(5, (3, 4, 6), generator=torch.Generator().manual_seed(seed))
    regions[0][regions[0] == 3] = 0  # a class that only some photos have
    return torch.where(regions == missing, 0, regions) if missing is not None else regions


@pytest.mark.parametrize("form", ["mean", "sum"])
def test_prototypes_are_those_of_a_loop(form):
    features, regions = random(3, 7, 4, 6), drawn_regions(1, missing=2)
    found, shown = class_prototypes(features, regions, 6, form)
    expected = prototypes_by_loops(features, regions, 6, form)
    assert shown.tolist() == [k in expected for k in range(6)]
    assert shown.tolist() == [True, True, False, True, True, False]
    for k, vector in expected.items():
        np.testing.assert_allclose(found[k], vector, rtol=1e-10)


@pytest.mark.parametrize("form", ["mean", "sum"])
def test_a_class_that_a_batch_lacks_keeps_its_latest_prototype(form):
    net, latest = model(prototype=form), {}
    for seed, missing in ((0, 4), (1, 2), (2, None)):
        x_f, x_g = (random(3, 6, 4, 6, seed=s).float() for s in (seed, seed + 10))
        regions = drawn_regions(seed, missing)
        latest |= prototypes_by_loops(x_g, regions, 5, form)
        losses = net.rcm(x_f, x_g, None, regions, LABELS)
        assert set(net.seen.nonzero()[:, 0].tolist()) == set(latest)
        for k, vector in latest.items():
            np.testing.assert_allclose(net.prototypes[k], vector, rtol=1e-5, atol=1e-6)
        expected = loss_by_loops(x_f, latest, regions, net.config.temperature, "log")
        assert losses["L_RCM"].item() == pytest.approx(expected, rel=1e-5)
    assert len(latest) == 5


# --- equations 4 and 5 -----------------------------------------------------------------------------------


def loss_by_loops(features, prototypes, regions, temperature, form) -> float:
    """prototypes: class -> vector; classes without one are not in the sum."""
    total = 0.0
    for b, i, j in cells(regions):
        x = features[b, :, i, j].double().numpy()
        similar = {
            k: np.exp((x / np.linalg.norm(x)) @ (pt / np.linalg.norm(pt)) / temperature)
            for k, pt in prototypes.items()
        }
        share = similar[int(regions[b, i, j])] / sum(similar.values())
        total -= np.log(share) if form == "log" else share
    return total / regions.numel()


@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("temperature", [0.5, 2])
def test_the_contrastive_loss_is_that_of_a_loop(form, temperature):
    features, prototypes, regions = random(3, 7, 4, 6), random(5, 7, seed=1), drawn_regions(0)
    seen = torch.ones(5, dtype=torch.bool)
    found = contrastive_loss(features, prototypes, seen, regions, temperature, form)
    expected = loss_by_loops(features, dict(enumerate(prototypes.numpy())), regions, temperature, form)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    longer = contrastive_loss(30 * features, prototypes, seen, regions, temperature, form)
    assert longer.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", ["log", "printed"])
def test_a_class_never_seen_changes_nothing(form):
    features, prototypes, regions = random(3, 7, 4, 6), random(5, 7, seed=1), drawn_regions(0, missing=2)
    seen = torch.arange(5) != 2
    known = {k: prototypes[k].numpy() for k in (0, 1, 3, 4)}
    for other in (0.0, 1.0, 1e3):
        prototypes[2] = other
        found = contrastive_loss(features, prototypes, seen, regions, 0.5, form)
        assert found.item() == pytest.approx(loss_by_loops(features, known, regions, 0.5, form), rel=1e-10)


@pytest.mark.parametrize("form", ["log", "printed"])
def test_the_contrastive_gradient_is_that_of_finite_differences_and_reaches_the_features_alone(form):
    features = random(2, 5, 3, 2).requires_grad_()
    prototypes = random(4, 5, seed=1).requires_grad_()
    seen, regions = torch.tensor([True, True, False, True]), torch.tensor([0, 1, 3]).expand(2, 2, 3).mT
    assert torch.autograd.gradcheck(
        lambda x: contrastive_loss(x, prototypes, seen, regions, 0.5, form), features
    )
    contrastive_loss(features, prototypes, seen, regions, 0.5, form).backward()
    assert features.grad.abs().sum() > 0
    assert prototypes.grad is None


@pytest.mark.parametrize("classes", [6, 20])
def test_the_lowest_values_of_the_contrastive_loss(classes):
    regions, seen = torch.arange(classes + 1).reshape(1, 1, -1), torch.ones(classes + 1, dtype=torch.bool)
    orthonormal = torch.eye(classes + 1, dtype=torch.float64)
    simplex = orthonormal - 1 / (classes + 1)  # as far apart as so many vectors can be
    values = {"orthonormal": {6: 0.59, 20: 1.31}, "simplex": {6: 0.46, 20: 1.24}}
    for name, vectors, exponent in (
        ("orthonormal", orthonormal, -1 / 0.5),
        ("simplex", simplex, -(1 + 1 / classes) / 0.5),
    ):
        found = contrastive_loss(vectors.T[None, :, None], vectors, seen, regions, 0.5).item()
        assert found == pytest.approx(math.log(1 + classes * math.exp(exponent)), rel=1e-9)
        assert found == pytest.approx(values[name][classes], abs=0.006)
    one = torch.ones(classes + 1, 4, dtype=torch.float64)  # all alike, as at the start
    found = contrastive_loss(one.T[None, :, None], one, seen, regions, 0.5).item()
    assert found == pytest.approx(math.log(classes + 1))
    start, floor = contrastive_bounds(classes, 0.5)
    assert (start, floor) == (pytest.approx(found), pytest.approx(values["simplex"][classes], abs=0.006))


# --- Table 2's direct supervision ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["direct", "direct softmax"])
def test_direct_supervision_is_that_of_a_loop(form):
    maps = scaled(random(3, 4, 1, 4, 5), LABELS.double())[:, :, 0]
    regions = class_regions(uniform(3, 4, 4, 5, seed=1), LABELS, 0.5)
    total = 0.0
    for b, i, j in cells(regions):
        present = [c for c in range(4) if LABELS[b, c]]
        a = {c: maps[b, c, i, j].item() for c in present}
        if form == "direct":
            for c in present:
                p = min(max(a[c], 1e-4), 1 - 1e-4)
                total -= math.log(p if regions[b, i, j] == c + 1 else 1 - p) / 6  # six present pairs
        else:
            scores = {0: 1 - max(a.values()), **{c + 1: value for c, value in a.items()}}
            e = {k: math.exp(value) for k, value in scores.items()}
            total -= math.log(e[int(regions[b, i, j])] / sum(e.values())) / 3
    found = direct_loss(maps, regions, LABELS.double(), form)
    assert found.item() == pytest.approx(total / 20, rel=1e-9)


# --- equations 6 to 8 ------------------------------------------------------------------------------------


def test_attention_is_two_minus_the_cosine_of_whole_maps():
    main, support = uniform(2, 3, 3, 4, 5), uniform(2, 3, 3, 4, 5, seed=1)
    main[0, 1, 2] = 0
    found = attention(main, support)
    for b, c, i, j in cells(found):
        u, v = main[b, c, i].numpy().ravel(), support[b, c, j].numpy().ravel()
        lengths = np.linalg.norm(u) * np.linalg.norm(v)
        expected = 2 - u @ v / lengths if lengths else 2
        assert found[b, c, i, j].item() == pytest.approx(expected, rel=1e-9)
    assert ((found >= 1) & (found <= 2)).all()
    for b, c, i in cells(found[..., 0]):
        mean = sum(found[b, c, i, j] * support[b, c, j] for j in range(3)) / 3
        torch.testing.assert_close(targets(support, found)[b, c, i], mean)


def test_attention_of_equal_disjoint_and_silent_maps():
    one = uniform(1, 1, 1, 4, 4).expand(1, 1, 3, 4, 4)
    torch.testing.assert_close(attention(one, 5 * one), torch.ones(1, 1, 3, 3, dtype=torch.float64))
    left = one.clone()
    left[..., 2:] = 0
    assert (attention(left, left.flip(-1)) == 2).all()
    silent = torch.zeros_like(one).requires_grad_()
    xi = attention(silent, one)
    assert (xi == 2).all()
    xi.sum().backward()
    assert silent.grad.isfinite().all()


def test_the_multi_scale_loss_is_the_mean_distance_of_present_maps():
    main, target = (scaled(random(3, 4, 3, 4, 5, seed=s), LABELS.double()) for s in (0, 1))
    total = sum(abs(target[at] - main[at]).item() for at in cells(main) if LABELS[at[:2]])
    found = multi_scale_loss(main, target, LABELS.double())
    assert found.item() == pytest.approx(total / (3 * 6 * 20), rel=1e-9)


def step_losses(form: str, **changes) -> dict[str, float]:
    net = model(mam_form=form, lambda_rcm=0, rcm_start=0, mam_start=0, **changes)
    net.support.load_state_dict(model(seed=1).main.state_dict())  # G unlike F
    return {name: loss.item() for name, loss in net.training_step(batch(), at(0), "train").items()}


def test_mam_without_attention_is_mmm_and_smm_its_middle_term(monkeypatch):
    mam, mmm, smm = (step_losses(form)["L_MAM"] for form in ("mam", "mmm", "smm"))
    assert mam != mmm
    monkeypatch.setattr("wsss_lib.methods.pss.attention", lambda main, _: main.new_ones(3, 4, 3, 3))
    assert step_losses("mam")["L_MAM"] == pytest.approx(mmm, rel=1e-6)
    monkeypatch.undo()
    net = model(mam_form="mmm", lambda_rcm=0, rcm_start=0, mam_start=0)
    a_f, a_g = (scaled(random(3, 4, 3, 4, 5, seed=s), LABELS.double()) for s in (0, 1))
    terms = [net.mam(a_f, a_g, LABELS).item()]
    for size in range(3):
        only = a_f.clone()
        mean = a_g.mean(2)
        only[:, :, [s for s in range(3) if s != size]] = mean[:, :, None]  # these are at their target
        terms.append(net.mam(only, a_g, LABELS).item())
    assert terms[0] == pytest.approx(sum(terms[1:]), rel=1e-9)
    net = model(mam_form="smm", lambda_rcm=0, rcm_start=0, mam_start=0)
    assert net.mam(a_f[:, :, 1:2], a_g, LABELS).item() == pytest.approx(terms[2], rel=1e-9)
    assert 0 < smm < mmm


@pytest.mark.parametrize("form", ["mam", "mmm"])
def test_nothing_is_pushed_where_sizes_and_networks_agree(form):
    net = model(mam_form=form)
    one = scaled(random(3, 4, 1, 4, 5), LABELS.double()).expand(3, 4, 3, 4, 5).clone().requires_grad_()
    loss = net.mam(one, one.detach(), LABELS)
    assert loss.item() == pytest.approx(0, abs=1e-9)


def test_targets_above_one_can_be_clipped():
    maps = torch.ones(1, 1, 3, 2, 2, dtype=torch.float64)
    other = maps.clone()
    other[..., 1] = 0
    label = torch.ones(1, 1)
    xi = 2 - 1 / math.sqrt(2)
    assert model(mam_form="mam").mam(other, maps, label).item() == pytest.approx((xi + xi - 1) / 2)
    assert model(mam_form="mam", clip_target=True).mam(other, maps, label).item() == pytest.approx(0.5)


@pytest.mark.parametrize("detach_max", [False, True])
def test_the_gradient_of_the_multi_scale_loss_is_that_of_finite_differences(detach_max):
    raw, target = random(2, 2, 3, 3, 3), 1.5 * uniform(2, 2, 3, 3, 3, seed=1)
    labels = torch.tensor([[1.0, 0], [1, 1]], dtype=torch.float64)
    target = target * labels[..., None, None, None]
    fixed = raw.clamp(min=0).amax((-2, -1), keepdim=True) + EPS

    def value(x: torch.Tensor) -> float:
        highest = fixed if detach_max else x.clamp(min=0).amax((-2, -1), keepdim=True) + EPS
        a = x.clamp(min=0) / highest * labels[..., None, None, None]
        return ((a - target).abs().sum() / (3 * 3 * 9)).item()

    raw.requires_grad_()
    multi_scale_loss(scaled(raw, labels, detach_max), target, labels).backward()
    for place in cells(raw):
        moved = torch.zeros_like(raw.detach())
        moved[place] = 1e-6
        slope = (value(raw.detach() + moved) - value(raw.detach() - moved)) / 2e-6
        assert raw.grad[place].item() == pytest.approx(slope, abs=1e-7)


def test_the_gradient_at_the_peak():
    """Through the maximum F can lower its peak instead of raising the rest; detached it cannot."""
    raw = torch.tensor([[4.0, 1.0], [2.0, 0.5]], dtype=torch.float64).reshape(1, 1, 1, 2, 2)
    label, target = torch.ones(1, 1, dtype=torch.float64), torch.full_like(raw, 2)
    gradients = []
    for detach_max in (False, True):
        x = raw.clone().requires_grad_()
        multi_scale_loss(scaled(x, label, detach_max), target, label).backward()
        gradients.append(x.grad[0, 0, 0, 0, 0].item())
    through, detached = gradients
    assert through > 0 > detached  # descent lowers the peak, or raises it
    highest = 4 + EPS
    assert detached == pytest.approx(-1 / highest / 12)
    assert through == pytest.approx((-1 / highest + (4 + 1 + 2 + 0.5) / highest**2) / 12)


# --- SupportNet ------------------------------------------------------------------------------------------


def test_alpha_remembers_as_many_steps():
    assert momentum(0.50429 * 661, 10**6, False) == pytest.approx(0.997, abs=1e-6)
    assert momentum(12.5, 10**6, True) == pytest.approx(0.92)
    assert [momentum(100, t, True) for t in (0, 1, 8)] == [0.1, 2 / 11, 0.5]
    assert momentum(0.5, 5, False) == 0  # half an epoch of a single step


def test_the_average_approaches_fixed_weights_geometrically():
    slow, fast = model().main, model(seed=1).main
    start = [p.detach().clone() for p in slow.parameters()]
    for _ in range(7):
        move_average(slow, fast, 0.9)
    for average, first, fixed in zip(slow.parameters(), start, fast.parameters(), strict=True):
        torch.testing.assert_close(average, fixed + 0.9**7 * (first - fixed))
    for average, fixed in zip(slow.buffers(), fast.buffers(), strict=True):
        assert torch.equal(average, fixed)


@pytest.mark.parametrize("ramp", [True, False])
def test_support_net_is_a_copy_until_rcm_starts_and_an_average_afterwards(ramp):
    net = model(rcm_start=0.25, mam_start=0.5, ema_memory=2.5, ema_ramp=ramp)
    other = model(seed=1).main.state_dict()
    first = net.main.projection.weight.detach().clone()
    net.main.load_state_dict(other)
    for step in range(4):  # four steps an epoch, eight epochs: RCM from step 8
        net.after_step(at(step, steps=4))
        assert torch.equal(net.support.projection.weight, net.main.projection.weight)
    with torch.no_grad():
        net.main.projection.weight.copy_(first)
    share = 1.0
    for t in range(5):
        net.after_step(at(8 + t, steps=4))
        share *= min(0.9, (1 + t) / (10 + t)) if ramp else 0.9  # 2.5 epochs are ten steps
        expected = first + share * (other["projection.weight"] - first)
        torch.testing.assert_close(net.support.projection.weight, expected)


def test_support_net_is_in_no_optimiser_gets_no_gradient_and_stays_in_evaluation():
    net = model(rcm_start=0, mam_start=0)
    net.training_step(batch(), at(0), "train")["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in net.support.parameters())
    assert not net.support.training
    learns = net.trained_in("train")
    assert learns is net.kept() is net.main
    optimiser = build_optimiser(learns, net.config.optimiser)
    learnt = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert learnt == {id(p) for p in net.main.parameters() if p.requires_grad}
    assert all(p.grad is not None for p in net.main.parameters() if p.requires_grad)
    assert {"support.projection.weight", "prototypes", "seen"} < net.state_dict().keys()


def test_with_shared_weights_the_teacher_is_main_net_itself_in_evaluation_mode():
    net, seen = model(ema_memory=None, rcm_start=0, mam_start=0, dropout=0.5), []
    net.main.projection.register_forward_hook(
        lambda layer, *_: seen.append((layer.training, torch.is_grad_enabled()))
    )
    assert net.support is None
    assert not any(name.startswith("support") for name in net.state_dict())
    net.training_step(batch(), at(0), "train")["loss"].backward()
    net.after_step(at(0))
    assert seen == 3 * [(True, True)] + 3 * [(False, False)]
    assert net.main.training
    assert not any(norm.training for norm in net.main.backbone.batch_norms())


# --- equation 9 and the schedule -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["log", "printed", "direct", "direct softmax"])
@pytest.mark.parametrize("grid", [8, 16])
def test_a_step_is_the_weighted_sum_of_the_equations(form, grid):
    net = model(
        rcm_start=0, mam_start=0, lambda_rcm=0.7, lambda_mam=0.3, rcm_form=form, grid=grid, threshold=0.3
    )
    net.support.load_state_dict(model(seed=1).main.state_dict())
    given = batch()
    views = [F.interpolate(given["image"], scale_factor=s, mode="bilinear") for s in (0.5, 1, 1.5)]
    features, maps = {}, {}
    for name, network in (("F", net.main), ("G", net.support)):
        for size, view in zip("sml", views, strict=True):
            x = network.projection(network.backbone(view)[-1])
            a = network.classifier(F.relu(x))
            features[name, size], maps[name, size] = (
                F.interpolate(t, (64 // grid,) * 2, mode="bilinear").detach() for t in (x, a)
            )
            if (name, size) == ("F", "m"):
                l_cls = classification_loss(a.mean((2, 3)), given["label"]).item()
    present = LABELS[..., None, None]
    a = {key: m.relu() / (m.relu().amax((2, 3), keepdim=True) + EPS) * present for key, m in maps.items()}
    mean = sum(a["G", size] for size in "sml") / 3
    mean = mean / (mean.amax((2, 3), keepdim=True) + EPS)
    regions = torch.from_numpy(masks_by_loops(mean, LABELS, 0.3).argmax(1))
    if form.startswith("direct"):
        l_rcm = direct_loss(a["F", "m"], regions, LABELS, form)
    else:
        prototypes = prototypes_by_loops(features["G", "m"], regions, 5, "mean")
        l_rcm = loss_by_loops(features["F", "m"], prototypes, regions, 0.5, form)
    l_mam = 0.0
    for i in "sml":
        xi = {j: 2 - F.cosine_similarity(a["F", i].flatten(2), a["G", j].flatten(2), dim=2) for j in "sml"}
        target = sum(xi[j][..., None, None] * a["G", j] for j in "sml") / 3
        l_mam += (target - a["F", i]).abs().sum().item() / (3 * 6 * regions[0].numel())
    losses = net.training_step(given, at(0), "train")
    expected = {"L_cls": l_cls, "L_RCM": float(l_rcm), "L_MAM": l_mam}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    total = expected["L_cls"] + 0.7 * expected["L_RCM"] + 0.3 * expected["L_MAM"]
    assert losses["loss"].item() == pytest.approx(total, rel=1e-4)
    assert losses["foreground share"].item() == pytest.approx((regions > 0).double().mean().item())


def test_rcm_moves_the_features_and_mam_the_head_as_well():
    net = model(rcm_start=0, mam_start=0)
    taught = [net.main.classifier.weight, net.main.projection.weight]
    losses = net.training_step(batch(), at(0), "train")
    gradients = {
        name: torch.autograd.grad(losses[name], taught, retain_graph=True, allow_unused=True)
        for name in ("L_RCM", "L_MAM")
    }
    assert gradients["L_RCM"][0] is None
    assert all(g.abs().sum() > 0 for g in (gradients["L_RCM"][1], *gradients["L_MAM"]))


@pytest.mark.parametrize(
    ("changes", "main", "support"),
    [
        ({}, [1, 1, 1, 1, 3, 3, 3, 3], [0, 0, 3, 3, 3, 3, 3, 3]),
        ({"mam_form": "mmm", "lambda_rcm": 0}, [1, 1, 1, 1, 3, 3, 3, 3], [0, 0, 0, 0, 3, 3, 3, 3]),
        ({"mam_form": "smm"}, [1] * 8, [0, 0, 3, 3, 3, 3, 3, 3]),
        ({"lambda_mam": 0}, [1] * 8, [0, 0, 3, 3, 3, 3, 3, 3]),
        ({"lambda_mam": 0, "lambda_rcm": 0}, [1] * 8, [0] * 8),
    ],
)
def test_forwards_by_epoch(tmp_path, changes, main, support):
    """Eight epochs of two steps: RCM after a quarter, MAM after half of them."""
    net, looks = model(rcm_start=0.25, mam_start=0.5, **changes), []
    for name, network in (("main", net.main), ("support", net.support)):
        network.projection.register_forward_hook(lambda *_, name=name: looks.append(name))
    counts = []
    after = net.after_step

    def counted(clock: Clock) -> None:
        after(clock)
        counts.append((clock.epoch, looks.count("main"), looks.count("support")))
        looks.clear()

    net.after_step = counted
    trained(tmp_path, net, size=8)
    assert counts == [(e, m, s) for e, m, s in zip(range(8), main, support, strict=True) for _ in range(2)]
    history = pd.read_csv(tmp_path / "history.csv")
    for name, start, weight in (("L_RCM", 2, "lambda_rcm"), ("L_MAM", 4, "lambda_mam")):
        on = [getattr(net.config, weight) > 0 and epoch >= start for epoch in range(8)]
        found = history[name].notna().tolist() if name in history else [False] * 8
        assert found == on


def test_the_papers_mam_starts_with_epoch_six():
    net = PSS(tiny_backbone(), 4, RECIPE.trained_by(load_config("paper").pss))
    steps = 10_582 // 16
    assert net.balance(Clock(0, 0, 20, steps)) == (1, 0)
    assert net.balance(Clock(6 * steps - 1, 5, 20, steps)) == (1, 0)
    assert net.balance(Clock(6 * steps, 6, 20, steps)) == (1, 1)


def test_mam_cannot_start_before_its_teacher():
    with pytest.raises(ValueError, match=r"mam_start 0\.1 must not lie before rcm_start 0\.25"):
        load_config("smoke", {"pss.mam_start": 0.1})


# --- training --------------------------------------------------------------------------------------------


class Pictures:
    """Noisy squares; the call `fail_at` is interrupted."""

    def __init__(self, fail_at: int = -1):
        self.fail_at, self.calls = fail_at, 0

    def __call__(self, index: int) -> dict[str, torch.Tensor]:
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        return {"image": torch.randn(3, 32, 32) + index % 3, "label": LABELS[index % 3]}


def trained(out: Path, net: PSS, size: int = 8, pictures=None, precision: str = "no") -> bytes:
    out.mkdir(exist_ok=True)
    found = SeededExamples(size, pictures or Pictures(), seed=3)
    train(net, found, net.config, out, workers=0, precision=precision, title="tiny PSS")
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("changes", [{}, {"ema_memory": None}])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, changes):
    options = {"epochs": 4, "rcm_start": 0.25, "mam_start": 0.5, **changes}
    whole = trained(tmp_path / "whole", model(**options))
    for fail_at in (20, 14):  # in the third epoch; again, in the fourth
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "halves", model(**options), pictures=Pictures(fail_at))
    state = torch.load(tmp_path / "halves" / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 3
    assert state["model"]["seen"].any()
    assert trained(tmp_path / "halves", model(**options)) == whole
    histories = [(tmp_path / run / "history.csv").read_bytes() for run in ("whole", "halves")]
    assert histories[0] == histories[1]
    kept = load_file(tmp_path / "whole" / "model.safetensors")
    assert kept.keys() == model().main.state_dict().keys()


@pytest.fixture
def _fresh_accelerate():
    """accelerate keeps one precision a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("_fresh_accelerate")
@pytest.mark.parametrize("memory", [0.5, None])
def test_mixed_precision_trains_with_losses_in_float32(tmp_path, memory):
    net = model(epochs=4, rcm_start=0, mam_start=0, ema_memory=memory)
    before = net.main.projection.weight.detach().clone()
    trained(tmp_path, net, precision="bf16")
    history = pd.read_csv(tmp_path / "history.csv")
    assert np.isfinite(history.to_numpy()).all()
    assert not torch.equal(net.main.projection.weight, before)
    with torch.autocast("cpu", torch.bfloat16):
        losses = net.training_step(batch(), at(0), "train")
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_steps_lower_the_loss_and_spread_the_prototypes():
    torch.manual_seed(0)
    net = model(rcm_start=0, mam_start=0, channels=16, threshold=0.4)
    optimiser, found = torch.optim.Adam(net.main.parameters(), 1e-2), []
    for step in range(60):
        losses = net.training_step(batch(), at(step, 60), "train")
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        net.after_step(at(step, 60))
        found.append({name: loss.item() for name, loss in losses.items()})
    first, last = pd.DataFrame(found[:5]).mean(), pd.DataFrame(found[-5:]).mean()
    assert last["L_RCM"] < 0.9 * first["L_RCM"]
    assert last["L_cls"] < first["L_cls"]
    assert last["prototype cosine"] < first["prototype cosine"]


# --- what is watched -------------------------------------------------------------------------------------


def test_mask_scores_count_places():
    regions, truth = drawn_regions(0), drawn_regions(1)
    truth[0, 0] = 255
    counted = [(int(r), int(t)) for r, t in zip(regions.flatten(), truth.flatten(), strict=True) if t != 255]
    right = sum(r == t > 0 for r, t in counted)
    found = mask_scores(regions, truth)
    assert found["mask precision"].item() == pytest.approx(right / sum(r > 0 for r, _ in counted))
    assert found["mask recall"].item() == pytest.approx(right / sum(t > 0 for _, t in counted))
    assert {v.item() for v in mask_scores(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).values()} == {0}


def test_mean_cosine_is_that_over_all_pairs():
    vectors = random(5, 7)
    pairs = [F.cosine_similarity(u, v, 0).item() for u, v in itertools.combinations(vectors, 2)]
    assert mean_cosine(vectors).item() == pytest.approx(np.mean(pairs))
    assert mean_cosine(vectors[:1]).item() == pytest.approx(0)


def test_the_truth_has_no_part_in_what_is_learned(tmp_path):
    class WithTruth(Pictures):
        def __call__(self, index):
            return {**super().__call__(index), "mask": torch.randint(5, (32, 32)).byte()}

    plain, watched = (
        trained(tmp_path / name, model(epochs=4), pictures=pictures)
        for name, pictures in (("plain", Pictures()), ("watched", WithTruth()))
    )
    assert plain == watched
    columns = [set(pd.read_csv(tmp_path / name / "history.csv")) for name in ("plain", "watched")]
    assert columns[1] - columns[0] == {"mask precision", "mask recall"}


# --- in a study ------------------------------------------------------------------------------------------

SMALL = {
    "scenes.train": 8, "scenes.val": 2, "classifier.batch": 4, "maps.scales": [1.0],
}  # fmt: skip


def test_watched_examples_are_the_same_pictures(tmp_path):
    study = Study("smoke", cache=tmp_path, overrides=SMALL)
    net = model()
    plain, watched = (f(study, study.config.pss, net) for f in (classification_examples, examples))
    for index in range(3):
        first, second = (SeededExamples(8, found, seed=1)[index] for found in (plain, watched))
        torch.testing.assert_close(first["image"], second["image"], rtol=0, atol=0)
        torch.testing.assert_close(first["label"], second["label"])
        assert second["mask"].shape == (96, 96)
        assert set(second["mask"].unique().tolist()) <= {
            0,
            255,
            *(first["label"].nonzero()[:, 0] + 1).tolist(),
        }


@pytest.mark.whole
def test_a_study_trains_it_with_a_key_of_its_own(tmp_path, monkeypatch):
    study = Study("smoke", cache=tmp_path, results=tmp_path / "results", overrides=SMALL)
    maps = study.response_maps("pss", 0)
    assert (maps.origin.method, maps.origin.supervision) == ("pss", "I")
    last = pd.read_csv(study.classifier("pss", 0).file("history.csv")).iloc[-1]
    settings = study.config.pss
    expected = last["L_cls"] + settings.lambda_rcm * last["L_RCM"] + settings.lambda_mam * last["L_MAM"]
    assert last["loss"] == pytest.approx(expected, rel=1e-4)
    assert {"foreground share", "prototype cosine", "mask precision", "mask recall"} < set(last.index)

    monkeypatch.setattr("wsss_lib.study.study.train", lambda *_, **__: 1 / 0)

    def trains(**overrides) -> bool:
        try:
            study.varied({f"pss.{name}": value for name, value in overrides.items()}).classifier("pss", 0)
        except ZeroDivisionError:
            return True
        return False

    assert not trains(threshold_sweep=[0.1])
    for name, value in {
        "threshold": 0.6, "lambda_rcm": 0, "lambda_mam": 1, "rcm_form": "printed", "mam_form": "mmm",
        "ema_memory": None, "detach_max": True,
    }.items():  # fmt: skip
        assert trains(**{name: value}), name


@pytest.mark.slow
def test_the_papers_step_and_inference_at_full_size(tmp_path, capsys):
    """Three sizes, both networks, ResNet-38 at full width; batch 1, random weights, all else preset paper."""
    small = {"scenes.train": 1, "scenes.val": 1, "scenes.image_size": [375, 500], "processes": 1}
    study = Study("paper", cache=tmp_path, overrides={"backbone.weights": "random"} | small)
    section = RECIPE.trained_by(study.section("pss"))
    net = base.build(study, RECIPE, section, 0).eval()
    net.main.train()
    example = SeededExamples(1, examples(study, section, net), seed=0)[0]
    given = {name: value[None] for name, value in example.items()}
    assert given["image"].shape == (1, 3, 192, 192)
    optimiser = build_optimiser(net.trained_in("train"), section.optimiser)
    before = {
        name: p.detach().clone() for name, p in net.named_parameters() if "conv6" in name or "b7" in name
    }
    start, clock = time.process_time(), Clock(6 * 661, 6, 20, 661)
    losses = net.training_step(given, clock, "train")
    losses["loss"].backward()
    optimiser.step()
    net.after_step(clock)
    step = time.process_time() - start  # of the processor, whoever else uses it
    trained_at = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    assert all(loss.isfinite() for loss in losses.values())
    assert {"L_cls", "L_RCM", "L_MAM"} < losses.keys()
    after = dict(net.named_parameters())
    for name, p in before.items():
        moved = (after[name] - p).abs().max().item()
        assert (moved > 0) == bool(after[re.sub("^support", "main", name)].requires_grad), name
    photo = torch.from_numpy(study.data.train.image(study.data.train.ids[0])).permute(2, 0, 1)[None]
    start, maps = time.process_time(), study.config.maps
    (found,) = response_maps(net.kept().eval(), photo, given["label"], maps.scales, maps.flip, maps.stride)
    inference = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    with capsys.disabled():
        print(
            f"\nPSS, preset paper, one photo: step {step:.0f} s of processor, peak {trained_at:.1f} GiB; "
            f"inference of a photo of 375 x 500 {inference:.0f} s, peak {peak:.1f} GiB"
        )
    assert found.maps.shape == (len(found.classes), 375, 500)
    assert (found.maps >= 0).all()
    # divided by the maximum and 1e-5, beside which random maps are not large
    assert 0.9 < found.maps.max() <= 1
