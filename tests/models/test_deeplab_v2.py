"""DeepLab-v2: three scales, the strongest logit, four losses on labels taken at the cells' centres."""

import numpy as np
import pytest
import torch
from tiny_backbone import tiny_backbone
from torch.nn import functional as F

from wsss_lib.config import Optimiser
from wsss_lib.losses import segmentation_loss
from wsss_lib.models.backbones import RANDOM, build_backbone
from wsss_lib.models.deeplab_v2 import DeepLabV2, strongest
from wsss_lib.models.trainable import START
from wsss_lib.resampling import labels_on_cells
from wsss_lib.training import build_optimiser

PAPER = Optimiser(
    name="sgd", lr=2.5e-4, momentum=0.9, weight_decay=5e-4, new_layers_lr=10, bias_lr=2, power=0.9
)  # fmt: skip


def tiny(size=(2, 3, 41, 54)) -> tuple[DeepLabV2, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = DeepLabV2(tiny_backbone((2, 4, 8, 8)), 4)
    images = torch.randn(*size)
    mask = torch.tensor([0, 1, 2, 3, 255])[torch.randint(5, (size[0], *size[-2:]))]
    return model, images, mask


def test_the_head_is_four_summed_classifiers_of_dilation_6_12_18_24():
    model, images, _ = tiny((1, 3, 64, 64))
    assert len(model.pyramid) == 4
    for conv in model.pyramid:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.2)
        torch.nn.init.normal_(conv.bias)
    features = model.backbone(images)[-1][0]
    expected = torch.zeros(4, 8, 8)
    for conv, rate in zip(model.pyramid, (6, 12, 18, 24), strict=True):
        for y in range(8):
            for x in range(8):
                expected[:, y, x] += conv.bias
                for i in range(3):
                    for j in range(3):
                        v, u = y + (i - 1) * rate, x + (j - 1) * rate
                        if 0 <= v < 8 and 0 <= u < 8:
                            expected[:, y, x] += conv.weight[:, :, i, j] @ features[:, v, u]
    torch.testing.assert_close(model.logits(images)[0], expected, atol=1e-5, rtol=1e-4)


def test_biases_start_at_zero():
    assert all((conv.bias == 0).all() for conv in tiny()[0].pyramid)


def test_a_crop_of_321_gives_the_papers_grids():
    with torch.device("meta"):
        model = DeepLabV2(build_backbone("resnet101_caffe", 8, RANDOM), 21).eval()
        grids = [tuple(logits.shape[-2:]) for logits, _ in model.scales(torch.empty(1, 3, 321, 321))]
        assert grids == [(41, 41), (21, 21), (31, 31)]
        assert model.class_maps(torch.empty(2, 3, 513, 321)).shape == (2, 21, 65, 41)


def test_smaller_scales_see_the_resized_photo():
    model, images, _ = tiny()
    for (logits, cell), size in zip(model.scales(images), [(41, 54), (21, 27), (31, 41)], strict=True):
        resized = F.interpolate(images, size, mode="bilinear")
        torch.testing.assert_close(logits, model.logits(resized))
        assert cell == pytest.approx((8 * 41 / size[0], 8 * 54 / size[1]))


def bilinear(maps: torch.Tensor, cell: tuple[float, float], y: float, x: float) -> torch.Tensor:
    """Value of maps (K, h, w) at a pixel position; beyond the outer centres the outer cell's."""
    position = [
        min(max(p / c - 0.5, 0), n - 1) for p, c, n in zip((y, x), cell, maps.shape[-2:], strict=True)
    ]
    (y0, x0), (y1, x1) = (
        map(int, position),
        (min(int(p) + 1, n - 1) for p, n in zip(position, maps.shape[-2:], strict=True)),
    )
    fy, fx = position[0] - y0, position[1] - x0
    top = maps[:, y0, x0] * (1 - fx) + maps[:, y0, x1] * fx
    return top * (1 - fy) + (maps[:, y1, x0] * (1 - fx) + maps[:, y1, x1] * fx) * fy


