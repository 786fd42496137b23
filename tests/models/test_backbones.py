"""Backbones: the right ImageNet weights, taps of the promised sizes, frozen batch norm, named errors."""

import numpy as np
import pytest
import timm
import torch
from matplotlib import cbook
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from wsss_lib.data.transforms import normalise
from wsss_lib.models.backbones import RANDOM, build_backbone, efficientnet_lite0_state

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """timm's whole network with the packaged weights, loaded without our build_backbone."""
    net = timm.create_model(LITE0, pretrained=False)
    missing, unexpected = net.load_state_dict(efficientnet_lite0_state(), strict=False)
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert not unexpected
    return net.eval()


def square(photo: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(photo)
    half = min(image.size) / 2
    x, y = image.width / 2, image.height / 2
    return image.resize((side, side), Image.BICUBIC, (x - half, y - half, x + half, y + half))


def test_the_packaged_weights_recognise_photos(classifier):
    """Officer, palace and daisy: ImageNet classes 652, 698, 985, in photos of installed packages."""
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        officer = np.array(image.convert("RGB"))
    photos = [officer, load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    batch = torch.stack([torch.from_numpy(np.array(square(p, 224))).permute(2, 0, 1) for p in photos])
    mean, std = build_backbone(LITE0, 32, "random").mean, build_backbone(LITE0, 32, "random").std
    with torch.no_grad():
        logits = classifier(normalise(batch, mean, std))
    assert logits.argmax(1).tolist() == [652, 698, 985]


def test_taps_are_the_pretrained_networks_features(classifier):
    images = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    backbone = build_backbone(LITE0, 32).eval()
    with torch.no_grad():
        expected = classifier.forward_intermediates(images, intermediates_only=True)
        for tap, feature in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(tap, feature, atol=1e-3, rtol=1e-3)  # another memory layout
    assert backbone.weights == "imagenet"


def test_input_is_what_efficientnet_lite_expects():
    backbone = build_backbone(LITE0, 32, "random")
    values = torch.tensor([0, 127, 255], dtype=torch.uint8).repeat(3, 1)[..., None]
    expected = (values.float() - 127) / 128
    torch.testing.assert_close(normalise(values, backbone.mean, backbone.std), expected)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", [LITE0, "resnet18"])
def test_taps_have_the_promised_channels_and_sizes(name, output_stride):
    backbone = build_backbone(name, output_stride, "random").eval()
    assert backbone.strides == tuple(min(s, output_stride) for s in (2, 4, 8, 16, 32))
    assert backbone.weights == "random"
    for size in ((64, 64), (33, 50), (1, 31)):
        with torch.no_grad():
            taps = backbone(torch.randn(2, 3, *size))
        for tap, channels, stride in zip(taps, backbone.channels, backbone.strides, strict=True):
            assert tap.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
            assert tap.isfinite().all()


def test_odd_sizes_are_padded_with_the_mean_colour():
    """So that cell (y, x) covers the same pixels whatever the photo's size."""
    backbone = build_backbone(LITE0, 16).eval()
    image = torch.randn(1, 3, 41, 70, generator=torch.Generator().manual_seed(1))
    padded = torch.zeros(1, 3, 48, 80)
    padded[..., :41, :70] = image
    with torch.no_grad():
        for tap, whole in zip(backbone(image), backbone(padded), strict=True):
            torch.testing.assert_close(tap, whole[..., : tap.shape[2], : tap.shape[3]])


def test_batch_norm_stays_in_evaluation_mode_and_frozen():
    model = nn.Sequential(build_backbone("resnet18", 32, "random"), nn.BatchNorm2d(3))
    model.train()
    norms = [m for m in model[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert not any(m.training for m in norms)
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    assert model[0].training
    assert model[1].training
    before = {k: v.clone() for k, v in model[0].state_dict().items()}
    sum(tap.sum() for tap in model[0](torch.randn(2, 3, 32, 32))).backward()
    assert all(torch.equal(before[k], v) for k, v in model[0].state_dict().items())
    assert all(p.grad is not None for p in model[0].parameters() if p.requires_grad)


def test_efficientnets_batch_norm_is_found_too():
    """timm gives EfficientNet batch norms of its own class with the activation inside."""
    backbone = build_backbone(LITE0, 16, "random").train()
    norms = [m for m in backbone.modules() if hasattr(m, "running_mean")]
    assert len(norms) == len(backbone.batch_norms()) > 40
    assert not any(m.training for m in norms)


def test_tap_at_gives_the_deepest_tap_of_that_stride():
    backbone = build_backbone("resnet18", 16, "random")
    assert [backbone.tap_at(s) for s in (2, 4, 8, 16, 32)] == [0, 1, 2, 4, 4]
    with pytest.raises(ValueError, match=r"No tap of stride 1 .*\(2, 4, 8, 16, 16\)"):
        backbone.tap_at(1)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path, suffix):
    state = build_backbone("resnet18", 32, "random").net.state_dict()
    path = tmp_path / f"mine{suffix}"
    state = {k: v.contiguous() for k, v in state.items()}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    backbone = build_backbone("resnet18", 16, path)
    assert backbone.weights == path.name
    assert all(torch.equal(v, state[k]) for k, v in backbone.net.state_dict().items())


def test_weights_of_a_whole_classifier_fit(tmp_path):
    state = timm.create_model("resnet18", pretrained=False, num_classes=7).state_dict()
    torch.save(state, tmp_path / "classifier.pth")
    backbone = build_backbone("resnet18", 32, tmp_path / "classifier.pth")
    assert all(torch.equal(v, state[k]) for k, v in backbone.net.state_dict().items())


def test_missing_damaged_and_foreign_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        build_backbone("resnet18", 32, tmp_path / "nowhere.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ValueError, match=f"{name} cannot be read as weights"):
            build_backbone("resnet18", 32, tmp_path / name)
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    for name, weights, problem in (
        ("foreign", efficientnet_lite0_state(), "tensors missing"),
        ("cut", {k: v for k, v in state.items() if k != "conv1.weight"}, r"1 of \d+ tensors .*conv1.weight"),
        ("grey", state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, "1 of another shape .*conv1.weight"),
    ):
        torch.save(weights, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=rf"{name}\.pth do not fit resnet18: .*{problem}"):
            build_backbone("resnet18", 32, tmp_path / f"{name}.pth")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"state_dict": {}}])
def test_files_that_hold_something_else_are_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        build_backbone("resnet18", 32, tmp_path / "other.pth")


class Malicious:
    def __reduce__(self):
        return print, ("code from a weights file",)


def test_no_code_in_a_weights_file_runs(tmp_path, capsys):
    torch.save({"conv1.weight": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth"):
        build_backbone("resnet18", 32, tmp_path / "evil.pth")
    assert "code" not in capsys.readouterr().out


def test_unknown_names_and_strides_are_named():
    with pytest.raises(ValueError, match=r"No backbone 'resnet_18'.*near"):
        build_backbone("resnet_18")
    with pytest.raises(ValueError, match="7"):
        build_backbone("resnet18", 7, "random")


@pytest.mark.parametrize(("name", "first_trained"), [("resnet18", "layer1"), ("convnext_atto", "stages_1")])
def test_layers_up_to_the_frozen_tap_are_not_trained(name, first_trained):
    whole = build_backbone(name, 32, RANDOM)
    frozen = build_backbone(name, 32, RANDOM, frozen_taps=1)
    names = [n for n, p in frozen.net.named_parameters() if p.requires_grad]
    assert names[0].startswith(first_trained)
    expected = [n for n, p in whole.net.named_parameters() if p.requires_grad]
    assert names == expected[expected.index(names[0]) :]
