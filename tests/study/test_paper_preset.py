"""Preset paper is too large to run here: its networks are built on the meta device."""

import pytest
import torch
import yaml

from wsss_lib import segmentation
from wsss_lib.config import PRESETS, Segmentation
from wsss_lib.crf import CRF_PARAMETERS
from wsss_lib.methods import base
from wsss_lib.models.largefov import LargeFOV
from wsss_lib.models.trainable import START
from wsss_lib.refinement import affinitynet, irn
from wsss_lib.study.study import Study
from wsss_lib.training import build_optimiser

UNTRAINED = {f"{section}backbone.weights": "random" for section in ("", "irn.", "segmentation.")}
SMALL = {
    "scenes.train": 2, "scenes.val": 1, "scenes.tune": 0, "scenes.image_size": [64, 64], "processes": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return Study("paper", cache=tmp_path_factory.mktemp("cache"), overrides=UNTRAINED | SMALL)


def rates(model: torch.nn.Module, optimiser) -> dict[str, tuple[float, float]]:
    """Name -> learning rate, weight decay."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in build_optimiser(model, optimiser).param_groups
        for p in group["params"]
    }


def test_the_classifier_is_psas(study):
    config, classes = study.config.classifier, len(study.data.classes) - 1
    with torch.device("meta"):
        model = base.build(study, study.recipe("cam"), study.section("cam"), 0).train()
        crop = torch.empty(2, 3, config.crop, config.crop)
        assert model.class_maps(crop).shape == (2, classes, 56, 56)
        loss = model.training_step({"image": crop, "label": torch.empty(2, classes)}, START, "train")["loss"]
    assert loss.shape == ()
    assert model.neck[-1].p == 0.5
    learnt = rates(model, config.optimiser)
    assert learnt["classifier.weight"] == (0.1, 5e-4)
    assert learnt["backbone.net.b3.conv_branch2a.weight"] == (0.01, 5e-4)
    assert not any("conv1a" in name or ".b2" in name or "bn" in name for name in learnt)


def test_affinity_net_is_psas(study):
    config = study.config.affinity
    with torch.device("meta"):
        model = affinitynet.build(study, 0).train()
        assert model(torch.empty(1, 3, config.crop, config.crop)).shape == (1, 34, 56, 56)
    assert [(r.in_channels, r.out_channels) for r in model.reductions] == [
        (512, 64),
        (1024, 128),
        (4096, 256),
    ]
    assert rates(model, config.optimiser)["join.weight"] == (0.1, 5e-4)


def test_irn_stands_on_resnet_50_at_stride_16(study):
    with torch.device("meta"):
        model = irn.build(study, 0).train()
        boundary, displacement = model(torch.empty(1, 3, study.config.irn.crop, study.config.irn.crop))
    assert model.backbone.channels == (64, 256, 512, 1024, 2048)
    assert model.backbone.strides == (2, 4, 8, 16, 16)
    assert boundary.shape == (1, 1, 128, 128)
    assert displacement.shape == (1, 2, 128, 128)


def test_the_segmentation_network_is_deeplab_v2(study):
    config, classes = study.config.segmentation, len(study.data.classes)
    with torch.device("meta"):
        model = segmentation.build(study, 0).train()
        crop = torch.empty(2, 3, config.crop, config.crop)
        assert model.class_maps(crop).shape == (2, classes, 41, 41)
    assert model.fusion == "max of logits"
    assert (
        sum("conv" in name or "downsample.0" in name for name, _ in model.backbone.named_parameters()) == 104
    )
    learnt = rates(model, config.optimiser)
    assert learnt["pyramid.0.weight"] == pytest.approx((2.5e-3, 5e-4))
    assert learnt["pyramid.3.bias"] == pytest.approx((5e-3, 0))
    assert learnt["backbone.net.conv1.weight"] == (2.5e-4, 5e-4)
    # about 20,000 steps on train_aug
    assert 10_582 // config.batch * config.epochs == pytest.approx(20_000, rel=0.02)


def test_initial_weights_are_named_beside_the_scores(study):
    assert study.origin(study.recipe("cam"), 0).weights == ("resnet38, random",)
    network = "deeplab_v2: resnet101.tv_in1k, random (trained on ImageNet)"
    edges = "IRN: resnet50.tv_in1k, random (trained on ImageNet)"
    assert study.weights_of("deeplab_v2", study.config.segmentation.backbone) == (network,)
    assert study.weights_of("IRN", study.config.irn.backbone) == (edges,)
    assert study.weights_of("light", None) == ()
    paper = Study("paper")
    path = "resnet38, ilsvrc-cls_rna-a1_cls1000_ep-0001.params"  # no folder of this machine
    assert paper.origin(paper.recipe("cam"), 0).weights == (path,)


def test_missing_weights_are_asked_for_before_anything_runs(tmp_path):
    study = Study(
        "paper", cache=tmp_path, overrides=SMALL | {"backbone.weights": str(tmp_path / "a1.params")}
    )
    with pytest.raises(
        FileNotFoundError, match=r"a1\.params; supply ilsvrc.* \(md5 ff21f45d6bf03284100dcbec571edfad"
    ):
        study.response_maps("cam", 0)


def test_the_other_network_in_the_comments_is_valid():
    """The block for LargeFOV replaces the one for DeepLab-v2."""
    lines = (PRESETS / "paper.yaml").read_text().splitlines()
    start = lines.index("# segmentation:")
    block = [line[2:] for line in lines[start:] if line.startswith("# ")]
    config = Segmentation.model_validate(yaml.safe_load("\n".join(block))["segmentation"])
    assert config.network == "largefov"
    assert config.crf in CRF_PARAMETERS
    study = Study(
        "paper", overrides={"segmentation": config.model_dump(), "segmentation.backbone.weights": "random"}
    )
    with torch.device("meta"):
        study.__dict__["data"] = type("Data", (), {"classes": range(21)})
        model = segmentation.build(study, 0).train()
        assert isinstance(model, LargeFOV)
        assert model.class_maps(torch.empty(2, 3, config.crop, config.crop)).shape == (2, 21, 56, 56)
    learnt = rates(model, config.optimiser)
    assert not any("conv1a" in name for name in learnt)
    assert any(".b2." in name for name in learnt)
    assert learnt["head.0.weight"] == (0.01, 5e-4)
