"""Affinities against loops over cells, fusion and refinement at their limits, and dilations too wide."""

import math

import pytest
import torch
from torch.nn import functional as F

from wsss_lib.models.cross_task import (
    AffinityFusion,
    DenseBranch,
    TaskAffinity,
    entropy_ratio,
    propagate,
    task_affinity,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(count: int, cells: int, seed: int = 0) -> torch.Tensor:
    """Affinities (count, cells, cells) whose rows sum to 1."""
    return (3 * random(count, cells, cells, seed=seed)).softmax(-1)


@pytest.mark.parametrize("scaled", [False, True])
def test_affinity_is_that_of_a_double_loop(scaled):
    theta, phi = random(2, 5, 3, 4), random(2, 5, 3, 4, seed=1)
    found = task_affinity(theta, phi, scaled)
    for b in range(2):
        for i in range(12):
            scores = []
            for j in range(12):
                dot = sum(
                    theta[b, d, i // 4, i % 4].item() * phi[b, d, j // 4, j % 4].item() for d in range(5)
                )
                scores.append(math.exp(dot / math.sqrt(5) if scaled else dot))
            for j in range(12):
                assert found[b, i, j].item() == pytest.approx(scores[j] / sum(scores), rel=1e-9)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 12, dtype=torch.float64))


