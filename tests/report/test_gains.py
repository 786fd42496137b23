"""Gains of single photos against the IoU of each, and their growth against scipy's t test."""

import handmade
import numpy as np
import pandas as pd
import pytest
from conftest import keep_apart
from scipy.stats import ttest_1samp

from wsss_lib.report import gains
from wsss_lib.report.selection import photo_iou
from wsss_lib.study.study import Study


def test_gains_are_differences_of_the_photos_iou(tiny_voc, tmp_path):
    study = Study(
        "smoke", "tiny", keep_apart(tiny_voc), cache=tmp_path / "cache", results=tmp_path / "results"
    )
    rng, ids = np.random.default_rng(0), study.data.scored("train")
    made = {
        stage: {
            title: handmade.masks(
                tmp_path / f"{stage}-{title}",
                {id: rng.choice([0, 8], (24, 32)).astype(np.uint8) for id in ids},
            )
            for title in ("plain", "ours")
        }
        for stage in ("CAM", "walk")
    }
    iou = gains.iou_of_stages(study, made)
    assert iou.index.tolist() == ids
    assert iou.columns.tolist() == [(stage, title) for stage in made for title in made[stage]]
    gain = gains.gains_by_stage(iou, "ours", "plain")
    for stage, of in made.items():
        expected = photo_iou(study, of["ours"]) - photo_iou(study, of["plain"])
        assert gain[stage].to_numpy() == pytest.approx(expected.to_numpy())


@pytest.mark.parametrize(
    ("shift", "said"), [(3.0, "grows"), (-3.0, "shrinks"), (0.0, "is not shown to change")]
)
def test_growth_is_told_with_its_interval(shift, said):
    rng = np.random.default_rng(0)
    before = rng.normal(size=60)
    after = before + rng.normal(0, 1, 60)
    after += shift - (after - before).mean()
    text = gains.of_growth(pd.DataFrame({"CAM": before, "walk": after}))
    low, high = ttest_1samp(after - before, 0).confidence_interval()
    assert f"it {said} ({shift:+.2f} [{low:.2f}, {high:.2f}]" in text.replace("-0.00 [", "+0.00 [")
    assert f"{before.mean():.2f} points at CAM, {after.mean():.2f} at walk" in text
    assert "60 photos" in text
    assert "one seed" in text
