"""What is learned from, and what is scored."""

import numpy as np
import pytest
from conftest import keep_apart, save_mask

from wsss_lib.data import splits
from wsss_lib.data.splits import Splits


def test_without_an_augmented_list_train_is_learned_from_and_scored(tiny_voc):
    data = Splits(keep_apart(tiny_voc), None, "masks", None)
    assert data.train.split == "train"
    assert data.scored("train") == data.train.ids
    assert data.scored("val") == ["b1", "b2"]
    assert not data.has_parts


def test_with_an_augmented_list_only_official_photos_are_scored(tiny_voc):
    lists = tiny_voc / "ImageSets" / "Segmentation"
    (lists / "val.txt").unlink()
    (lists / "train_aug.txt").write_text((lists / "train.txt").read_text())
    (lists / "train.txt").write_text("a2\nb2\n")
    data = Splits(tiny_voc, ["cat", "dog"], "masks", None)
    assert data.train.ids == ["a1", "a2", "a3", "b2"]
    assert data.scored("train") == ["a2", "b2"]
    assert data.dataset("train") is data.train
    assert data.classes == ("background", "cat", "dog")


def test_a_limit_keeps_the_scored_photos_first(tiny_voc):
    lists = tiny_voc / "ImageSets" / "Segmentation"
    (lists / "val.txt").unlink()
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
    with pytest.raises(ValueError, match="'train', 'tune', 'val' or 'test'"):
        Splits(keep_apart(tiny_voc), None, "masks", None).scored("tset")


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        ({"train": "a1 a2", "val": "a2 b1"}, "train.txt and val.txt .* share 1 photos, the first is 'a2'"),
        ({"train": "a1", "val": "b1", "test": "a1"}, "train.txt and test.txt .* 'a1'"),
        ({"train": "a1", "val": "b1", "train_aug": "a1 b1"}, "train_aug.txt and val.txt .* 'b1'"),
        ({"train": "a1", "val": "b1", "tune": "a1 a3"}, "train.txt and tune.txt .* 'a1'"),
        ({"train": "a1", "val": "b1 b2", "tune": "b2"}, "tune.txt and val.txt .* 'b2'"),
    ],
)
def test_lists_of_different_uses_that_share_photos_are_refused(tiny_voc, lists, named):
    write_lists(tiny_voc, lists)
    with pytest.raises(ValueError, match=rf"{named}; take them off one of the two.*\.$"):
        Splits(tiny_voc, None, "masks", None)


def write_lists(root, lists):
    for name, ids in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids.split()))


def test_lists_of_one_use_may_share_photos(tiny_voc):
    write_lists(tiny_voc, {"train": "a1", "train_aug": "a1 a2", "val": "b1 b2", "test": "b2"})
    data = Splits(tiny_voc, None, "masks", None)
    assert (data.train.ids, data.val.ids, data.test.ids) == (["a1", "a2"], ["b1", "b2"], ["b2"])


def test_masks_that_mostly_contradict_the_labels_are_not_scored(tiny_voc):
    """VOC's ids: cat 8, dog 12, person 15; one slip is the table's, two are a mistake of ids."""
    (tiny_voc / "labels.csv").write_text("id,bird,cat,dog,person\na1,0,1,0,0\na2,1,0,0,1\na3,0,0,1,0\n")
    write_lists(tiny_voc, {"train": "a1 a2 a3"})
    (tiny_voc / "ImageSets" / "Segmentation" / "val.txt").unlink()

    def data():
        return Splits(tiny_voc, ["bird", "cat", "dog", "person"], tiny_voc / "labels.csv", None)

    assert data().scored("train") == ["a1", "a2", "a3"]  # a2's cat is denied: one of three
    save_mask(np.full((24, 32), 3, np.uint8), tiny_voc / "SegmentationClass" / "a3.png")
    with pytest.raises(
        ValueError,
        match=r"the mask of a\d shows .*, its label says .* \(in 2 of 3 photos with a mask\); .* 3 bird, ",
    ):
        data().scored("train")


def test_photos_without_an_object_are_scored_where_others_have_masks(tiny_voc):
    (tiny_voc / "classes.txt").write_text("cat\ndog\n")
    (tiny_voc / "labels.csv").write_text("id,cat,dog\na1,1,0\na2,0,0\na3,0,1\n")
    (tiny_voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    write_lists(tiny_voc, {"train": "a1 a2 a3"})
    for mask in (tiny_voc / "SegmentationClass").iterdir():
        mask.unlink()
    with pytest.raises(ValueError, match="No photo of train has a mask"):  # zeros alone are no truth
        Splits(tiny_voc, None, tiny_voc / "labels.csv", None).scored("train")
    save_mask(np.full((24, 32), 1, np.uint8), tiny_voc / "SegmentationClass" / "a1.png")
    data = Splits(tiny_voc, None, tiny_voc / "labels.csv", None)
    assert data.scored("train") == ["a1", "a2"]
    np.testing.assert_array_equal(data.train.mask("a2"), np.zeros((24, 32)))


def test_the_list_test_has_the_classes_of_the_table(tiny_voc, tmp_path):
    """Without classes.txt the table alone says what is what; test reads no labels, but the same classes."""
    own = tiny_voc.rename(tmp_path / "pets")
    for file in (own / "Annotations").iterdir():
        file.unlink()
    (own / "labels.csv").write_text("id,paw,fin\na1,1,0\na2,0,1\n")
    write_lists(own, {"train": "a1 a2", "test": "b1"})
    (own / "ImageSets" / "Segmentation" / "val.txt").unlink()
    for mask in (own / "SegmentationClass").iterdir():
        mask.unlink()
    save_mask(np.full((24, 32), 2, np.uint8), own / "SegmentationClass" / "b1.png")
    data = Splits(own, ["fin"], own / "labels.csv", None)
    assert data.test.classes == ("fin",)
    np.testing.assert_array_equal(data.test.mask("b1"), np.full((24, 32), 1))


def test_photos_to_tune_on_are_drawn_from_train_aug_and_not_learned_from(tmp_path, tiny_voc, monkeypatch):
    monkeypatch.setattr(splits, "TUNED", 1)
    lists = keep_apart(tiny_voc) / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").write_text("a1\na2\na3\n")
    (lists / "train.txt").write_text("a1\n")
    data = splits.Splits(tiny_voc, None, "masks", None)
    (chosen,) = data.tune.ids
    assert chosen in {"a2", "a3"}  # not of train, on which training maps are scored
    assert set(data.train.ids) == {"a1", "a2", "a3"} - {chosen}
    (lists / "tune.txt").write_text("a3\n")
    (lists / "train_aug.txt").write_text("a1\na2\n")
    named = splits.Splits(tiny_voc, None, "masks", None)
    assert (named.tune.ids, set(named.train.ids)) == (["a3"], {"a1", "a2"})


def test_without_photos_to_tune_on_there_is_no_split_to_ask_for(tiny_voc):
    data = splits.Splits(keep_apart(tiny_voc), None, "masks", None)
    assert data.tune is None
    with pytest.raises(ValueError, match=r"has no photos to choose settings on; .*tune\.txt"):
        data.dataset("tune")
