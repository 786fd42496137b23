"""What is learned from, and what is scored."""

import numpy as np
import pytest

from wsss_lib.data.splits import Splits


def test_without_an_augmented_list_train_is_learned_from_and_scored(tiny_voc):
    data = Splits(tiny_voc, None, "masks", None)
    assert data.train.split == "train"
    assert data.scored("train") == data.train.ids
    assert data.scored("val") == ["b1", "b2"]
    assert not data.has_parts


def test_with_an_augmented_list_only_official_photos_are_scored(tiny_voc):
    lists = tiny_voc / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").write_text((lists / "train.txt").read_text())
    (lists / "train.txt").write_text("a2\nb2\n")
    data = Splits(tiny_voc, ["cat", "dog"], "masks", None)
    assert data.train.ids == ["a1", "a2", "a3", "b2"]
    assert data.scored("train") == ["a2", "b2"]
    assert data.dataset("train") is data.train
    assert data.classes == ("background", "cat", "dog")


def test_a_limit_keeps_the_scored_photos_first(tiny_voc):
    lists = tiny_voc / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").write_text((lists / "train.txt").read_text())
    (lists / "train.txt").write_text("b2\na2\n")
    kept = [Splits(tiny_voc, None, "masks", limit).train.ids for limit in (1, 2, 3, 4)]
    assert kept == [["a2"], ["a2", "b2"], ["a2", "b2", "a1"], ["a2", "b2", "a1", "a3"]]
    assert Splits(tiny_voc, None, "masks", 3).scored("train") == ["a2", "b2"]
    assert Splits(tiny_voc, None, "masks", None).train.ids == ["a1", "a2", "a3", "b1", "b2"]


def test_the_list_test_is_read_without_labels_and_masks(tiny_voc):
    (tiny_voc / "ImageSets" / "Segmentation" / "test.txt").write_text("a3\nb1\n")
    for id in ("a3", "b1"):
        (tiny_voc / "SegmentationClass" / f"{id}.png").unlink()
    (tiny_voc / "ImageSets" / "Segmentation" / "train.txt").write_text("a1\na2\n")
    data = Splits(tiny_voc, None, "masks", None)
    assert data.train.ids == ["a1", "a2"]
    assert data.dataset("test").ids == ["a3", "b1"]
    assert np.isnan(data.test.labels).all()
    with pytest.raises(ValueError, match=r"No photo of test has a mask .* server"):
        data.scored("test")


def test_an_unknown_split_is_refused(tiny_voc):
    with pytest.raises(ValueError, match="'train', 'val' or 'test'"):
        Splits(tiny_voc, None, "masks", None).scored("tset")
