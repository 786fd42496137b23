import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsss_lib.data.transforms import (
    PlacedCrop,
    RandomLongSide,
    RandomScale,
    affinity_transform,
    classification_transform,
    normalise,
    segmentation_transform,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLACK = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)])


def gradient(height: int, width: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Image whose red is the column and green the row, mask = its red: a pixel tells where it came from."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([columns, rows, torch.full_like(rows, 200)]).to(torch.uint8)
    return tv_tensors.Image(image), tv_tensors.Mask(columns.to(torch.uint8))


def denormalise(image: torch.Tensor) -> torch.Tensor:
    """(3, H, W) back to 0..255."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (image * std + mean) * 255


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- normalise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 6, 3, 4, 5)])
def test_normalise_equals_numpy(shape):
    image = torch.randint(0, 256, shape, dtype=torch.uint8)
    expected = (image.numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    result = normalise(image, MEAN, STD)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_normalise_rejects_floats():
    with pytest.raises(ValueError, match="float32; give uint8"):
        normalise(torch.rand(3, 4, 4), MEAN, STD)


# --- crop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(20, 30), (8, 30), (20, 9), (7, 5), (12, 12)])
def test_crop_is_a_window_of_the_image_or_holds_it_whole(size):
    image, mask = gradient(*size)
    crop = 12
    places = set()
    for _ in range(60):
        out_image, out_mask = PlacedCrop(crop)(image, mask)
        assert out_image.shape == (3, crop, crop)
        assert out_mask.shape == (crop, crop)
        valid = out_mask != 255
        assert (out_image[:, ~valid] == 0).all()
        assert torch.equal(out_image[0][valid], out_mask[valid])
        height, width = min(size[0], crop), min(size[1], crop)
        ys, xs = torch.where(valid)
        assert valid.sum() == height * width  # nothing of a small image is cut, a large one fills the crop
        y, x = ys.min(), xs.min()
        assert (ys.max() - y + 1, xs.max() - x + 1) == (height, width)
        window = out_image[:, y : y + height, x : x + width]
        top, left = int(window[1, 0, 0]), int(window[0, 0, 0])
        assert torch.equal(window, image[:, top : top + height, left : left + width])
        places.add((int(y) - top, int(x) - left))
    assert (len(places) == 1) == (size == (12, 12))


@pytest.mark.parametrize("length", [3, 9])
def test_every_place_is_equally_likely(length):
    counts = torch.zeros(7)
    image = tv_tensors.Image(torch.arange(1, 1 + length, dtype=torch.uint8).expand(3, 6, length))
    for _ in range(1400):
        row = PlacedCrop(6)(image)[0, 0].int()
        first = int(torch.where(row > 0)[0][0])
        counts[first if length < 6 else int(row[0]) - 1] += 1
    places = abs(length - 6) + 1
    assert (counts[places:] == 0).all()
    assert (counts[:places] - 1400 / places).abs().max() < 5 * (1400 / places) ** 0.5


# --- scale -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(30, 50), (50, 30), (40, 40)])
def test_long_side_takes_every_integer_of_its_range(height, width):
    seen = set()
    for _ in range(80):
        out = RandomLongSide(20, 24)(gradient(height, width)[0])
        seen.add(max(out.shape[1:]))
        assert abs(min(out.shape[1:]) - max(out.shape[1:]) * min(height, width) / max(height, width)) <= 0.5
    assert seen == set(range(20, 25))


def test_scale_stays_in_its_range_and_never_vanishes():
    sides = [RandomScale(0.5, 1.5)(gradient(100, 200)[0]).shape[2] / 200 for _ in range(60)]
    assert 0.5 <= min(sides) < 0.7
    assert 1.3 < max(sides) <= 1.5
    assert RandomScale(0.1, 0.1)(gradient(2, 100)[0]).shape == (3, 1, 10)


def test_more_than_two_scales_are_choices_and_two_a_range():
    def sides(scale):
        transform = segmentation_transform(scale, 200, MEAN, STD)
        void = [(transform(*gradient(100, 100))[1] == 255).sum().item() for _ in range(60)]
        return [(200 * 200 - v) ** 0.5 / 100 for v in void]

    chosen = sides((0.5, 0.75, 1.25))
    assert {round(side, 6) for side in chosen} == {0.5, 0.75, 1.25}
    assert min(chosen.count(side) for side in (0.5, 0.75, 1.25)) > 8
    assert len(set(sides((0.5, 1.25)))) > 20


@pytest.mark.parametrize("factor", [0.37, 0.5, 0.75, 1, 1.3, 2, 3])
def test_scaled_masks_stay_centred_on_the_image(factor):
    image, mask = gradient(60, 80)
    out_image, out_mask = RandomScale(factor, factor)(image, mask)
    assert out_image.shape[1:] == out_mask.shape
    # The colour of a gradient is its place: half a pixel of the source, and one of rounding, at most.
    inner = slice(4, -4)
    difference = out_image[0].int()[inner, inner] - out_mask.int()[inner, inner]
    assert difference.abs().max() <= 1
    # The source pixel in which the centre of each new pixel falls (torch's "nearest" takes its corner).
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(out_mask.shape, mask.shape, strict=True)
    )
    np.testing.assert_array_equal(out_mask, mask.numpy()[np.ix_(rows, columns)])


def test_scaled_masks_hold_no_new_ids():
    mask = tv_tensors.Mask(torch.tensor([0, 7, 255], dtype=torch.uint8)[torch.randint(0, 3, (40, 40))])
    assert set(RandomScale(1.7, 1.7)(mask).unique().tolist()) == {0, 7, 255}


@pytest.mark.parametrize("kind", [RandomScale, RandomLongSide])
@pytest.mark.parametrize("limits", [(2, 1), (0, 1), (-1, 1)])
def test_bad_ranges(kind, limits):
    with pytest.raises(ValueError, match=r"range .* is empty or not positive"):
        kind(*limits)


# --- classification --------------------------------------------------------------------------------------


def test_classification_pads_with_the_mean_colour():
    image = tv_tensors.Image(torch.full((3, 20, 40), 255, dtype=torch.uint8))
    out = classification_transform((20, 20), 32, MEAN, STD, jitter=False)(image)
    assert type(out) is torch.Tensor
    assert out.dtype == torch.float32
    assert out.shape == (3, 32, 32)
    inside = (out != 0).all(0)
    assert inside.sum() == 10 * 20
    white = torch.tensor([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)])
    torch.testing.assert_close(out[:, inside], white[:, None].expand(3, 200))


def test_classification_without_jitter_and_scaling_is_the_normalised_image_mirrored_half_of_the_time():
    image, _ = gradient(24, 24)
    expected = normalise(image.as_subclass(torch.Tensor), MEAN, STD)
    transform, mirrored = classification_transform((24, 24), 24, MEAN, STD, jitter=False), 0
    for _ in range(200):
        out = transform(image)
        mirrors = bool(out[0, 0, 0] > out[0, 0, -1])
        torch.testing.assert_close(out, expected.flip(-1) if mirrors else expected)
        mirrored += mirrors
    assert 60 <= mirrored <= 140


def test_jitter_changes_colours_within_its_strength():
    image = tv_tensors.Image(torch.full((3, 8, 8), 100, dtype=torch.uint8))

    def brightness(jitter):
        transform = classification_transform((8, 8), 8, MEAN, STD, jitter=jitter)
        return torch.stack([denormalise(transform(image)).mean() for _ in range(60)])

    torch.testing.assert_close(brightness(False), torch.full((60,), 100.0))
    values = brightness(True)  # of one grey, which contrast, saturation and hue leave as it is
    assert 69 <= values.min() < 78
    assert 122 < values.max() <= 130


# --- affinity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_affinity_pads_with_black_and_marginals_with_zero(dtype):
    image, mask = gradient(10, 40)
    image += 1  # no black pixel in the image itself
    marginals = tv_tensors.Mask(torch.stack([mask + 1, 255 - mask]).to(dtype))
    out, out_marginals = affinity_transform(24, MEAN, STD, jitter=False)(image, marginals)
    assert (out.dtype, out_marginals.dtype) == (torch.float32, dtype)
    assert out.shape == (3, 24, 24)
    assert out_marginals.shape == (2, 24, 24)
    inside = out_marginals[0] > 0
    assert inside.sum() == 10 * 24
    torch.testing.assert_close(out[:, ~inside], BLACK[:, None].expand(3, int((~inside).sum())))
    assert (out_marginals[:, ~inside] == 0).all()
    red = denormalise(out)[0].round()
    assert torch.equal(red[inside], out_marginals[0][inside].float())
    assert torch.equal(256 - red[inside], out_marginals[1][inside].float())


def test_affinity_never_scales_and_flips_both():
    image, mask = gradient(30, 30)
    steps = set()
    for _ in range(20):
        out, marginals = affinity_transform(16, MEAN, STD, jitter=False)(image, tv_tensors.Mask(mask[None]))
        assert torch.equal(denormalise(out)[0].round(), marginals[0].float())
        steps |= set(marginals[0].int().diff(dim=-1).unique().tolist())
    assert steps == {1, -1}


def test_affinity_jitter_leaves_marginals_alone():
    image, mask = gradient(16, 16)
    marginals = tv_tensors.Mask(mask[None].float() / 16)
    for _ in range(5):
        _, out = affinity_transform(16, MEAN, STD, jitter=True)(image, marginals)
        assert any(torch.equal(out, m) for m in (marginals, marginals.flip(-1)))


# --- segmentation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 90), (20, 90), (20, 25)])
def test_segmentation_keeps_image_and_label_together(size):
    image, mask = gradient(*size)
    image[:2] += 20
    transform = segmentation_transform((0.5, 2.0), 32, MEAN, STD)
    for _ in range(30):
        out, label = transform(image, mask)
        assert (out.dtype, label.dtype) == (torch.float32, torch.uint8)
        assert out.shape == (3, 32, 32)
        assert label.shape == (32, 32)
        void = label == 255
        assert (out[:, void] == 0).all()
        # the border of a resized gradient is rounded off by the bicubic kernel: compare with slack 2
        assert (denormalise(out)[0][~void] - 20 - label[~void].float()).abs().max() <= 2
        assert void.any() or min(size) * 2 >= 32


def test_segmentation_without_scale_is_exact_mirrored_or_not():
    image, mask = gradient(20, 25)
    transform, seen = segmentation_transform((1, 1), 32, MEAN, STD, jitter=False), set()
    for _ in range(20):
        out, label = transform(image, mask)
        inside = label != 255
        assert inside.sum() == 20 * 25
        mirrored = bool(label[inside][0] > 0)
        sides = [-1] if mirrored else []
        assert torch.equal(label[inside], mask.flip(sides).flatten())
        expected = normalise(image.as_subclass(torch.Tensor), MEAN, STD).flip(sides)
        torch.testing.assert_close(out[:, inside], expected.flatten(1))
        seen.add(mirrored)
    assert seen == {True, False}


# --- all three -------------------------------------------------------------------------------------------


def calls():
    image = tv_tensors.Image(torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.randint(0, 5, (40, 50), dtype=torch.uint8))
    marginals = tv_tensors.Mask(torch.rand(3, 40, 50))
    return {
        "classification": lambda: (classification_transform((20, 60), 32, MEAN, STD)(image),),
        "affinity": lambda: affinity_transform(32, MEAN, STD)(image, marginals),
        "segmentation": lambda: segmentation_transform((0.5, 1.5), 32, MEAN, STD, jitter=True)(image, mask),
    }


@pytest.mark.parametrize("kind", ["classification", "affinity", "segmentation"])
def test_torch_seed_decides_everything(kind):
    call = calls()[kind]
    torch.manual_seed(5)
    first, second = call(), call()
    torch.manual_seed(5)
    again = call()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])


def test_image_and_mask_of_different_size_are_refused():
    transform = segmentation_transform((1, 1), 16, MEAN, STD)
    with pytest.raises(ValueError, match="multiple"):
        transform(gradient(20, 20)[0], gradient(20, 21)[1])


def test_builders_return_compose():
    assert isinstance(classification_transform((8, 8), 8, MEAN, STD), v2.Compose)
