"""The light DeepLab: sizes, alignment, and a loss that survives empty crops."""

import math

import pytest
import torch
from tiny_backbone import tiny_backbone

from wsss_lib.losses import segmentation_loss
from wsss_lib.models.deeplab import LightDeepLab
from wsss_lib.models.trainable import START


def test_loss_equals_the_loop_over_labelled_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 255])[torch.randint(5, (2, 5, 6), generator=generator)]
    terms = []
    for b in range(2):
        for y in range(5):
            for x in range(6):
                if target[b, y, x] != 255:
                    scores = logits[b, :, y, x].tolist()
                    terms.append(math.log(sum(map(math.exp, scores))) - scores[target[b, y, x]])
    assert segmentation_loss(logits, target).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    assert segmentation_loss(logits, target.byte()).item() == pytest.approx(sum(terms) / len(terms))


def test_a_crop_of_nothing_but_void_gives_0_and_no_nan():
    model = LightDeepLab(tiny_backbone(), 4, 8).train()
    batch = {"image": torch.randn(2, 3, 32, 32), "mask": torch.full((2, 32, 32), 255, dtype=torch.uint8)}
    loss = model.training_step(batch, START, "train")["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("strides", [(2, 4, 8), (2, 4, 8, 8), (2, 4, 8, 16, 16), (4, 8, 16, 32)])
@pytest.mark.parametrize("size", [(64, 64), (41, 70), (9, 100), (5, 5)])
def test_class_maps_have_stride_8_on_any_size(strides, size):
    model = LightDeepLab(tiny_backbone(strides), 4, 8).eval()
    with torch.no_grad():
        maps = model.class_maps(torch.randn(2, 3, *size))
    assert maps.shape == (2, 4, -(-size[0] // 8), -(-size[1] // 8))


def test_training_loss_is_taken_at_the_masks_size():
    model = LightDeepLab(tiny_backbone(), 4, 8).eval()  # no dropout
    images = torch.randn(2, 3, 41, 54, generator=torch.Generator().manual_seed(1))
    mask = torch.randint(4, (2, 41, 54), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps = model.class_maps(images)
        loss = model.training_step({"image": images, "mask": mask}, START, "train")["loss"].item()
    # pixel i lies at (i + 1/2) / 8 - 1/2 cells; beyond the outer centres the outer cell counts
    y, x = (((torch.arange(n) + 0.5) / 8 - 0.5).clamp(0, c - 1) for n, c in ((41, 6), (54, 7)))
    y0, x0 = y.floor().long().clamp(max=4), x.floor().long().clamp(max=5)
    fy, fx = (y - y0)[:, None], x - x0
    rows = maps[:, :, y0] * (1 - fy) + maps[:, :, y0 + 1] * fy
    logits = rows[..., x0] * (1 - fx) + rows[..., x0 + 1] * fx
    assert loss == pytest.approx(segmentation_loss(logits, mask).item(), rel=1e-4)


def test_every_trainable_parameter_learns_and_the_loss_falls():
    torch.manual_seed(0)
    model = LightDeepLab(tiny_backbone(), 3, 16).train()
    images = torch.randn(4, 3, 48, 48)
    masks = torch.randint(3, (4, 3, 3)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(20):
        loss = model.training_step({"image": images, "mask": masks}, START, "train")["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert losses[-1] < 0.6 * losses[0]


def test_a_backbone_that_is_too_coarse_is_refused():
    with pytest.raises(ValueError, match="stride 8"):
        LightDeepLab(tiny_backbone((16, 32)), 3, 8)