def test_permuted_cells_permute_rows_and_columns():
    theta, phi = random(1, 4, 2, 5), random(1, 4, 2, 5, seed=1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    moved = [maps.flatten(2)[..., order].view_as(maps) for maps in (theta, phi)]
    torch.testing.assert_close(task_affinity(*moved), task_affinity(theta, phi)[:, order][:, :, order])


def test_the_softmax_is_float32_where_autocast_gives_less():
    theta, phi = (random(1, 8, 6, 6, seed=s).float() for s in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = task_affinity(theta, phi)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 36))
    assert task_affinity(theta.bfloat16(), phi.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("transposed", [False, True])
def test_propagation_is_that_of_a_loop(transposed):
    affinity, maps = rows(2, 6), random(2, 3, 2, 3, seed=1)
    found = propagate(affinity, maps, transposed)
    assert found.shape == maps.shape
    for b in range(2):
        for c in range(3):
            for i in range(6):
                weights = affinity[b, :, i] if transposed else affinity[b, i]
                expected = sum(weights[j] * maps[b, c, j // 3, j % 3] for j in range(6))
                torch.testing.assert_close(found[b, c, i // 3, i % 3], expected)


def test_identity_returns_the_input_and_a_uniform_affinity_the_mean():
    maps = random(2, 3, 4, 5)
    torch.testing.assert_close(propagate(torch.eye(20).double().expand(2, -1, -1), maps), maps)
    uniform = torch.full((2, 20, 20), 1 / 20, dtype=torch.float64)
    torch.testing.assert_close(propagate(uniform, maps), maps.mean((2, 3), keepdim=True).expand_as(maps))


def test_entropy_ratio_is_zero_of_copies_and_one_of_means():
    assert entropy_ratio(torch.eye(7)[None]).item() == 0
    assert entropy_ratio(torch.full((1, 7, 7), 1 / 7)).item() == pytest.approx(1)
    affinity = rows(2, 9)
    loop = 0.0
    for row in affinity.view(-1, 9).tolist():
        loop -= sum(p * math.log(p) for p in row) / math.log(9) / 18
    assert entropy_ratio(affinity).item() == pytest.approx(loop, rel=1e-9)
    assert entropy_ratio(affinity * 1.7).item() == pytest.approx(loop, rel=1e-9)  # of a fused row, too


def test_the_fused_affinity_lies_between_its_parts():
    torch.manual_seed(0)
    fusion = AffinityFusion().double()
    for weight in fusion.parameters():
        torch.nn.init.normal_(weight, std=20)  # far from the start, so that weights differ by element
    parts = torch.stack([rows(2, 9), rows(2, 9, seed=1)], 1)
    with torch.no_grad():
        weights, fused = fusion.weights(parts), fusion(parts)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 9, 9, dtype=torch.float64))
    assert weights.std() > 0.01
    assert (fused >= parts.amin(1) - 1e-12).all()
    assert (fused <= parts.amax(1) + 1e-12).all()
    expected = weights[:, 0] * parts[:, 0] + weights[:, 1] * parts[:, 1]
    torch.testing.assert_close(fused, expected)


def test_fusion_has_the_published_layers():
    shapes = [tuple(p.shape) for p in AffinityFusion().parameters()]
    assert shapes == [(2, 2, 3, 3), (2, 2, 1, 1), (2,)]


def test_features_are_refined_by_the_tasks_own_affinity():
    block = TaskAffinity(4).double()
    features = random(2, 4, 3, 3)
    with torch.no_grad():
        affinity = block.affinity(features)
        found = block.refine(features, affinity)
    for b in range(2):
        value = torch.einsum("od,dn->on", block.value.weight[..., 0, 0], features[b].flatten(1))
        value = value + block.value.bias[:, None]
        mixed = torch.stack([sum(affinity[b, i, j] * value[:, j] for j in range(9)) for i in range(9)], 1)
        out = torch.einsum("od,dn->on", block.out.weight[..., 0, 0], mixed) + block.out.bias[:, None]
        torch.testing.assert_close(found[b].flatten(1), features[b].flatten(1) + out)


@pytest.mark.parametrize("dilations", [(1, 2), (1, 2, 3)])
def test_a_branch_keeps_the_grid_and_has_a_third_convolution_only_if_asked(dilations):
    branch = DenseBranch(6, 4, 5, dilations, TaskAffinity(4))
    with torch.no_grad():
        logits, affinity = branch(random(2, 6, 7, 5).float())
    assert logits.shape == (2, 5, 7, 5)
    assert affinity.shape == (2, 35, 35)
    rates = [m.dilation[0] for m in branch.modules() if getattr(m, "kernel_size", 0) == (3, 3)]
    assert rates == list(dilations)
    assert branch.predict[-1].bias is None


@pytest.mark.parametrize(("size", "dilation", "same"), [(10, 10, True), (10, 12, True), (10, 9, False)])
def test_a_dilation_as_wide_as_the_map_leaves_the_middle_tap_alone(size, dilation, same):
    """Trap of small maps: the papers' 12 and 18 on 10 x 10 cells are 1x1 convolutions."""
    maps, weight = random(1, 3, size, size), random(2, 3, 3, 3, seed=1)
    found = F.conv2d(maps, weight, padding=dilation, dilation=dilation)
    middle = F.conv2d(maps, weight[:, :, 1:2, 1:2])
    assert torch.allclose(found, middle) == same


def test_affinity_learns_two_regions_though_no_loss_is_on_it():
    """Labels of two regions, on first and refined predictions, make cells of one region prefer each other.

    Refined predictions alone would not: cells that attend to the other region and answer wrong are as good.
    """
    torch.manual_seed(0)
    target = (torch.arange(8) >= 4).long().expand(8, 8).contiguous()
    images = torch.stack([target.float(), 1 - target.float()]) + 0.3 * torch.randn(2, 8, 8)
    branch = DenseBranch(2, 8, 2, (1, 1), TaskAffinity(8))
    optimiser = torch.optim.Adam(branch.parameters(), 0.01)
    region = target.flatten()
    same = region[:, None] == region
    preference = []
    for _ in range(40):
        logits, affinity = branch(images[None])
        loss = sum(F.cross_entropy(p, target[None]) for p in (logits, propagate(affinity, logits)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        preference.append((affinity[0][same].mean() / affinity[0][~same].mean()).item())
    assert preference[0] < 1.5
    assert preference[-1] > 2
