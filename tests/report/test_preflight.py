"""What a preset asks of photos and machine."""

import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from wsss_lib.crf import CRF_PARAMETERS
from wsss_lib.data.folder import from_folder
from wsss_lib.methods import load_config
from wsss_lib.refinement.masks import marginals
from wsss_lib.report import preflight as module
from wsss_lib.report.preflight import bytes_a_pixel, lines, preflight, seconds, widest


@pytest.fixture
def own(tmp_path):
    """Twelve photos of 20 x 10, six cats and six dogs, laid out."""
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.new("RGB", (20, 10), (i, 0, 0)).save(tmp_path / "photos" / f"p{i:02}.jpg")
    rows = "".join(f"p{i:02},{1 - i % 2},{i % 2}\n" for i in range(12))
    (tmp_path / "labels.csv").write_text("id,cat,dog\n" + rows)
    return from_folder(tmp_path / "photos", tmp_path / "labels.csv", tmp_path / "mine")


def test_a_folder_in_order_has_notes_alone_and_one_of_time_and_room(own, tmp_path):
    table = preflight(own, preset="quick", cache=tmp_path / "cache")
    assert set(table["severity"]) == {"note"}
    [needs] = table.loc[table["subject"] == "needs", "sentence"]
    # 12 photos of 4 epochs of 160 x 160 and of 128 x 128 pixels are 2 million, 3 s each; the photos are tiny
    assert "takes about 1 min on two cores without a GPU, and 0.1 GB of" in needs
    [needs] = preflight(own, preset="paper", cache=tmp_path).query("subject == 'needs'")["sentence"]
    assert "on two cores with tf_efficientnet_lite0, and far more with its resnet38" in needs


def test_seconds_are_those_that_were_measured():
    """results/voc2012-subset/standard/tables/01_times.csv: seven stages, 3,139 photos of 74,945 pixels."""
    measured = 1051.9 + 474.8 + 308.1 + 248.1 + 769.2 + 257.2 + 159.1
    config = load_config("standard", {"maps.scales": [0.5, 1.0], "maps.flip": True})  # as it was then
    assert seconds(config, 3139, 3139 * 74945) == pytest.approx(measured, rel=0.1)
    assert seconds(config, 3139, 0) == pytest.approx(1051.9 + 769.2, rel=0.1)


def test_the_widest_photo_is_the_one_that_every_crf_takes():
    rng = np.random.default_rng(0)
    for preset in ("smoke", "quick", "standard", "paper"):
        config = load_config(preset)
        side = widest(config)
        crfs = (config.affinity.crf, config.irn.crf, config.refine_crf, config.segmentation.crf)
        for width, fits in ((side, True), (side + 1, False)):
            photo = np.zeros((1, width, 3), np.uint8)
            scores = rng.random((2, 1, width), np.float32)
            refused = 0
            for crf in crfs:
                try:
                    marginals(photo, scores, crf, config.crf_scale)
                except ValueError:
                    refused += 1
            assert (refused == 0) == fits, preset
    assert widest(load_config("smoke")) == 3600 * CRF_PARAMETERS["deeplab_v2"].gaussian_sxy / 5


def test_a_photo_too_wide_for_the_preset_is_an_error_before_anything_is_trained(own, tmp_path):
    Image.new("RGB", (3000, 2)).save(own / "JPEGImages" / "wide.png")
    assert not (preflight(own, preset="quick", cache=tmp_path)["severity"] == "error").any()
    for preset, overrides in (("standard", None), ("quick", {"crf_scale": 1.5})):
        [error] = preflight(own, None, None, preset, overrides).query("severity == 'error'")["sentence"]
        assert error.startswith("1 photos (the first: wide.png) have a side of more than 2400 pixels")


def test_memory_is_that_of_the_largest_pass(own, monkeypatch):
    assert bytes_a_pixel(load_config("quick")) == 4 * (250 + 15 + 12)
    assert bytes_a_pixel(load_config("quick", {"maps.scales": [1.0]})) == int(1.5**2 * (250 + 15 + 24))
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 199 * 4 * 277}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    [error] = preflight(own).query("severity == 'error'")["sentence"]
    assert error.startswith(
        "12 photos (the first: p00.jpg) have more than 199 pixels, for which this machine"
    )


def test_a_full_disk_is_an_error(own, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10**7))
    [error] = preflight(own, cache=tmp_path / "not" / "yet").query("severity == 'error'")["sentence"]
    assert error == (
        f"{tmp_path} has room for 0.0 GB, but preset quick writes about 0.1 there; make room or choose "
        "another cache."
    )


def test_a_wrong_preset_or_folder_is_a_sentence(own, tmp_path):
    with pytest.raises(FileNotFoundError, match="No preset 'qick'"):
        preflight(own, preset="qick")
    [[severity, _, sentence]] = preflight(tmp_path / "nowhere").to_numpy().tolist()
    assert severity == "error"
    assert "holds no JPEGImages" in sentence


def test_lines_fit_a_terminal(own, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    shown = "\n".join(lines(preflight(own))).splitlines()
    assert max(map(len, shown)) <= 70 or any(" " not in line.strip() for line in shown if len(line) > 70)
    assert shown[0] == "note     classes      2 classes, by their ids: 1 cat, 2 dog."


def test_durations():
    assert [module._duration(s) for s in (3, 89 * 60, 91 * 60)] == ["1 min", "89 min", "1.5 h"]
