"""ResNet-38: the published architecture, its weights key by key, and that it trains."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from mxnet_file import write_params
from torch import nn
from torch.nn import functional as F

from wsss_lib.config import Optimiser
from wsss_lib.methods.cam import CAM
from wsss_lib.models import backbones
from wsss_lib.models.affinity import AffinityNet
from wsss_lib.models.backbones import RANDOM, build_backbone
from wsss_lib.models.resnet38 import MD5, WIDTHS, ResNet38
from wsss_lib.models.trainable import START
from wsss_lib.training import build_optimiser

NARROW = tuple(width // 32 for width in WIDTHS)
PSA = Optimiser(
    name="sgd",
    lr=0.01,
    momentum="weight_decay_slip",
    weight_decay=5e-4,
    new_layers_lr=10,
    bias_lr=2,
    power=0.9,
)

# name, stride, dilations of its convolutions, whether the shortcut is projected
BASIC = [
    ("b2", 2, 1, 1, True), ("b2_1", 1, 1, 1, False), ("b2_2", 1, 1, 1, False),
    ("b3", 2, 1, 1, True), ("b3_1", 1, 1, 1, False), ("b3_2", 1, 1, 1, False),
    ("b4", 2, 1, 1, True), *[(f"b4_{i}", 1, 1, 1, False) for i in range(1, 6)],
    ("b5", 1, 1, 2, True), ("b5_1", 1, 2, 2, False), ("b5_2", 1, 2, 2, False),
]  # fmt: skip


@pytest.fixture
def narrow(monkeypatch) -> None:
    """ResNet-38 of a 32nd of its width under its own name."""
    own = dataclasses.replace(
        backbones.OWN_NETWORKS["resnet38"], build=functools.partial(ResNet38, widths=NARROW)
    )
    monkeypatch.setitem(backbones.OWN_NETWORKS, "resnet38", own)


def scattered(net: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of random numbers, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5
        if name.endswith("running_var")
        else torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def test_layers_and_parameters_are_counted():
    with torch.device("meta"):
        net = ResNet38()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(convolutions) == 43
    assert not any(c.bias is not None for c in convolutions)
    assert round(sum(c.weight.numel() for c in convolutions) / 1e6, 2) == 105.02
    assert len(norms) == 37
    assert sum(n.weight.numel() + n.bias.numel() for n in norms) == 47_744
    assert len([k for k in net.state_dict() if not k.endswith("num_batches_tracked")]) == 191
    assert {n.eps for n in norms} == {1e-5}


@pytest.mark.parametrize(
    ("size", "cells"), [(448, 56), (500, 63), (375, 47), (321, 41), (224, 28), (192, 24)]
)
def test_feature_sizes(size, cells):
    with torch.device("meta"):
        backbone = build_backbone("resnet38", 8, RANDOM).eval()
        taps = backbone(torch.empty(1, 3, size, 320))
    assert backbone.channels == (64, 128, 256, 512, 1024, 4096)
    assert backbone.strides == (1, 2, 4, 8, 8, 8)
    for tap, channels, stride in zip(taps, backbone.channels, backbone.strides, strict=True):
        assert tap.shape == (1, channels, -(-size // stride), 320 // stride)
    assert taps[-1].shape[-2:] == (cells, 40)


@pytest.mark.usefixtures("narrow")
def test_taps_equal_the_published_arithmetic():
    """Every block written out: activation first, shortcut from the activated input where it is projected."""
    backbone = build_backbone("resnet38", 8, RANDOM).eval()
    state = scattered(backbone.net)
    backbone.net.load_state_dict(state, strict=False)
    backbone.double()
    state = {name: value.double() for name, value in state.items()}

    def activated(x, layer):
        mean, var, gamma, beta = (
            state[f"{layer}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * gamma + beta).clamp(min=0)

    def convolved(x, layer, stride=1, dilation=1):
        weight = state[f"{layer}.weight"]
        return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] // 2), dilation)

    image = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1)).double()
    expected = []
    x = convolved(image, "conv1a")
    for name, stride, first, second, projects in BASIC:
        a = activated(x, f"{name}.bn_branch2a")
        if name in ("b2", "b3", "b4", "b5"):
            expected.append(a)
        shortcut = convolved(a, f"{name}.conv_branch1", stride) if projects else x
        y = convolved(a, f"{name}.conv_branch2a", stride, first)
        y = convolved(activated(y, f"{name}.bn_branch2b1"), f"{name}.conv_branch2b1", 1, second)
        x = shortcut + y
    for name in ("b6", "b7"):
        a = activated(x, f"{name}.bn_branch2a")
        if name == "b6":
            expected.append(a)
        y = convolved(a, f"{name}.conv_branch2a")
        y = convolved(activated(y, f"{name}.bn_branch2b1"), f"{name}.conv_branch2b1", 1, 4)
        y = convolved(activated(y, f"{name}.bn_branch2b2"), f"{name}.conv_branch2b2")
        x = convolved(a, f"{name}.conv_branch1") + y
    expected.append(activated(x, "bn7"))
    with torch.no_grad():
        for tap, wanted in zip(backbone(image), expected, strict=True):
            torch.testing.assert_close(tap, wanted)


@pytest.mark.usefixtures("narrow")
def test_whole_channels_are_dropped_before_the_last_two_convolutions_of_b6_and_b7():
    torch.manual_seed(0)
    net = build_backbone("resnet38", 8, RANDOM).train().net
    seen = {}

    def keep(name):
        return lambda module, inputs: seen.update({name: inputs[0]})

    layers = [f"{block}.conv_{branch}" for block in ("b6", "b7") for branch in ("branch2b1", "branch2b2")]
    for layer in (*layers, "b6.conv_branch1", "b5_2.conv_branch2b1"):
        net.get_submodule(layer).register_forward_pre_hook(keep(layer))
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)  # every activation is 1, unless it is dropped
        nn.init.ones_(norm.bias)
    net(torch.randn(32, 3, 16, 16))
    for layer in layers:
        rate = 0.3 if "b6" in layer else 0.5
        channels = seen[layer].flatten(2)
        assert (channels == channels[..., :1]).all()
        assert channels.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
        assert (channels == 0).float().mean().item() == pytest.approx(rate, abs=0.07)
    assert (seen["b6.conv_branch1"] == 1).all()
    assert (seen["b5_2.conv_branch2b1"] == 1).all()
    net.eval()
    net(torch.randn(2, 3, 16, 16))
    assert all((x == 1).all() for x in seen.values())


@pytest.mark.parametrize(
    ("taps", "frozen"), [(0, []), (1, ["conv1a"]), (2, ["conv1a", "b2", "b2_1", "b2_2"])]
)
def test_psa_freezes_up_to_stride_2(taps, frozen):
    with torch.device("meta"):
        backbone = build_backbone("resnet38", 8, RANDOM, taps)
    names = {
        n.split(".")[0] for n, p in backbone.net.named_parameters() if not p.requires_grad and "conv" in n
    }
    assert names == set(frozen)
    trained = {n.split(".")[0] for n, p in backbone.net.named_parameters() if p.requires_grad}
    assert not trained & set(frozen)
    assert not any("bn" in n for n, p in backbone.net.named_parameters() if p.requires_grad)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="ResNet-38 has output stride 8, not 16"):
        build_backbone("resnet38", 16, RANDOM)


# weights


def mxnet_arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The published file's 193 names: stages a, b1, b2, ..., branches 1, 2a, 2b1, 2b2."""
    kinds = {
        "running_mean": ("aux", "moving_mean"),
        "running_var": ("aux", "moving_var"),
        "bias": ("arg", "beta"),
    }
    arrays = {
        "arg:linear1000_weight": np.zeros((1000, 4), "float32"),
        "arg:linear1000_bias": np.zeros(1000, "float32"),
    }
    for name, value in state.items():
        *layer, parameter = name.split(".")
        group, kind = kinds.get(parameter, ("arg", "gamma" if "bn" in layer[-1] else "weight"))
        if len(layer) == 1:
            new = layer[0]
        else:
            stage, _, number = layer[0][1:].partition("_")
            letter, branch = layer[1].split("_branch")
            block = f"b{number}" if number else "a"
            new = f"{'bn' if letter == 'bn' else 'res'}{stage}{block}_branch{branch}"
        arrays[f"{group}:{new}_{kind}"] = value.numpy()
    return arrays


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("layout", ["legacy", "V1", "V2"])
def test_the_published_file_is_loaded_key_by_key(tmp_path, layout):
    state = scattered(ResNet38(widths=NARROW))
    arrays = mxnet_arrays(state)
    assert len(arrays) == 193
    for known in ("arg:res2a_branch1_weight", "arg:res4b5_branch2b1_weight", "aux:bn6a_branch2b2_moving_var"):
        assert known in arrays
    path = write_params(tmp_path / "a1.params", arrays, layout)
    with pytest.warns(UserWarning, match=rf"md5 \w{{32}}, the published file {MD5}"):
        backbone = build_backbone("resnet38", 8, path)
    loaded = {k: v for k, v in backbone.net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(loaded) == 191
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    assert backbone.weights == "a1.params"


@pytest.mark.usefixtures("narrow")
def test_psas_files_are_loaded_as_they_are(tmp_path):
    state = scattered(ResNet38(widths=NARROW))
    torch.save(state | {"fc8.weight": torch.zeros(20, NARROW[-1], 1, 1)}, tmp_path / "res38_cls.pth")
    backbone = build_backbone("resnet38", 8, tmp_path / "res38_cls.pth")
    assert all(torch.equal(backbone.net.state_dict()[name], value) for name, value in state.items())


@pytest.mark.usefixtures("narrow")
def test_weights_that_cannot_be_used_are_named_with_the_file_to_supply(tmp_path):
    arrays = mxnet_arrays(scattered(ResNet38(widths=NARROW)))
    with pytest.raises(FileNotFoundError, match=rf"nowhere\.params; supply ilsvrc.* \(md5 {MD5}\)"):
        build_backbone("resnet38", 8, tmp_path / "nowhere.params")
    with pytest.raises(ValueError, match=rf"cannot be downloaded; .*ilsvrc.* \(md5 {MD5}\)"):
        build_backbone("resnet38", 8)
    whole = write_params(tmp_path / "whole.params", arrays).read_bytes()
    (tmp_path / "cut.params").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"cut\.params cannot be read as weights \(it ends after .*{MD5}"):
        build_backbone("resnet38", 8, tmp_path / "cut.params")
    write_params(tmp_path / "other.params", arrays | {"arg:fc6_weight": np.zeros(1, "float32")})
    with pytest.raises(
        ValueError, match=rf"other\.params .*'arg:fc6_weight', which ResNet-38 does not.*{MD5}"
    ):
        build_backbone("resnet38", 8, tmp_path / "other.params")
    del arrays["arg:res5b2_branch2a_weight"]
    write_params(tmp_path / "few.params", arrays)
    with (
        pytest.warns(UserWarning, match="md5"),
        pytest.raises(ValueError, match=rf"1 of .* missing \(first: \['b5_2\.conv_branch2a.*{MD5}"),
    ):
        build_backbone("resnet38", 8, tmp_path / "few.params")
    pth = tmp_path / "cut.pth"
    torch.save(scattered(ResNet38(widths=NARROW)), pth)
    pth.write_bytes(pth.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.pth cannot be read as weights"):
        build_backbone("resnet38", 8, pth)


# networks on it


@pytest.mark.usefixtures("narrow")
def test_affinity_net_takes_conv4_conv5_and_conv6():
    net = AffinityNet(build_backbone("resnet38", 8, RANDOM), (4, 5, 6), 5, True).eval()
    assert [r.in_channels for r in net.reductions] == [width // 32 for width in (512, 1024, 4096)]
    with torch.no_grad():
        assert net(torch.randn(1, 3, 60, 75)).shape == (1, 34, 8, 10)


@pytest.mark.whole
def test_the_whole_network_takes_a_step_of_psa_and_gives_maps():
    """At full width: finite loss, gradients where they belong, frozen layers untouched."""
    torch.manual_seed(0)
    model = CAM(build_backbone("resnet38", 8, RANDOM, frozen_taps=2), 20, 0.5, True).train()
    before = {
        n: p.clone()
        for n, p in model.named_parameters()
        if n.startswith(("backbone.net.b2.", "backbone.net.b6"))
    }
    optimiser = build_optimiser(model, PSA)
    loss = model.training_step(
        {"image": torch.randn(1, 3, 17, 17), "label": torch.ones(1, 20)}, START, "train"
    )["loss"]
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        if name in before:
            assert torch.equal(parameter, before[name]) == (not parameter.requires_grad)
    with torch.no_grad():
        assert model.eval().class_maps(torch.randn(1, 3, 17, 17)).shape == (1, 20, 3, 3)


@pytest.mark.usefixtures("narrow")
def test_a_classifier_learns_four_photos():
    torch.manual_seed(0)
    backbone = build_backbone("resnet38", 8, RANDOM, frozen_taps=2)
    model = CAM(backbone, 2, 0.5, True).train()
    images = torch.randn(4, 3, 1, 1).expand(4, 3, 33, 33) + torch.randn(4, 3, 33, 33) / 4
    batch = {"image": images, "label": torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 0]])}
    optimiser = build_optimiser(model, PSA)
    losses = []
    for _ in range(20):
        loss = model.training_step(batch, START, "train")["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
