"""Kinds of wrong pixels against a search over all pairs of pixels."""

import handmade
import numpy as np
import pandas as pd
import pytest
from conftest import keep_apart
from scipy.stats import ttest_1samp

from wsss_lib.data.masks import load_mask
from wsss_lib.report.mistakes import (
    clearest,
    failure_kinds,
    failure_shares,
    mistake_notes,
    mistakes_by_photo,
    mistakes_compared,
    near_border,
    shown_mistakes,
)
from wsss_lib.study.study import Study

KINDS = ("missing parts", "wrong class", "wrong border", "noise in the background")


def by_search(prediction, truth, width) -> dict[str, set]:
    found = {kind: set() for kind in KINDS}
    places = list(np.ndindex(truth.shape))
    for i, j in places:
        if truth[i, j] == 255 or prediction[i, j] == truth[i, j]:
            continue
        others = [np.hypot(i - k, j - m) for k, m in places if truth[k, m] != truth[i, j]]
        if min(others, default=np.inf) < width:
            found["wrong border"].add((i, j))
        elif truth[i, j] == 0:
            found["noise in the background"].add((i, j))
        else:
            found["wrong class" if prediction[i, j] else "missing parts"].add((i, j))
    return found


@pytest.mark.parametrize("width", [0.5, 1.5, 3.1])
def test_kinds_are_those_of_a_search(width):
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 255], (3, 4)).repeat(5, 0).repeat(4, 1)
        prediction = rng.integers(0, 3, truth.shape)
        near = near_border(truth, width / np.hypot(*truth.shape))
        expected = by_search(prediction, truth, width)
        kinds = failure_kinds(prediction, truth, near)
        found = {kind: {(int(i), int(j)) for i, j in np.argwhere(pixels)} for kind, pixels in kinds.items()}
        assert found == expected
        counts = truth != 255
        shares = failure_shares(prediction, truth, near)
        assert shares == {kind: 100 * len(places) / counts.sum() for kind, places in expected.items()}
        assert sum(shares.values()) == pytest.approx(100 * (prediction != truth)[counts].mean())


def test_masks_without_a_border():
    empty, full = np.zeros((3, 4), int), np.ones((3, 4), int)
    nowhere = near_border(full)
    assert not nowhere.any()
    assert failure_shares(full, empty, nowhere)["noise in the background"] == 100
    assert failure_shares(empty, full, nowhere)["missing parts"] == 100
    assert failure_shares(2 * full, full, nowhere)["wrong class"] == 100
    assert set(failure_shares(full, full, nowhere).values()) == {0}
    assert set(failure_shares(full, np.full((3, 4), 255), nowhere).values()) == {0}


def test_the_clearest_photo_is_that_whose_other_failures_are_small():
    shares = pd.DataFrame(
        {"missing parts": [9.0, 5.0, 0.0], "wrong class": 0.0, "wrong border": [8.0, 1.0, 3.0]},
        index=["both", "parts", "border"],
    )
    assert clearest(shares, each=1) == [("missing parts", "parts"), ("wrong border", "border")]
    only = {"wrong border": ["both", "parts"]}
    assert clearest(shares, each=3, only=only) == [
        ("missing parts", "parts"),
        ("missing parts", "both"),
        ("wrong border", "both"),
        ("wrong border", "parts"),
    ]


@pytest.fixture
def study(tiny_voc, tmp_path) -> Study:
    return Study(
        "smoke", "tiny", keep_apart(tiny_voc), cache=tmp_path / "cache", results=tmp_path / "results"
    )


def random_masks(study, folder, seed: int):
    rng = np.random.default_rng(seed)
    found = {id: rng.choice([0, 8, 15], (24, 32)).astype(np.uint8) for id in study.data.scored("train")}
    return handmade.masks(folder, found)


def test_every_photo_has_its_shares_for_each_key(study, tmp_path):
    made = {("CAM", name): random_masks(study, tmp_path / name, seed) for seed, name in enumerate(("a", "b"))}
    table = mistakes_by_photo(study, made)
    ids = study.data.scored("train")
    assert table.index.tolist() == [("CAM", name, id) for id in ids for name in ("a", "b")]
    assert tuple(table.columns) == KINDS
    for stage, name, id in table.index:
        truth = study.data.train.mask(id)
        mask = load_mask(made[stage, name].file(f"{id}.png"))
        assert table.loc[(stage, name, id)].to_dict() == failure_shares(mask, truth, near_border(truth))
    flat = mistakes_by_photo(study, {"a": made["CAM", "a"]})
    assert flat.index.tolist() == [("a", id) for id in ids]


def test_kinds_are_compared_with_the_baseline_photo_by_photo():
    rng = np.random.default_rng(0)
    keys = [("CAM", "plain"), ("CAM", "second"), ("CAM", "first"), ("label", "plain"), ("label", "first")]
    index = pd.MultiIndex.from_tuples(
        [(*key, f"p{i}") for i in range(12) for key in keys], names=["masks of", "method", "photo"]
    )
    wrong = pd.DataFrame(rng.uniform(0, 20, (len(index), 2)), index, ["missing parts", "wrong class"])
    table = mistakes_compared(wrong, "plain")
    order = [("CAM", "second"), ("CAM", "first"), ("label", "first")]  # as they came
    assert [tuple(row) for row in table[["masks of", "method"]].drop_duplicates().to_numpy()] == order
    for _, row in table.iterrows():
        plain, own = (
            wrong.sort_index().xs((row["masks of"], name))[row["kind"]] for name in ("plain", row["method"])
        )
        assert row["plain's"] == pytest.approx(plain.mean())
        assert row["its own"] == pytest.approx(own.mean())
        assert row["difference"] == pytest.approx((own - plain).mean())
        low, high = ttest_1samp(own - plain, 0).confidence_interval()
        assert [row["95% low"], row["95% high"]] == pytest.approx([low, high])


def test_shown_mistakes_have_the_colour_of_what_is_missing_or_taken_for(study, tmp_path):
    made = random_masks(study, tmp_path / "masks", 3)
    chosen = [("missing parts", "a2"), ("noise in the background", "a2"), ("wrong border", "a1")]
    found = shown_mistakes(study, made, chosen)
    assert list(found) == ["a2", "a1"]
    for id, shown in found.items():
        truth, mask = study.data.train.mask(id), load_mask(made.file(f"{id}.png"))
        kinds = failure_kinds(mask, truth, near_border(truth))
        wanted = [kind for kind, photo in chosen if photo == id]
        for place in np.ndindex(truth.shape):
            wrong = any(kinds[kind][place] for kind in wanted)
            assert shown[place] == ((truth[place] or mask[place]) if wrong else 0)


def test_notes_have_a_line_for_each_kind_a_photo_is_chosen_for():
    shares = pd.DataFrame({"missing parts": [12.4], "wrong class": [7.6]}, index=["a"])
    assert mistake_notes([("missing parts", "a"), ("wrong class", "a")], shares) == {
        "a": "missing parts:\n12 %\nwrong class:\n8 %"
    }
