"""AffinityNet's labels and loss against loops over cells and pairs written from the paper."""

import math

import numpy as np
import pytest
import torch
from tiny_backbone import tiny_backbone
from torch.nn import functional as F

from wsss_lib.models.affinity import AffinityNet, affinity_loss, masked_mean, to_cells
from wsss_lib.models.trainable import START
from wsss_lib.random_walk import neighbour_offsets
from wsss_lib.refinement.affinitynet import affinity_labels


def loss_by_loop(affinity, labels, offsets, psa_compat):
    """Mean of each kind over every pair of the batch, in float64, and L = bg / 4 + fg / 4 + neg / 2."""
    batch, height, width = labels.shape
    radius = max(dy for dy, _ in offsets) + 1
    values = {"background": [], "foreground": [], "negative": []}
    for b in range(batch):
        for k, (dy, dx) in enumerate(offsets):
            for y in range(height):
                for x in range(width):
                    if not (0 <= y + dy < height and 0 <= x + dx < width):
                        continue
                    if psa_compat and not (y <= height - radius and radius - 1 <= x <= width - radius):
                        continue
                    one, other = int(labels[b, y, x]), int(labels[b, y + dy, x + dx])
                    if 255 in (one, other):
                        continue
                    w = float(affinity[b, k, y, x])
                    if one != other:
                        values["negative"].append(-math.log(1 + 1e-5 - w))
                    else:
                        values["foreground" if one else "background"].append(-math.log(w + 1e-5))
    means = {kind: math.fsum(v) / (len(v) + 1e-5) for kind, v in values.items()}
    return means | {"loss": means["background"] / 4 + means["foreground"] / 4 + means["negative"] / 2}


@pytest.mark.parametrize("psa_compat", [False, True])
@pytest.mark.parametrize(
    ("kinds", "size", "radius"),
    [
        ((0, 1, 2, 255), (9, 12), 5),
        ((0, 1, 2, 3, 255), (11, 10), 3),
        ((0, 0, 0, 255), (9, 9), 4),  # only background
        ((2, 255), (9, 10), 4),  # only foreground
        ((0,), (3, 4), 5),  # grid smaller than the reach
        ((255,), (6, 6), 3),  # nothing known
    ],
)
def test_loss_equals_the_loop_over_pairs(kinds, size, radius, psa_compat):
    generator = torch.Generator().manual_seed(len(kinds) + radius)
    offsets = neighbour_offsets(radius)
    labels = torch.tensor(kinds)[torch.randint(len(kinds), (2, *size), generator=generator)]
    affinity = torch.rand(2, len(offsets), *size, generator=generator, dtype=torch.float64)
    affinity[affinity < 0.1] = 0  # the ends of the range
    affinity[affinity > 0.9] = 1
    found = affinity_loss(affinity, labels, offsets, psa_compat)
    expected = loss_by_loop(affinity, labels, offsets, psa_compat)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-6, abs=1e-12), name  # counts are float32
    single = affinity_loss(affinity.float(), labels, offsets, psa_compat)
    assert single["loss"].item() == pytest.approx(expected["loss"], rel=1e-3, abs=1e-6)


def test_all_kinds_weigh_as_the_paper_says():
    """One row 0 0 1 1: pairs at distance 1 are background, negative and foreground, once each."""
    affinity = torch.tensor([0.5, 0.25, 0.125, 0.0]).reshape(1, 1, 1, 4).double()
    labels = torch.tensor([[[0, 0, 1, 1]]])
    found = affinity_loss(affinity, labels, ((0, 1),))
    expected = math.log(2) / 4 + math.log(8) / 4 - math.log(0.75) / 2
    assert found["loss"].item() == pytest.approx(expected, abs=1e-3)


def test_loss_gradient_equals_finite_differences():
    generator = torch.Generator().manual_seed(0)
    offsets = neighbour_offsets(3)
    labels = torch.tensor([0, 0, 1, 2, 255])[torch.randint(5, (2, 3, 4), generator=generator)]
    affinity = torch.rand(2, len(offsets), 3, 4, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    affinity.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: affinity_loss(a, labels, offsets)["loss"], affinity)