def test_the_strongest_logit_of_a_cell_is_the_maximum_over_scales():
    generator = torch.Generator().manual_seed(0)
    shapes, scaled = [(6, 7), (3, 4), (4, 6)], [(41, 54), (21, 27), (31, 41)]
    scales = [
        (torch.randn(1, 3, *shape, generator=generator), (8 * 41 / h, 8 * 54 / w))
        for shape, (h, w) in zip(shapes, scaled, strict=True)
    ]
    found = strongest(scales, (41, 54))[0]
    for i in range(6):
        for j in range(7):
            values = [bilinear(logits[0], cell, (i + 0.5) * 8, (j + 0.5) * 8) for logits, cell in scales]
            torch.testing.assert_close(found[:, i, j], torch.stack(values).amax(0))


def test_where_cells_are_whole_the_maximum_is_that_of_the_released_code():
    model, images, _ = tiny((1, 3, 64, 96))
    (first, _), *others = model.scales(images)
    resized = [F.interpolate(logits, first.shape[-2:], mode="bilinear") for logits, _ in others]
    expected = torch.stack([first, *resized]).amax(0)
    torch.testing.assert_close(model.class_maps(images), expected)


def test_the_loss_is_the_sum_of_four_cross_entropies():
    model, images, mask = tiny()
    scales = model.scales(images)
    outputs = [*scales, (strongest(scales, (41, 54)), (8, 8))]
    expected = 0.0
    for logits, (dy, dx) in outputs:
        terms = []
        for b in range(2):
            for i in range(logits.shape[2]):
                for j in range(logits.shape[3]):
                    label = mask[b, min(int((i + 0.5) * dy), 40), min(int((j + 0.5) * dx), 53)].item()
                    if label != 255:
                        terms.append(-logits[b, :, i, j].log_softmax(0)[label].item())
        expected += sum(terms) / len(terms)
    assert model.training_step({"image": images, "mask": mask.byte()}, START, "train")[
        "loss"
    ].item() == pytest.approx(expected, rel=1e-4)


def test_a_crop_of_nothing_but_void_gives_0_and_no_nan():
    model, images, mask = tiny()
    loss = model.training_step({"image": images, "mask": torch.full_like(mask, 255)}, START, "train")["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.requires_grad)


def test_classifiers_learn_10_times_and_their_biases_20_times_as_fast():
    groups = build_optimiser(tiny()[0], PAPER).param_groups
    rates = {(round(g["lr"] / 2.5e-4), g["weight_decay"]): len(g["params"]) for g in groups}
    assert rates[10, 5e-4] == rates[20, 0] == 4
    assert rates[1, 5e-4] == 4  # the tiny backbone's convolutions


def test_the_papers_network_takes_a_step_and_gives_maps():
    """ResNet-101 at its full size, on a small crop."""
    torch.manual_seed(0)
    model = DeepLabV2(build_backbone("resnet101_caffe", 8, RANDOM), 21).train()
    optimiser = build_optimiser(model, PAPER)
    loss = model.training_step(
        {"image": torch.randn(1, 3, 33, 33), "mask": torch.ones(1, 33, 33)}, START, "train"
    )["loss"]
    loss.backward()
    optimiser.step()
    assert loss.item() == pytest.approx(4 * np.log(21), rel=0.2)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        assert model.eval().class_maps(torch.randn(1, 3, 33, 40)).shape == (1, 21, 5, 5)


def test_four_photos_are_learnt_and_then_segmented():
    """With the paper's optimiser, on the smallest ResNet of timm."""
    torch.manual_seed(0)
    model = DeepLabV2(build_backbone("test_resnet", 8, RANDOM), 3).train()
    colours = torch.randn(3, 3)
    mask = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 2]])[:, None].repeat_interleave(16, 2).expand(4, 32, 32)
    images = colours[mask].movedim(-1, 1) + torch.randn(4, 3, 32, 32) / 4
    optimiser = build_optimiser(model, PAPER)
    losses = []
    for _ in range(20):
        loss = model.training_step({"image": images, "mask": mask}, START, "train")["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        logits = model.eval().class_maps(images)
    assert segmentation_loss(logits, labels_on_cells(mask, (4, 4), (8, 8))) < 0.8 * np.log(3)
