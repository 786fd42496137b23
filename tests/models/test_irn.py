"""IRN's paths, affinities, losses, branches and walk against loops written from the paper."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from tiny_backbone import tiny_backbone
from torch import nn
from torch.nn import functional as F

from wsss_lib.config import IRNWalk, Optimiser
from wsss_lib.models.backbones import build_backbone, undilate
from wsss_lib.models.irn import IRNet, displacement_loss, irn_loss, path_affinity, path_cells
from wsss_lib.models.trainable import START
from wsss_lib.random_walk import neighbour_offsets
from wsss_lib.refinement.irn import boundary_walk, normalised, write_boundary_walk
from wsss_lib.resampling import labels_on_cells
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import build_optimiser

TAPS = (2, 4, 8, 16, 16)
LITE0 = "tf_efficientnet_lite0"


@cache
def brute_path(dy: int, dx: int) -> set[tuple[int, int]]:
    """Cells of the bounding box less than 1 from the line: |p|^2 - (p . d)^2 / |d|^2 < 1, exactly."""
    found = set()
    for y in range(-10, 11):
        for x in range(-10, 11):
            in_box = min(0, dy) <= y <= max(0, dy) and min(0, dx) <= x <= max(0, dx)
            distance = Fraction(y * y + x * x) - Fraction((y * dy + x * dx) ** 2, dy * dy + dx * dx)
            if in_box and distance < 1:
                found.add((y, x))
    return found


def affinity_by_loop(boundary: np.ndarray, radius: int) -> np.ndarray:
    """(h, w) -> (K, h, w), 0 off the grid."""
    offsets = neighbour_offsets(radius)
    height, width = boundary.shape
    found = np.zeros((len(offsets), height, width))
    for k, (dy, dx) in enumerate(offsets):
        for y, x in np.ndindex(height, width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                found[k, y, x] = 1 - max(boundary[y + a, x + b] for a, b in brute_path(dy, dx))
    return found


def net(seed: int = 0, **options) -> IRNet:
    torch.manual_seed(seed)
    options = {
        "radius": 3, "boundary_width": 8, "displacement_width": 32, "dilated": True, "psa_compat": False,
    } | options  # fmt: skip
    return IRNet(tiny_backbone(TAPS), **options)


# paths


@pytest.mark.parametrize(("radius", "pairs", "cells"), [(10, 152, 2134), (5, 34, 242), (2, 4, 12)])
def test_paths_are_all_cells_near_the_line(radius, pairs, cells):
    offsets = neighbour_offsets(radius)
    assert len(offsets) == pairs
    for offset in offsets:
        path = path_cells(offset)
        assert set(path) == brute_path(*offset)
        assert {(0, 0), offset} <= set(path)
        assert len(set(path)) == len(path)
    assert sum(len(path_cells(offset)) for offset in offsets) == cells


def test_the_longest_path_of_the_paper_has_22_cells():
    lengths = [len(path_cells(offset)) for offset in neighbour_offsets(10)]
    assert (min(lengths), max(lengths)) == (2, 22)


@pytest.mark.parametrize(
    ("size", "radius"), [((7, 9), 5), ((3, 4), 5), ((12, 6), 3), ((1, 1), 2), ((10, 11), 10)]
)
def test_affinity_is_one_minus_the_highest_boundary_of_the_path(size, radius):
    boundary = torch.rand(2, *size, generator=torch.Generator().manual_seed(radius))
    found = path_affinity(boundary, neighbour_offsets(radius))
    for one, other in zip(found, boundary, strict=True):
        np.testing.assert_allclose(one, affinity_by_loop(other.double().numpy(), radius), atol=1e-7)


def test_a_closed_boundary_parts_its_inside_from_its_outside():
    boundary = torch.zeros(1, 9, 9)
    boundary[0, 2:7, 2:7] = 1
    boundary[0, 3:6, 3:6] = 0
    offsets = neighbour_offsets(4)
    affinity, inside = path_affinity(boundary, offsets)[0], boundary[0, 3, 3] == boundary[0]
    inside &= F.pad(torch.ones(3, 3), (3, 3, 3, 3)) > 0
    for k, (dy, dx) in enumerate(offsets):
        for y, x in np.ndindex(9, 9):
            if 0 <= y + dy < 9 and 0 <= x + dx < 9 and inside[y, x] != inside[y + dy, x + dx]:
                assert affinity[k, y, x] == 0
    assert affinity[offsets.index((0, 1)), 4, 3] == 1


def test_affinity_gradient_equals_finite_differences():
    boundary = torch.randperm(24, generator=torch.Generator().manual_seed(1)).double().reshape(1, 4, 6) / 24
    boundary.requires_grad_()
    offsets = neighbour_offsets(3)
    assert torch.autograd.gradcheck(lambda b: path_affinity(b, offsets) ** 2, boundary, eps=1e-4)


# labels and losses


def irn_loss_by_loop(affinity, displacement, labels, offsets, psa_compat):
    """Means over all pairs in float64, and L = (bg / 2 + fg / 2 + neg) / 2 + (dp_fg + dp_bg) / 2."""
    names = ("background", "foreground", "negative", "displacement foreground", "displacement background")
    values = {name: [] for name in names}
    batch, height, width = labels.shape
    radius = max(dy for dy, _ in offsets) + 1
    for b in range(batch):
        for k, (dy, dx) in enumerate(offsets):
            for y, x in np.ndindex(height, width):
                if not (0 <= y + dy < height and 0 <= x + dx < width):
                    continue
                if psa_compat and not (y <= height - radius and radius - 1 <= x <= width - radius):
                    continue
                one, other = int(labels[b, y, x]), int(labels[b, y + dy, x + dx])
                a = float(affinity[b, k, y, x])
                difference = (displacement[b, :, y, x] - displacement[b, :, y + dy, x + dx]).tolist()
                if 255 in (one, other):
                    continue
                if one != other:
                    values["negative"].append(-math.log(1 + 1e-5 - a))
                elif one:
                    values["foreground"].append(-math.log(a + 1e-5))
                    off = abs(difference[0] - dy) + abs(difference[1] - dx)
                    values["displacement foreground"].append(off / 2)
                else:
                    values["background"].append(-math.log(a + 1e-5))
                    values["displacement background"].append((abs(difference[0]) + abs(difference[1])) / 2)
    means = {name: math.fsum(v) / (len(v) + 1e-5) for name, v in values.items()}
    means["boundary"] = (means["background"] / 2 + means["foreground"] / 2 + means["negative"]) / 2
    moved = (means["displacement foreground"] + means["displacement background"]) / 2
    return means | {"loss": means["boundary"] + moved}


@pytest.mark.parametrize("psa_compat", [False, True])
@pytest.mark.parametrize(
    ("kinds", "size", "radius"),
    [
        ((0, 1, 2, 255), (9, 12), 5),
        ((0, 0, 255), (9, 9), 4),  # only background
        ((20, 255), (8, 9), 3),  # only foreground
        ((0, 3), (3, 4), 5),  # grid smaller than the reach
        ((255,), (6, 6), 3),  # nothing known
    ],
)
def test_losses_equal_the_loop_over_pairs(kinds, size, radius, psa_compat):
    generator = torch.Generator().manual_seed(len(kinds) + radius)
    offsets = neighbour_offsets(radius)
    labels = torch.tensor(kinds)[torch.randint(len(kinds), (2, *size), generator=generator)]
    affinity = torch.rand(2, len(offsets), *size, generator=generator, dtype=torch.float64)
    displacement = 3 * torch.randn(2, 2, *size, generator=generator, dtype=torch.float64)
    found = irn_loss(affinity, displacement, labels, offsets, psa_compat)
    expected = irn_loss_by_loop(affinity, displacement, labels, offsets, psa_compat)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5, abs=1e-12), name  # counts are float32


def test_displacements_to_the_centroid_cost_nothing_on_an_object_and_constants_nothing_elsewhere():
    offsets = neighbour_offsets(4)
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    towards = torch.stack([2.5 - y, 4 - x])[None]  # centroid minus position, in cells
    every = torch.ones(1, len(offsets), 6, 8, dtype=torch.bool)
    for k, (dy, dx) in enumerate(offsets):
        every[0, k] = (y + dy < 6) & (x + dx >= 0) & (x + dx < 8)
    foreground, background = displacement_loss(towards, every, every, offsets)
    assert foreground == 0
    assert background > 1
    foreground, background = displacement_loss(torch.full_like(towards, 7), every, every, offsets)
    assert background == 0
    pairs = every.sum((2, 3))[0].tolist()
    sides = sum(count * (abs(dy) + abs(dx)) for count, (dy, dx) in zip(pairs, offsets, strict=True))
    assert foreground.item() == pytest.approx(sides / 2 / every.sum().item(), rel=1e-5)


# the network


@pytest.mark.parametrize("size", [(64, 64), (41, 70), (16, 5)])
@pytest.mark.parametrize("strides", [TAPS, (1, 2, 4, 8, 8, 8), (4, 4, 8, 16, 16), (2, 4, 8, 16, 32)])
def test_maps_of_a_photo_of_any_size(strides, size):
    model = IRNet(tiny_backbone(strides), 5, 8, 32, True, False).eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        boundary, displacement = model(images)
    cells = -(-size[0] // 4), -(-size[1] // 4)
    assert boundary.shape == (2, 1, *cells)
    assert displacement.shape == (2, 2, *cells)
    torch.testing.assert_close(model.class_maps(images), boundary)


def test_branches_are_the_papers_layers():
    """Each tap 1x1 -> group norm -> upsample -> ReLU; the displacement joins deep taps at stride 8 first."""
    model = net().eval()
    images = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    taps = model.backbone(images)
    taps[0] = F.max_pool2d(taps[0], 3, 2, 1)

    def reduced(layer: nn.Sequential, tap, groups, factor):
        conv, norm = layer
        x = torch.einsum("oc,bchw->bohw", conv.weight[..., 0, 0], tap)
        x = x.unflatten(1, (groups, -1))
        mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), keepdim=True, correction=0)
        x = ((x - mean) / torch.sqrt(var + 1e-5)).flatten(1, 2)
        x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
        return F.relu(F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False))

    branch = model.boundary
    joined = [reduced(r, t, 4, f) for r, t, f in zip(branch.reductions, taps, (1, 1, 2, 4, 4), strict=True)]
    weight, bias = branch.join.weight[..., 0, 0], branch.join.bias
    expected = torch.einsum("oc,bchw->bohw", weight, torch.cat(joined, 1)) + bias
    branch, widths = model.displacement, (8, 16, 32, 32, 32)
    assert tuple(r[0].out_channels for r in branch.reductions) == widths
    groups, factors = (8, 16, 16, 16, 16), (1, 1, 1, 2, 2)
    parts = [reduced(*args) for args in zip(branch.reductions, taps, groups, factors, strict=True)]
    deep = reduced(branch.deep, torch.cat(parts[2:], 1), 16, 2)
    hidden = reduced(branch.join[0], torch.cat([*parts[:2], deep], 1), 16, 1)
    field = torch.einsum("oc,bchw->bohw", branch.join[2].weight[..., 0, 0], hidden)
    boundary, displacement = model(images)
    torch.testing.assert_close(boundary, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(displacement, field, atol=1e-4, rtol=1e-4)


def test_the_stride_2_tap_of_a_resnet_is_pooled_as_in_the_resnet():
    backbone = build_backbone("resnet18", 16, "random").eval()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    seen = []
    backbone.net.maxpool.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    model = IRNet(backbone, 5, 8, 32, False, False)
    taps = model.taps(images)
    assert backbone.strides == TAPS
    inner = []
    model.boundary.reductions[0].register_forward_pre_hook(lambda layer, inputs: inner.append(inputs[0]))
    model.boundary(taps, (16, 24))
    torch.testing.assert_close(inner[0], seen[0])


def test_undilated_layers_keep_size_and_weights():
    dilated, plain = (build_backbone(LITE0, 16) for _ in range(2))
    assert undilate(plain) is plain
    convolutions = [m for m in plain.net.modules() if isinstance(m, nn.Conv2d)]
    assert {m.dilation for m in convolutions} == {(1, 1)}
    assert {m.dilation for m in dilated.net.modules() if isinstance(m, nn.Conv2d)} == {(1, 1), (2, 2)}
    images = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taps = list(zip(dilated(images), plain(images), strict=True))
    assert [a.shape for a, _ in taps] == [b.shape for _, b in taps]
    assert all(torch.equal(a, b) for a, b in taps[:-1])
    assert not torch.allclose(*taps[-1])
    kernels = [m.kernel_size[0] // 2 for m in convolutions if m.stride == (1, 1)]
    assert kernels == [m.padding[0] for m in convolutions if m.stride == (1, 1)]


def test_the_backbone_is_frozen_and_only_the_displacement_branch_is_fast():
    model = net()
    optimiser = build_optimiser(
        model,
        Optimiser(
            name="sgd", lr=0.1, momentum="weight_decay_slip", weight_decay=1e-4, new_layers_lr=10, bias_lr=1,
            power=0.9,
        ),
    )  # fmt: skip
    names = {id(p): name.partition(".")[0] for name, p in model.named_parameters()}
    rates = {(names[id(p)], group["lr"]) for group in optimiser.param_groups for p in group["params"]}
    assert rates == {("boundary", 0.1), ("displacement", 1.0)}
    model.train()
    assert model.boundary.training
    assert not any(m.training for m in model.backbone.modules())


def test_a_backbone_of_four_taps_is_refused():
    with pytest.raises(ValueError, match=r"has 4 taps \(strides \(2, 4, 8, 16\)\), IRN needs 5"):
        IRNet(tiny_backbone(), 5, 8, 32, True, False)


def test_the_mean_displacement_is_subtracted_at_test_time():
    model = net()
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(8))
    model.train()
    field = model(images)[1]
    torch.testing.assert_close(model.displacement.mean, 0.1 * field.mean((0, 2, 3)))
    for _ in range(150):
        assert torch.equal(model(images)[1], field)  # raw in training
    shifted = model.eval()(images)[1]
    torch.testing.assert_close(shifted.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(shifted - shifted[:, :, :1, :1], field - field[:, :, :1, :1])
    assert "displacement.mean" in model.state_dict()


def test_training_steps_learn_the_labels_of_four_pictures():
    """Discs on a plain ground: both halves of the loss fall, the boundary is highest at the discs' rim."""
    model = net(radius=5, boundary_width=16).train()
    generator = torch.Generator().manual_seed(6)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = torch.stack(
        [(y - a) ** 2 + (x - b) ** 2 < 18**2 for a, b in ((32, 32), (24, 40), (40, 28), (30, 22))]
    )
    images = 0.1 * torch.randn(4, 3, 64, 64, generator=generator) + torch.where(mask, 1.5, -1.0)[:, None]
    batch = {"image": images, "mask": mask.byte() * 3}
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.02)
    history = []
    for _ in range(20):
        losses = model.training_step(batch, START, "train")
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert history[-1]["boundary"] < 0.7 * history[0]["boundary"]
    assert history[-1]["displacement foreground"] < 0.7 * history[0]["displacement foreground"]
    with torch.no_grad():
        boundary = model.eval().class_maps(images).sigmoid()[:, 0]
    labels = labels_on_cells(batch["mask"], boundary.shape[-2:], (4, 4))
    rim = F.max_pool2d(labels.float(), 3, 1, 1) != -F.max_pool2d(-labels.float(), 3, 1, 1)
    assert boundary[rim].mean() > 1.2 * boundary[~rim].mean()