def test_unknown_labels_give_loss_and_gradient_zero():
    affinity = torch.rand(1, 34, 6, 6, requires_grad=True)
    losses = affinity_loss(affinity, torch.full((1, 6, 6), 255), neighbour_offsets(5))
    losses["loss"].backward()
    assert losses["loss"] == 0
    assert (affinity.grad == 0).all()


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (5, 9), (8, 8), (1, 1)])
def test_cells_are_means_of_the_pixels_they_have(size):
    maps = torch.rand(3, *size, generator=torch.Generator().manual_seed(3))
    cells = to_cells(maps, 8)
    assert cells.shape == (3, -(-size[0] // 8), -(-size[1] // 8))
    for y in range(cells.shape[1]):
        for x in range(cells.shape[2]):
            block = maps[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            torch.testing.assert_close(cells[:, y, x], block.mean((1, 2)))


@pytest.mark.parametrize(("size", "n"), [((40, 56), 3), ((43, 61), 2), ((7, 20), 1), ((24, 24), 0)])
def test_labels_equal_the_loop_over_cells(size, n):
    """Foreground where low says so, background (which wins) where high does, 255 elsewhere and in padding."""
    rng = np.random.default_rng(n)
    # blocky marginals: cells differ more than single pixels do
    low, high = rng.random((2, n + 1, size[0] // 8 + 1, size[1] // 8 + 1)).repeat(8, 2).repeat(8, 3)
    low, high = (maps[:, : size[0], : size[1]] + 0.3 * rng.random((n + 1, *size)) for maps in (low, high))
    low, high = low / low.sum(0), high / high.sum(0)
    low[:, :, :9], high[:, :, :9] = 0, 0  # a padded border of one cell and a pixel
    found = affinity_labels(torch.from_numpy(low), torch.from_numpy(high)).numpy()

    expected = np.full((-(-size[0] // 8), -(-size[1] // 8)), -1)
    for y, x in np.ndindex(expected.shape):
        strong, weak = (maps[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean((1, 2)) for maps in (low, high))
        if strong.max() < 1e-5:
            label = 255
        elif weak.argmax() == 0:
            label = 0
        elif strong.argmax() > 0:
            label = strong.argmax()
        else:
            label = 255
        expected[y, x] = label
    np.testing.assert_array_equal(found, expected)
    assert (found[:, 0] == 255).all()


def test_background_wins_over_a_contradicting_foreground():
    low, high = torch.zeros(2, 2, 8, 8)
    low[1], high[0] = 1, 1
    assert affinity_labels(low, high).tolist() == [[0]]
    assert affinity_labels(high, low).tolist() == [[255]]
    assert affinity_labels(low, low).tolist() == [[1]]


def test_masked_mean():
    values, mask = torch.tensor([1.0, 5.0, 9.0]), torch.tensor([True, False, True])
    assert masked_mean(values, mask).item() == pytest.approx(5, rel=1e-4)
    assert masked_mean(values, ~mask & mask).item() == 0


@pytest.mark.parametrize("strides", [(2, 4, 8, 8, 8), (2, 4, 8, 16, 16), (4, 8, 16, 32)])
@pytest.mark.parametrize("size", [(64, 64), (41, 70)])
def test_affinities_of_a_photo_of_any_size(strides, size):
    net = AffinityNet(tiny_backbone(strides), (4, 5, 6), 5, False).eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        affinity = net(images)
    height, width = -(-size[0] // 8), -(-size[1] // 8)
    assert affinity.shape == (2, 34, height, width)
    y, x = np.mgrid[:height, :width]
    for k, (dy, dx) in enumerate(neighbour_offsets(5)):
        inside = (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        values = affinity[:, k].numpy()
        assert (values[:, inside] > 0).all()
        assert (values[:, inside] <= 1).all()
        assert (values[:, ~inside] == 0).all()


def test_the_head_is_three_reductions_joined():
    """W = exp(-mean |f_i - f_j|), f = elu(join(cat of elu(reduce(tap)))), all taps of stride 8."""
    net = AffinityNet(tiny_backbone((2, 4, 8, 8, 8)), (4, 5, 6), 3, False).eval()
    images = torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        taps = net.backbone(images)[-3:]
        reduced = [
            F.elu(torch.einsum("oc,bchw->bohw", r.weight[..., 0, 0], t))
            for r, t in zip(net.reductions, taps, strict=True)
        ]
        f = F.elu(torch.einsum("oc,bchw->bohw", net.join.weight[..., 0, 0], torch.cat(reduced, 1)))[0]
        found = net(images)[0]
    assert f.shape == (15, 4, 5)
    for k, (dy, dx) in enumerate(net.offsets):
        for y in range(4 - dy):
            for x in range(max(0, -dx), min(5, 5 - dx)):
                expected = torch.exp(-(f[:, y, x] - f[:, y + dy, x + dx]).abs().mean())
                assert found[k, y, x].item() == pytest.approx(expected.item(), abs=1e-5)
    assert not any(name.endswith("bias") for name, _ in net.named_parameters() if "backbone" not in name)


def test_coarse_taps_are_brought_to_the_fine_grid_in_place():
    """A tap of stride 16 whose cells hold their own row must read half a row more on the grid of stride 8."""
    net = AffinityNet(tiny_backbone((2, 4, 8, 16, 16)), (1, 1, 1), 2, False).eval()
    net.join = torch.nn.Identity()
    for reduction, weight in zip(net.reductions, (0, 0, 1), strict=True):
        torch.nn.init.constant_(reduction.weight, 0)
        reduction.weight.data[0, 0] = weight
    rows = torch.arange(4.0)[:, None].expand(4, 4)
    taps = [torch.zeros(1, c, n, n) for c, n in zip(net.backbone.channels, (28, 14, 7, 4, 4), strict=True)]
    taps[-1] = rows.expand_as(taps[-1])
    net.backbone.forward = lambda images: taps
    vertical = -net(torch.zeros(1, 3, 56, 56))[0, net.offsets.index((1, 0))].log()
    # rows 0, .25, .75, 1.25, ... of which 7 are kept; three features, of which one differs
    expected = torch.tensor([0.25, 0.5, 0.5, 0.5, 0.5, 0.5])[:, None].expand(6, 7) / 3
    torch.testing.assert_close(vertical[:6], expected)


def test_training_step_learns_its_labels():
    torch.manual_seed(0)
    net = AffinityNet(tiny_backbone((4, 8, 8, 8)), (4, 4, 4), 4, False).train()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(6))
    labels = torch.randint(3, (2, 2, 2), generator=torch.Generator().manual_seed(7))
    batch = {"image": images, "label": labels.repeat_interleave(3, 1).repeat_interleave(3, 2)}
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(15):
        loss = net.training_step(batch, START, "train")["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    assert losses[-1] < 0.7 * losses[0]


def test_a_backbone_without_a_stride_8_tap_third_from_the_end_is_refused():
    with pytest.raises(ValueError, match="stride 2, AffinityNet needs 8"):
        AffinityNet(tiny_backbone((2, 4, 8)), (4, 4, 4), 5, False)
