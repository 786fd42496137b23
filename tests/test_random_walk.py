"""The walk and the affinities against dense float64 matrices filled by loops over pixel pairs."""

import itertools

import numpy as np
import pytest
import torch

from wsss_lib.random_walk import neighbour_offsets, pair_affinity, random_walk, valid_pairs

OFFSETS = neighbour_offsets(5)
GRIDS = [(1, 1), (1, 7), (7, 1), (3, 3), (5, 3), (6, 4), (9, 9), (14, 18)]


def dense_transition(affinity, beta, radius=5, psa_compat=False):
    """Column-normalised A (N, N) of psa, in float64: every ordered pair of pixels is looked at."""
    _, h, w = affinity.shape
    pixels = list(itertools.product(range(h), range(w)))
    A = np.eye(h * w)
    for (i, (y, x)), (j, (v, u)) in itertools.product(enumerate(pixels), repeat=2):
        offset = (v - y, u - x)
        inside = y <= h - radius and radius - 1 <= x <= w - radius
        if offset in OFFSETS and (inside or not psa_compat):
            A[i, j] = A[j, i] = float(affinity[OFFSETS.index(offset), y, x]) ** beta
    return A / A.sum(0)


def dense_walk(scores, T, steps):
    """psa: the row vector of scores times T^steps."""
    return (scores.flatten(1).double().numpy() @ np.linalg.matrix_power(T, steps)).reshape(scores.shape)


def random_case(h, w, n=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, h, w, generator=generator, dtype=dtype)
    return scores, torch.rand(len(OFFSETS), h, w, generator=generator, dtype=dtype)


@pytest.mark.parametrize(("radius", "count"), [(2, 4), (3, 12), (5, 34), (10, 152)])
def test_offsets_are_half_of_a_disc(radius, count):
    offsets = neighbour_offsets(radius)
    mirrored = {(-dy, -dx) for dy, dx in offsets}
    grid = itertools.product(range(-20, 21), repeat=2)
    disc = {(dy, dx) for dy, dx in grid if 0 < dy**2 + dx**2 < radius**2}
    assert len(offsets) == count
    assert not mirrored & set(offsets)
    assert mirrored | set(offsets) == disc
    assert all(dy > 0 or (dy == 0 and dx > 0) for dy, dx in offsets)


@pytest.mark.parametrize("psa_compat", [False, True])
@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_walk_equals_dense_power(h, w, psa_compat):
    scores, affinity = random_case(h, w)
    T = dense_transition(affinity, 8, psa_compat=psa_compat)
    for steps in (0, 1, 2, 30, 64, 256):
        walked = random_walk(scores, affinity, OFFSETS, 8, steps, psa_compat)
        np.testing.assert_allclose(walked, dense_walk(scores, T, steps), rtol=0, atol=1e-9)