# the walk


def dense_walk(scores, boundary, radius, beta, steps):
    """The released code's way, in float64: dense matrix, columns normalised, powers."""
    height, width = boundary.shape
    weights = np.eye(height * width)
    offsets = neighbour_offsets(radius)
    affinity = affinity_by_loop(boundary, radius)
    for k, (dy, dx) in enumerate(offsets):
        for y, x in np.ndindex(height, width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                i, j = y * width + x, (y + dy) * width + x + dx
                weights[i, j] = weights[j, i] = affinity[k, y, x] ** beta
    transition = np.linalg.matrix_power(weights / weights.sum(0), steps)
    return ((scores * (1 - boundary)).reshape(len(scores), -1) @ transition).reshape(scores.shape)


@pytest.mark.parametrize(("size", "radius", "beta", "steps"), [((9, 11), 5, 10, 256), ((4, 3), 5, 2, 16)])
def test_walk_equals_dense(size, radius, beta, steps):
    rng = np.random.default_rng(radius + steps)
    scores, boundary = rng.random((2, *size)), rng.random(size) ** 3
    boundary[:, size[1] // 2] = 0.9  # a wall
    found = boundary_walk(torch.from_numpy(scores), torch.from_numpy(boundary), radius, beta, steps)
    np.testing.assert_allclose(found, dense_walk(scores, boundary, radius, beta, steps), atol=1e-7)


def test_no_score_passes_a_closed_boundary():
    boundary = torch.zeros(12, 16)
    boundary[:, 8] = 1
    scores = torch.zeros(1, 12, 16)
    scores[0, 5:7, 2:4] = 1
    walked = boundary_walk(scores, boundary, 5, 10, 256)[0]
    assert (walked[:, 8:] == 0).all()
    assert walked[:, :8].min() > 0.01


def test_the_maximum_is_the_photos_or_each_classs():
    scores = torch.tensor([[[1.0, 4.0]], [[0.5, 2.0]], [[0.0, 0.0]]])
    assert normalised(scores, "photo").tolist() == [[[0.25, 1]], [[0.125, 0.5]], [[0, 0]]]
    assert normalised(scores, "class").tolist() == [[[0.25, 1]], [[0.25, 1]], [[0, 0]]]


def walked_file(tmp_path, classes, maps, boundary, stride, walk) -> ScoreMaps:
    size = (18, 26)
    ScoreMaps(np.array(classes, int), maps, size, stride).save(tmp_path / "maps.npz")
    ScoreMaps(np.array([255]), boundary[None], size, 4).save(tmp_path / "edges.npz")
    files = (tmp_path / name for name in ("maps.npz", "edges.npz"))
    write_boundary_walk(*files, walk, torch.device("cpu"), tmp_path / "out.npz")
    found = ScoreMaps.load(tmp_path / "out.npz")
    assert (found.classes.tolist(), found.size, found.stride) == (classes, size, 4)
    return found


@pytest.mark.parametrize(("stride", "normalise"), [(4, "photo"), (1, "class")])
def test_walked_maps_of_a_file(tmp_path, stride, normalise):
    rng = np.random.default_rng(stride)
    maps, boundary = rng.random((2, -(-18 // stride), -(-26 // stride))), rng.random((5, 7)) / 2
    walk = IRNWalk(radius=3, beta=10, steps=16, normalise=normalise, threshold=0.25)
    found = walked_file(tmp_path, [3, 20], maps, boundary, stride, walk)
    if stride == 1:  # means of the pixels that a cell has
        cells = np.zeros((2, 5, 7))
        for y, x in np.ndindex(5, 7):
            cells[:, y, x] = maps[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2))
        maps = cells
    expected = dense_walk(maps, boundary, 3, 10, 16)
    expected /= expected.max() if normalise == "photo" else expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found.maps, expected, atol=2e-3)  # float16 on disk


def test_a_photo_without_a_class_has_no_walked_maps(tmp_path):
    walk = IRNWalk(radius=3, beta=10, steps=16, normalise="photo", threshold=0.25)
    found = walked_file(tmp_path, [], np.zeros((0, 5, 7)), np.zeros((5, 7)), 4, walk)
    assert found.full().shape == (0, 18, 26)
