"""DeepLab-LargeFOV on ResNet-38: its head, and that both learn together."""

import pytest
import torch
from tiny_backbone import tiny_backbone
from torch import nn
from torch.nn import functional as F

from wsss_lib.config import Optimiser
from wsss_lib.losses import segmentation_loss
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.largefov import LargeFOV
from wsss_lib.models.resnet38 import WIDTHS, ResNet38
from wsss_lib.models.trainable import START
from wsss_lib.training import build_optimiser

SEAM = Optimiser(
    name="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4, new_layers_lr=10, bias_lr=2, power=0.9
)  # fmt: skip


def narrow_resnet38() -> Backbone:
    net = ResNet38(widths=tuple(width // 32 for width in WIDTHS))
    info = net.feature_info
    return Backbone(net, tuple(info.channels()), tuple(info.reduction()), (0.5,) * 3, (0.25,) * 3, "random")


def test_the_head_is_a_wide_convolution_and_two_1x1():
    model = LargeFOV(tiny_backbone((2, 4, 8, 8)), 4, 6).eval()
    fov, first_norm, _, middle, second_norm, *_, classifier = model.head
    for norm in (first_norm, second_norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        assert norm.momentum == 3e-4
        assert norm.weight is None
    assert fov.bias is middle.bias is None
    assert fov.weight.std().item() == pytest.approx((2 / (9 * 6)) ** 0.5, rel=0.2)
    images = torch.randn(1, 3, 41, 130, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = F.conv2d(model.backbone(images)[-1], fov.weight, padding=12, dilation=12)
        for norm, conv in ((first_norm, middle), (second_norm, classifier)):
            mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
            x = ((x - mean) / (var + 1e-5).sqrt()).clamp(min=0)
            x = torch.einsum("oc,bchw->bohw", conv.weight[..., 0, 0], x)
            if conv.bias is not None:
                x = x + conv.bias[:, None, None]
        torch.testing.assert_close(model.class_maps(images), x, atol=1e-5, rtol=1e-4)
        assert x.shape == (1, 4, 6, 17)


def test_the_heads_norms_learn_statistics_and_the_backbones_do_not():
    model = LargeFOV(tiny_backbone((2, 4, 8, 8)), 4, 6).train()
    training = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training}
    assert training == {"head.1", "head.4"}
    before = model.head[1].running_mean.clone()
    model.class_maps(torch.randn(2, 3, 32, 32))
    assert not torch.equal(model.head[1].running_mean, before)


def test_loss_is_taken_at_the_masks_size():
    model = LargeFOV(tiny_backbone((2, 4, 8, 8)), 4, 6).eval()
    images, mask = torch.randn(2, 3, 48, 64), torch.randint(4, (2, 48, 64))
    with torch.no_grad():
        logits = F.interpolate(model.class_maps(images), (48, 64), mode="bilinear")
        found = model.training_step({"image": images, "mask": mask}, START, "train")["loss"]
    assert found.item() == pytest.approx(segmentation_loss(logits, mask).item(), rel=1e-5)


def test_four_photos_are_learnt_and_then_segmented():
    torch.manual_seed(0)
    model = LargeFOV(narrow_resnet38(), 3, 32).train()
    colours = torch.randn(3, 3)
    mask = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 2]])[:, None].repeat_interleave(16, 2).expand(4, 32, 32)
    images = colours[mask].movedim(-1, 1) + torch.randn(4, 3, 32, 32) / 4
    optimiser = build_optimiser(model, SEAM)
    losses = []
    for _ in range(20):
        loss = model.training_step({"image": images, "mask": mask}, START, "train")["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    with torch.no_grad():
        maps = model.eval().class_maps(images)
    assert maps.shape == (4, 3, 4, 4)
    assert maps.isfinite().all()