@pytest.mark.parametrize("beta", [0.5, 1, 10])
@pytest.mark.parametrize("n", [1, 2, 21])
def test_walk_with_other_betas_and_channels(beta, n):
    scores, affinity = random_case(8, 11, n, seed=n)
    expected = dense_walk(scores, dense_transition(affinity, beta), 64)
    np.testing.assert_allclose(random_walk(scores, affinity, OFFSETS, beta, 64), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("values", ["zeros", "ones", "near 0", "0 or 1", "near 1 or near 0"])
def test_walk_with_extreme_affinities(values):
    scores, u = random_case(9, 12, seed=1)
    affinity = {
        "zeros": u * 0,
        "ones": u * 0 + 1,
        "near 0": u * 1e-6,
        "0 or 1": u.round(),
        "near 1 or near 0": torch.where(u > 0.9, 1 - 1e-7 * u, 1e-3 * u),  # degrees from 1 to about 15
    }[values]
    for steps in (1, 256):
        expected = dense_walk(scores, dense_transition(affinity, 8), steps)
        np.testing.assert_allclose(
            random_walk(scores, affinity, OFFSETS, 8, steps), expected, rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_single_and_half_precision_scores_keep_their_type(dtype):
    scores, affinity = random_case(14, 18, dtype=dtype)
    walked = random_walk(scores, affinity, OFFSETS)
    expected = dense_walk(scores, dense_transition(affinity, 8), 256)
    assert walked.dtype == dtype
    np.testing.assert_allclose(
        walked.double(), expected, rtol=0, atol=1e-7 if dtype == torch.float32 else 5e-4
    )


def test_other_radius():
    offsets = neighbour_offsets(2)  # the 8-neighbourhood
    scores, _ = random_case(6, 5)
    walked = random_walk(scores, torch.ones(4, 6, 5), offsets, steps=1)
    expected = torch.nn.functional.avg_pool2d(scores, 3, stride=1, padding=1, count_include_pad=False)
    np.testing.assert_allclose(walked, expected, rtol=1e-12)


def test_disconnected_halves_keep_their_own_mass():
    """The stationary measure weighs a pixel by its degree: that weighted sum is kept in each component."""
    scores, affinity = random_case(8, 14)
    scores[0, :, :7] = 0
    column = torch.arange(14)
    for k, (_, dx) in enumerate(OFFSETS):
        affinity[k, :, (column < 7) != (column + dx < 7)] = 0
    walked = random_walk(scores, affinity, OFFSETS)
    assert (walked[0, :, :7] == 0).all()
    T = dense_transition(affinity, 8)
    degree = (1 / T.diagonal()).reshape(8, 14)  # A has 1 on its diagonal
    for half in (slice(0, 7), slice(7, 14)):
        before, after = ((m.numpy() * degree)[:, :, half].sum((1, 2)) for m in (scores, walked))
        np.testing.assert_allclose(after, before, rtol=1e-10)


def test_constant_scores_stay_constant_and_averages_stay_in_range():
    _, affinity = random_case(14, 18)
    constant = torch.tensor([0.0, 0.3, 7.0])[:, None, None].expand(3, 14, 18)
    np.testing.assert_allclose(random_walk(constant, affinity, OFFSETS), constant, rtol=1e-7)
    spike = torch.zeros(1, 14, 18).index_fill_(2, torch.tensor([17]), 1)
    walked = random_walk(spike, affinity, OFFSETS, steps=50)
    assert walked.min() >= 0
    assert walked.max() <= 1


def test_no_channels():
    assert random_walk(torch.zeros(0, 4, 5), torch.ones(34, 4, 5), OFFSETS).shape == (0, 4, 5)


def degrees(h, w, psa_compat):
    """How many neighbours each pixel has, from the pairs alone."""
    degree = np.zeros((h, w), int)
    for (dy, dx), valid in zip(OFFSETS, valid_pairs(h, w, OFFSETS, psa_compat).numpy(), strict=True):
        for y, x in np.argwhere(valid):
            degree[y, x] += 1
            degree[y + dy, x + dx] += 1
    return degree


def test_degrees_over_the_full_grid():
    degree = degrees(14, 18, psa_compat=False)
    assert degree[4:10, 4:14].tolist() == [[68] * 10] * 6
    assert degree[13, 9] == degree[0, 9] == degree[7, 0] == degree[7, 17] == 38
    assert [degree[y, x] for y in (0, -1) for x in (0, -1)] == [21] * 4
    assert degrees(1, 1, False).tolist() == [[0]]


def test_degrees_of_the_published_pair_set():
    degree = degrees(14, 18, psa_compat=True)
    assert degree.max() == degree[4:10, 8:10].min() == 68
    assert degree[13, 9] == 5
    assert degree[7, 0] == 2
    assert [degree[y, x] for y in (0, -1) for x in (0, -1)] == [0, 1, 0, 0]
    assert (degree == 0).sum() == 10
    assert valid_pairs(56, 56, OFFSETS, psa_compat=True).sum() == 84_864


def test_isolated_pixels_of_the_published_pair_set_are_never_updated():
    scores, affinity = random_case(14, 18)
    walked = random_walk(scores, affinity, OFFSETS, psa_compat=True)
    same = torch.isclose(walked, scores, rtol=0, atol=1e-12).all(0).numpy()
    np.testing.assert_array_equal(same, degrees(14, 18, psa_compat=True) == 0)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 7), (5, 3), (2, 4), (8, 9)])
