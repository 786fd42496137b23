"""Masks for VOC's evaluation server."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from wsss_lib.data.layout import list_path
from wsss_lib.data.masks import save_mask, voc_palette
from wsss_lib.data.splits import Splits
from wsss_lib.data.submission import write_submission

TEST = ("a3", "b1", "b2")


@pytest.fixture
def data(tiny_voc):
    list_path(tiny_voc, "test").write_text("".join(f"{id}\n" for id in TEST))
    for id in TEST:
        (tiny_voc / "SegmentationClass" / f"{id}.png").unlink()
    list_path(tiny_voc, "train").write_text("a1\na2\n")
    return Splits(tiny_voc, None, "xml", None).test


@pytest.fixture
def masks(tmp_path):
    """Folder and content of a mask for each photo; the folder holds a further file, as a stage's does."""
    rng = np.random.default_rng(0)
    content = {id: rng.integers(0, 21, (24, 32)).astype(np.uint8) for id in TEST}
    folder = tmp_path / "masks"
    folder.mkdir()
    for id, mask in content.items():
        save_mask(mask, folder / f"{id}.png")
    (folder / "provenance.json").write_text("{}")
    return folder, content


def test_the_archive_holds_each_mask_where_the_server_looks(data, masks, tmp_path):
    folder, content = masks
    archive = write_submission(data, folder, tmp_path / "new" / "submission.tar.gz")
    with tarfile.open(archive, "r:gz") as tar:
        names = {f"results/VOC2012/Segmentation/comp6_test_cls/{id}.png": id for id in TEST}
        assert sorted(tar.getnames()) == sorted(names)
        for name, id in names.items():
            with Image.open(tar.extractfile(name)) as image:
                assert image.mode == "P"
                assert image.getpalette() == voc_palette()
                np.testing.assert_array_equal(np.asarray(image), content[id])
    archive = write_submission(data, folder, tmp_path / "five.tgz", "comp5")
    with tarfile.open(archive) as tar:
        assert "results/VOC2012/Segmentation/comp5_test_cls/a3.png" in tar.getnames()


def test_an_incomplete_submission_is_refused_even_under_a_limit(data, masks, tmp_path):
    folder, _ = masks
    (folder / "b2.png").unlink()
    limited = Splits(data.root, None, "xml", 2).test
    assert limited.ids == ["a3", "b1"]
    for dataset in (data, limited):
        with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 3 masks, the first is b2\.png"):
            write_submission(dataset, folder, tmp_path / "s.tar.gz")
    assert not (tmp_path / "s.tar.gz").exists()


def test_wrong_masks_are_named(data, masks, tmp_path):
    folder, content = masks

    def expect(message):
        with pytest.raises(ValueError, match=message):
            write_submission(data, folder, tmp_path / "s.tar.gz")

    Image.fromarray(content["b1"]).save(folder / "b1.png")
    expect(r"b1\.png is of mode L")
    save_mask(content["b1"][:-1], folder / "b1.png")
    expect(r"b1\.png is \(23, 32\) .*photo is \(24, 32\)")
    save_mask(np.full((24, 32), 255, np.uint8), folder / "b1.png")
    expect(r"b1\.png holds id 255")


def test_only_the_list_test_with_all_classes_can_be_scored(data, masks, tmp_path):
    folder, _ = masks
    val = Splits(data.root, None, "xml", None).val
    some = Splits(data.root, ["cat"], "xml", None).test
    for dataset, message in ((val, "list val with 20"), (some, "list test with 1")):
        with pytest.raises(ValueError, match=message):
            write_submission(dataset, folder, tmp_path / "s.tar.gz")
    with pytest.raises(ValueError, match="'comp5' or 'comp6'"):
        write_submission(data, folder, tmp_path / "s.tar.gz", "comp7")
