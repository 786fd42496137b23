"""Caffe-style ResNets: strides, exact dilation, names and colours of the published weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from matplotlib import cbook
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image
from torch import nn

from wsss_lib.data.transforms import normalise
from wsss_lib.models.backbones import RANDOM, build_backbone
from wsss_lib.models.caffe_resnet import from_deeplab_pytorch, move_strides

WEIGHTS = Path(
    os.environ.get("WSSS_RESNET50")
    or Path(__file__).parents[3] / "shared" / "weights" / "resnet50_imagenet_fp16.safetensors"
)


@pytest.mark.parametrize(("name", "eps"), [("resnet50_caffe", 1e-3), ("resnet101_caffe", 1e-5)])
def test_strides_sit_in_the_first_1x1(name, eps):
    with torch.device("meta"):
        net = build_backbone(name, 32, RANDOM).net
    strided = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)}
    stages = ("layer2.0", "layer3.0", "layer4.0")
    assert strided == {"conv1", *(f"{s}.conv1" for s in stages), *(f"{s}.downsample.0" for s in stages)}
    assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {eps}


def test_dilation_is_exact():
    """At output stride 8 every fourth cell of the last stage is a cell of the network at stride 32."""
    coarse, fine = (build_backbone("resnet50_caffe", stride, RANDOM).eval().double() for stride in (32, 8))
    for parameter in coarse.parameters():  # larger values than the initial ones
        nn.init.normal_(parameter, 0, max(1, parameter[0].numel()) ** -0.5)
    fine.load_state_dict(coarse.state_dict())
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        wide, dense = coarse(image)[-1], fine(image)[-1]
    assert dense.shape[-2:] == (8, 12)
    assert wide.std() > 0
    torch.testing.assert_close(dense[..., ::4, ::4], wide)


@pytest.mark.parametrize("prefix", ["", "base."])
def test_deeplab_pytorchs_weights_are_renamed_and_turned_to_rgb(prefix):
    with torch.device("meta"):
        backbone = build_backbone("resnet101_caffe", 8, RANDOM)
    names = [name for name in backbone.net.state_dict() if not name.endswith("num_batches_tracked")]
    expected = {name: torch.tensor(float(index)) for index, name in enumerate(names)}
    expected["conv1.weight"] = torch.arange(3.0)[None, :, None, None]  # red, green, blue
    saved = {"layer1.conv1.conv.weight": expected["conv1.weight"].flip(1)}  # blue, green, red
    units = {"1": "reduce", "2": "conv3x3", "3": "increase"}
    for name, value in expected.items():
        parts = name.split(".")
        if parts[0] == "bn1":
            saved[f"layer1.conv1.bn.{parts[1]}"] = value
        elif parts[0] != "conv1":
            block = f"layer{int(parts[0][-1]) + 1}.block{int(parts[1]) + 1}"
            if parts[2] == "downsample":
                unit = "shortcut." + ("conv", "bn")[int(parts[3])]
            else:
                unit = f"{units[parts[2][-1]]}.{parts[2][:-1]}"
            saved[f"{block}.{unit}.{parts[-1]}"] = value
    assert "layer4.block23.conv3x3.bn.running_var" in saved
    assert len(saved) == len(expected) == 520
    saved["aspp.c0.weight"] = torch.zeros(21)
    found = from_deeplab_pytorch({prefix + name: value for name, value in saved.items()})
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    pixel = torch.tensor([200, 100, 0], dtype=torch.uint8)[:, None, None]
    seen = normalise(pixel, backbone.mean, backbone.std).flatten()
    torch.testing.assert_close(seen, torch.tensor([200 - 122.675, 100 - 116.669, -104.008]))


def test_foreign_names_and_missing_weights_are_named(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "torchvision.pth")
    with torch.device("meta"):
        with pytest.raises(
            ValueError, match=r"'conv1\.weight', are not deeplab-pytorch's\); supply deeplab-py"
        ):
            build_backbone("resnet101_caffe", 8, tmp_path / "torchvision.pth")
        with pytest.raises(ValueError, match=r"resnet50_caffe cannot be downloaded; .*He et al"):
            build_backbone("resnet50_caffe", 32)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs the Caffe ResNet-50 {WEIGHTS.name} (WSSS_RESNET50)")
def test_he_et_als_weights_recognise_photos():
    """An officer and a palace, ImageNet classes 652 and 698, in photos of installed packages."""
    backbone = build_backbone("resnet50_caffe", 32, WEIGHTS).eval()
    assert backbone.weights == WEIGHTS.name
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        officer = np.array(image.convert("RGB"))
    photos = []
    for photo in (officer, load_sample_image("china.jpg")):
        image = Image.fromarray(photo)
        left, top = ((n - min(image.size)) / 2 for n in image.size)
        box = (left, top, left + min(image.size), top + min(image.size))
        photos.append(
            torch.from_numpy(np.array(image.resize((224, 224), Image.BICUBIC, box))).permute(2, 0, 1)
        )
    state = load_file(WEIGHTS)
    with torch.no_grad():
        pooled = backbone(normalise(torch.stack(photos), backbone.mean, backbone.std))[-1].mean((2, 3))
        logits = pooled @ state["fc.weight"].float().T + state["fc.bias"].float()
    assert logits.argmax(1).tolist() == [652, 698]


def test_moved_strides_leave_timms_network_otherwise_alone():
    net = timm.create_model("resnet50", features_only=True, pretrained=False)
    before = {n: p.shape for n, p in net.named_parameters()}
    move_strides(net)
    assert {n: p.shape for n, p in net.named_parameters()} == before