def test_pair_affinity_equals_loop(h, w):
    features = torch.randn(2, 6, h, w, generator=torch.Generator().manual_seed(2))
    affinity = pair_affinity(features, OFFSETS)
    f, expected = features.double().numpy(), np.zeros((2, 34, h, w))
    for b, (k, (dy, dx)), y, x in itertools.product(range(2), enumerate(OFFSETS), range(h), range(w)):
        if 0 <= y + dy < h and 0 <= x + dx < w:
            expected[b, k, y, x] = np.exp(-np.abs(f[b, :, y, x] - f[b, :, y + dy, x + dx]).mean())
    assert affinity.dtype == torch.float32
    np.testing.assert_allclose(affinity, expected, rtol=1e-6, atol=0)
    assert pair_affinity(features.half(), OFFSETS).dtype == torch.float32


@pytest.mark.parametrize(("h", "w"), [(3, 4), (6, 7)])
def test_pair_affinity_gradient(h, w):
    features = torch.randn(2, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.autograd.gradcheck(
        lambda f: pair_affinity(f, OFFSETS), features.requires_grad_(), fast_mode=True
    )


def test_walk_over_learned_affinities():
    """Two flat regions with distant features: each averages to its own mean."""
    features = torch.zeros(1, 4, 10, 12)
    features[..., 6:] = 50
    scores, _ = random_case(10, 12)
    walked = random_walk(scores, pair_affinity(features, OFFSETS)[0], OFFSETS, steps=2000)
    assert (walked[:, :, :6].amax((1, 2)) - walked[:, :, :6].amin((1, 2))).max() < 1e-6
    assert (walked[:, 0, 0] - walked[:, 0, -1]).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.rand(4, 5)}, "disagree"),
        ({"scores": torch.rand(2, 5, 4)}, "disagree"),
        ({"affinity": torch.rand(33, 4, 5)}, "disagree"),
        ({"offsets": OFFSETS[::-1]}, "ascending"),
        ({"offsets": ((0, 0), *OFFSETS[1:])}, "ascending"),
        ({"offsets": (), "affinity": torch.rand(0, 4, 5)}, "ascending"),
        ({"scores": torch.ones(2, 4, 5, dtype=torch.uint8)}, "scores hold"),
        ({"scores": torch.full((2, 4, 5), torch.nan)}, "scores hold"),
        ({"affinity": torch.full((34, 4, 5), torch.nan)}, "affinity holds"),
        ({"affinity": torch.full((34, 4, 5), torch.inf)}, "affinity holds"),
        ({"affinity": torch.full((34, 4, 5), 1.001)}, "affinity holds"),
        ({"affinity": torch.full((34, 4, 5), -0.001)}, "affinity holds"),
        ({"steps": -1}, "steps is -1"),
        ({"beta": 0}, "beta 0"),
        ({"beta": float("nan")}, "beta nan"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"scores": torch.rand(2, 4, 5), "affinity": torch.rand(34, 4, 5), "offsets": OFFSETS}
    random_walk(**good, steps=1)
    with pytest.raises(ValueError, match=message):
        random_walk(**(good | change))


def test_bad_radius_and_features_are_named():
    with pytest.raises(ValueError, match="radius is 1"):
        neighbour_offsets(1)
    with pytest.raises(ValueError, match="B, C, h, w"):
        pair_affinity(torch.rand(3, 4, 5), OFFSETS)
