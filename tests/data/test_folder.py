"""A folder of photos and a table of labels as a dataset."""

import os
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from wsss_lib.data import folder, layout
from wsss_lib.data.folder import from_folder
from wsss_lib.data.layout import drawn, read_lists
from wsss_lib.data.splits import Splits
from wsss_lib.data.voc import VOCDataset


@pytest.fixture
def own(tmp_path):
    """Four photos of which three are labelled, by names with and without ending."""
    (tmp_path / "photos").mkdir()
    for name in ("beach.jpg", "my cat.PNG", "zoo.v2.jpeg", "attic.jpg"):
        Image.new("RGB", (20, 10), (len(name), 0, 0)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").touch()
    (tmp_path / "labels.csv").write_text("id,cat,palm tree\nzoo.v2,1,0\nbeach.jpg,0,1\nmy cat.PNG,1,0\n")
    return tmp_path


def lay_out(own, root="mine"):
    return from_folder(own / "photos", own / "labels.csv", own / root)


def test_labelled_photos_are_learned_from_and_the_others_segmented(own):
    root = lay_out(own)
    data = Splits(root, None, root / "labels.csv", None)
    assert data.classes == ("background", "cat", "palm tree")
    assert data.train.ids == ["zoo.v2", "beach", "my cat"]
    np.testing.assert_array_equal(data.train.labels, [[1, 0], [0, 1], [1, 0]])
    assert data.test.ids == ["attic"]
    assert data.train.image("my cat").shape == (10, 20, 3)
    assert data.train.image("my cat")[0, 0, 0] == len("my cat.PNG")
    assert not data.train.has_mask("beach")


def test_laying_out_again_follows_the_photos_and_labels(own):
    before = VOCDataset(lay_out(own), "train", labels=own / "mine" / "labels.csv").fingerprint()
    after = VOCDataset(lay_out(own), "train", labels=own / "mine" / "labels.csv").fingerprint()
    assert after == before
    table = own / "labels.csv"
    table.write_text(table.read_text() + "attic,1,1\n")
    (own / "photos" / "beach.jpg").rename(own / "photos" / "beach.png")
    table.write_text(table.read_text().replace("beach.jpg", "beach"))
    root = lay_out(own)
    data = VOCDataset(root, "train", labels=root / "labels.csv")
    assert data.ids == ["zoo.v2", "beach", "my cat", "attic"]
    assert data.image_path("beach").name == "beach.png"
    assert data.image("beach").shape == (10, 20, 3)
    assert not (root / "ImageSets" / "Segmentation" / "test.txt").exists()  # none is left over


def test_masks_of_ones_own_are_scored(own):
    root = lay_out(own)
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.full((10, 20), 2, np.uint8)).save(root / "SegmentationClass" / "beach.png")
    assert Splits(root, None, root / "labels.csv", None).scored("train") == ["beach"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,cat\nbeach,1\nlost.jpg,1\n", r"names 1 photos .* the first is 'lost'"),
        ("name,cat\nbeach,1\n", r"needs one column 'id'"),
        ("id\nbeach\n", r"a column for each class"),
        ("id,cat\n", r"a row for each photo"),
        ("id,cat\nbeach,1\nbeach.jpg,0\n", r"more than one row for 'beach'"),
        ("", r"is no label file"),
        ("id,cat\nbeach,2\n", r"other than 0 and 1 in the row of 'beach'"),
        ("id,cat,background\nbeach,1,0\n", r"names 'background' as a class"),
        ("id,cat,cat\nbeach,1,0\n", r"names class 'cat' more than once"),
        ("id,cat,\nbeach,1,0\n", r"has no name for class 2"),
    ],
)
def test_a_wrong_table_is_named(own, text, message):
    (own / "labels.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"labels\.csv.*{message}"):
        lay_out(own)
    assert not (own / "mine").exists()


def test_missing_folder_and_table(own):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        from_folder(own / "nowhere", own / "labels.csv", own / "mine")
    with pytest.raises(FileNotFoundError, match=r"no label table .*lost\.csv"):
        from_folder(own / "photos", own / "lost.csv", own / "mine")


def test_two_photos_of_one_name_are_refused(own):
    Image.new("RGB", (20, 10)).save(own / "photos" / "beach.png")
    with pytest.raises(ValueError, match=r"beach\.jpg and beach\.png, two photos of one id; rename"):
        lay_out(own)


def test_another_dataset_is_not_written_over(own, tiny_voc):
    linked = own / "linked"  # as COCO's layout
    (linked / "JPEGImages").mkdir(parents=True)
    (linked / "JPEGImages" / "a.jpg").symlink_to(tiny_voc / "JPEGImages" / "a1.jpg")
    for root in (tiny_voc, linked):
        before = sorted(root.rglob("*"))
        with pytest.raises(ValueError, match="photos of another dataset"):
            lay_out(own, root)
        assert sorted(root.rglob("*")) == before


# --- nothing of the user's is lost -----------------------------------------------------------------------


def tree(root):
    """Every file, link and folder below `root`: where a link leads, or what a file holds."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("links", [True, False])
def test_photos_that_lie_in_the_root_already_stay_as_they_are(own, links):
    """As DVC and git-annex have them: JPEGImages full of links, the table beside it."""
    root = own / "mine"
    (root / "JPEGImages").mkdir(parents=True)
    for photo in (own / "photos").iterdir():
        if links:
            (root / "JPEGImages" / photo.name).symlink_to(photo)
        else:
            shutil.copy(photo, root / "JPEGImages")
    shutil.copy(own / "labels.csv", root)
    before = tree(root)
    for _ in range(2):
        assert from_folder(root / "JPEGImages", root / "labels.csv", root) == root
        after = tree(root)
        assert before.items() <= after.items()
        assert VOCDataset(root, "train", labels=root / "labels.csv").ids == ["zoo.v2", "beach", "my cat"]
        assert Splits(root, None, root / "labels.csv", None).test.ids == ["attic"]


def test_a_root_that_is_the_folder_of_photos(own):
    before = tree(own / "photos")
    root = from_folder(own / "photos", own / "labels.csv", own / "photos")
    assert before.items() <= tree(root).items()
    assert VOCDataset(root, "train", labels=root / "labels.csv").image("beach").shape == (10, 20, 3)


def test_a_link_that_leads_nowhere_is_found_before_anything_is_written(own):
    root = lay_out(own)
    before = tree(root)
    (own / "photos" / "beach.jpg").unlink()
    (own / "photos" / "beach.jpg").symlink_to(own / "unplugged" / "beach.jpg")
    with pytest.raises(FileNotFoundError, match=r"holds 1 links that lead nowhere, the first is beach\.jpg"):
        lay_out(own)
    assert tree(root) == before
    with pytest.raises(FileNotFoundError, match="lead nowhere"):
        lay_out(own, "fresh")
    assert not (own / "fresh").exists()


def test_a_link_to_a_link_leads_to_its_name(own):
    """git-annex moves what its links lead to; the links stay."""
    store = own / "store"
    store.mkdir()
    for photo in list((own / "photos").glob("*.*g")):
        photo.rename(store / photo.name)
        photo.symlink_to(store / photo.name)
    root = lay_out(own)
    store.rename(own / "moved")
    for photo in (own / "photos").glob("*.*g"):
        photo.unlink()
        photo.symlink_to(own / "moved" / photo.name)
    assert VOCDataset(root, "train", labels=root / "labels.csv").image("beach").shape == (10, 20, 3)


def test_a_call_that_was_killed_anywhere_is_finished_by_the_next(own, monkeypatch):
    """Stopped before its first change, its second, ... of a first and of a second layout."""

    def interrupt(patch, after):
        """Let `after` changes pass and raise at the next one."""
        passed = []
        for module, name in (
            (layout, "save_atomically"), (os, "symlink"), (os, "unlink")
        ):  # fmt: skip
            real = getattr(module, name)

            def counted(*arguments, real=real, **options):
                passed.append(None)
                if len(passed) > after:
                    raise KeyboardInterrupt
                return real(*arguments, **options)

            patch.setattr(module, name, counted)

    def changed(root):
        table = own / "labels.csv"
        table.write_text("id,cat,palm tree\nzoo.v2,1,0\nmy cat.PNG,1,0\nattic,1,1\n")
        (own / "photos" / "beach.jpg").unlink(missing_ok=True)

    original, photo = (own / "labels.csv").read_text(), (own / "photos" / "beach.jpg").read_bytes()
    stops = 0
    for step in range(2):
        for after in range(40):
            (own / "labels.csv").write_text(original)
            (own / "photos" / "beach.jpg").write_bytes(photo)
            shutil.rmtree(own / "mine", ignore_errors=True)
            if step:
                lay_out(own)
                changed(own / "mine")
            try:
                with monkeypatch.context() as patch:
                    interrupt(patch, after)
                    lay_out(own)
                break
            except KeyboardInterrupt:
                stops += 1
            if (own / "mine" / layout.UNFINISHED).exists():
                with pytest.raises(ValueError, match="laid out by half; call from_folder again"):
                    VOCDataset(own / "mine", "train", labels=own / "mine" / "labels.csv")
            lay_out(own)
            expected = from_folder(own / "photos", own / "labels.csv", own / "expected")
            assert tree(own / "mine") == tree(expected)
            shutil.rmtree(expected)
    assert stops > 12


def test_where_links_are_refused_photos_are_copied_and_followed(own, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    root = lay_out(own)
    photos = root / "JPEGImages"
    assert sorted(path.name for path in photos.iterdir()) == [
        "attic.jpg", "beach.jpg", "my cat.PNG", "zoo.v2.jpeg"
    ]  # fmt: skip
    assert not any(path.is_symlink() for path in photos.iterdir())
    before = tree(root)
    lay_out(own)
    assert tree(root) == before
    Image.new("RGB", (40, 30)).save(own / "photos" / "beach.jpg")  # another photo under the same name
    os.utime(own / "photos" / "beach.jpg", (10**9, 10**9))
    (own / "photos" / "attic.jpg").unlink()
    lay_out(own)
    assert VOCDataset(root, "train", labels=root / "labels.csv").image("beach").shape == (30, 40, 3)
    edited = bytearray((own / "photos" / "beach.jpg").read_bytes())
    edited[-1] ^= 1
    (own / "photos" / "beach.jpg").write_bytes(edited)  # in place, with the same size and date
    os.utime(own / "photos" / "beach.jpg", (10**9, 10**9))
    lay_out(own)
    assert (photos / "beach.jpg").read_bytes() == edited
    assert not (photos / "attic.jpg").exists()
    Image.new("RGB", (50, 30)).save(photos / "beach.jpg")  # the user's own edit of the copy
    before = tree(root)
    with pytest.raises(ValueError, match=r"another dataset, the first is JPEGImages/beach\.jpg"):
        lay_out(own)
    assert tree(root) == before


def test_files_of_the_user_are_never_replaced(own):
    for name in ("classes.txt", "labels.csv"):
        root = own / name.partition(".")[0]
        root.mkdir()
        (root / name).write_text("my own notes")
        with pytest.raises(ValueError, match=rf"{name} is your own or was edited, .* would replace it"):
            lay_out(own, root)
        assert tree(root) == {name: b"my own notes"}
    root = lay_out(own)
    edited = (root / "labels.csv").read_text().replace("beach,0", "beach,1")
    (root / "labels.csv").write_text(edited)
    with pytest.raises(ValueError, match=r"labels\.csv is your own or was edited"):
        lay_out(own)
    from_folder(own / "photos", root / "labels.csv", root)  # the edited table itself is fine
    assert (root / "labels.csv").read_text() == edited


def test_links_of_the_user_beside_ours_are_neither_removed_nor_used_silently(own):
    root = lay_out(own)
    extra = root / "JPEGImages" / "extra.jpg"
    extra.symlink_to(own / "photos" / "beach.jpg")
    with pytest.raises(ValueError, match=r"another dataset, the first is JPEGImages/extra\.jpg"):
        lay_out(own)
    assert extra.is_symlink()
    extra.unlink()
    ours = root / "JPEGImages" / "beach.jpg"
    ours.unlink()
    ours.symlink_to(own / "photos" / "attic.jpg")  # turned elsewhere by hand
    with pytest.raises(ValueError, match="another dataset"):
        lay_out(own)
    assert ours.samefile(own / "photos" / "attic.jpg")


def test_a_new_column_does_not_change_what_masks_mean(own):
    root = lay_out(own)
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.full((10, 20), 2, np.uint8)).save(root / "SegmentationClass" / "beach.png")
    table = own / "labels.csv"
    before = table.read_text().splitlines()
    table.write_text("\n".join(["id,bird,cat,palm tree", *(r.replace(",", ",0,", 1) for r in before[1:])]))
    unchanged = tree(root)
    with pytest.raises(ValueError, match=r"\(bird, cat, palm tree\) give other ids .* \(cat, palm tree\)"):
        lay_out(own)
    assert tree(root) == unchanged
    table.write_text("\n".join([before[0] + ",bird", *(f"{row},0" for row in before[1:])]))
    lay_out(own)
    data = VOCDataset(root, "train", labels=root / "labels.csv")
    assert data.classes == ("cat", "palm tree", "bird")
    assert data.mask("beach")[0, 0] == 2


def test_vocs_own_masks_do_not_get_the_tables_ids(tiny_voc):
    """In place, on VOC's folder: its masks hold 8 for cat, whatever a table of cats and dogs says."""
    (tiny_voc / "labels.csv").write_text("id,cat,dog\na1,1,0\na2,1,0\na3,0,1\n")
    before = tree(tiny_voc)
    with pytest.raises(ValueError, match=r"\(cat, dog\) give other ids than VOC \(aeroplane, "):
        from_folder(tiny_voc / "JPEGImages", tiny_voc / "labels.csv", tiny_voc)
    assert tree(tiny_voc) == before


def test_dot_files_are_no_photos(own):
    (own / "photos" / "._beach.jpg").write_bytes(b"resource fork")
    root = lay_out(own)
    assert not (root / "JPEGImages" / "._beach.jpg").exists()
    assert Splits(root, None, root / "labels.csv", None).test.ids == ["attic"]


# --- lists -----------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    """Twenty labelled photos, p00 to p19, and one without a row."""
    (tmp_path / "photos").mkdir()
    ids = [f"p{i:02}" for i in range(20)]
    for id in [*ids, "new"]:
        Image.new("RGB", (20, 10)).save(tmp_path / "photos" / f"{id}.jpg")
    rows = "".join(f"{id},{i % 2}\n" for i, id in enumerate(ids))
    (tmp_path / "labels.csv").write_text("id,cat\n" + rows)
    return tmp_path


def lists_of(root):
    return {split: set(ids) for split, ids in read_lists(root).items()}


def test_lists_that_the_user_wrote_are_kept_and_not_trained_on(many):
    """A list val of labelled photos, written after the first call; train as edited by hand, or ours."""
    root = lay_out(many)
    every = {f"p{i:02}" for i in range(20)}
    assert lists_of(root) == {"train": every, "test": {"new"}}
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("p04\np05\n")
    with pytest.raises(ValueError, match=r"train\.txt and val\.txt .* share 2 photos, the first is 'p04'"):
        Splits(root, None, root / "labels.csv", None)
    lay_out(many)  # takes them off its own list
    assert lists_of(root) == {"train": every - {"p04", "p05"}, "val": {"p04", "p05"}, "test": {"new"}}
    train = root / "ImageSets" / "Segmentation" / "train.txt"
    train.write_text(train.read_text().replace("p07\n", ""))
    with pytest.warns(UserWarning, match=r"train\.txt is your own and is kept: 1 labelled photos .* 'p07'\."):
        lay_out(many)
    assert lists_of(root)["train"] == every - {"p04", "p05", "p07"}
    data = Splits(root, None, root / "labels.csv", None)
    assert not set(data.train.ids) & set(data.val.ids)


def test_lists_of_the_user_that_cannot_be_right_are_refused_before_anything_is_written(many):
    lists = many / "mine" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for text, other, message in (
        ("p01\nlost\n", "", r"val\.txt names 1 photos that are not there, the first is 'lost'"),
        ("p01\n", "p01\np02\n", r"train\.txt and val\.txt .* share 1 photos"),
        ("".join(f"p{i:02}\n" for i in range(20)), "", "leave no labelled photo to learn from"),
    ):
        (lists / "val.txt").write_text(text)
        (lists / "train.txt").write_text(other)
        if not other:
            (lists / "train.txt").unlink()
        before = tree(many / "mine")
        with pytest.raises(ValueError, match=message):
            lay_out(many)
        assert tree(many / "mine") == before


def test_val_and_tune_are_drawn_apart_by_hash(many):
    from_folder(many / "photos", many / "labels.csv", many / "a", val=6, tune=4)
    lists = lists_of(many / "a")
    assert {split: len(ids) for split, ids in lists.items()} == {"train": 10, "tune": 4, "val": 6, "test": 1}
    assert len(set.union(*lists.values())) == 21
    every = [f"p{i:02}" for i in range(20)]
    assert lists["val"] == set(drawn(every, 6)) == set(drawn(reversed(every), 6))
    assert lists["val"] | lists["tune"] == set(drawn(every, 10))
    text = (many / "labels.csv").read_text().splitlines()
    (many / "labels.csv").write_text("\n".join([text[0], *reversed(text[1:])]))
    from_folder(many / "photos", many / "labels.csv", many / "b", val=6, tune=4)
    assert lists_of(many / "b") == lists
    lay_out(many, "a")  # asked for nothing: the draw stays
    assert lists_of(many / "a") == lists
    from_folder(many / "photos", many / "labels.csv", many / "a", val=0)
    assert lists_of(many / "a").keys() == {"train", "tune", "test"}
    for count in (21, -1):
        with pytest.raises(ValueError, match=rf"val is {count}; give a number from 0 to 20"):
            from_folder(many / "photos", many / "labels.csv", many / "a", val=count)


def test_photos_with_masks_are_drawn_first(many):
    root = many / "mine"
    (root / "SegmentationClass").mkdir(parents=True)
    masked = {"p03", "p09", "p12"}
    (many / "labels.csv").write_text("id,cat\n" + "".join(f"p{i:02},1\n" for i in range(20)))
    for id in masked:
        Image.fromarray(np.ones((10, 20), np.uint8)).save(root / "SegmentationClass" / f"{id}.png")
    from_folder(many / "photos", many / "labels.csv", root, val=2)
    assert lists_of(root)["val"] < masked
    from_folder(many / "photos", many / "labels.csv", root, val=5)
    assert lists_of(root)["val"] > masked
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lay_out(many)
    assert lists_of(root)["val"] > masked


def test_photos_without_an_object_are_drawn_in_their_proportion(many):
    """Of twenty photos the even ones show nothing (see `many`); eight of the odd ones have masks."""
    root = many / "mine"
    (root / "SegmentationClass").mkdir(parents=True)
    masked = {f"p{i:02}" for i in range(1, 17, 2)}
    for id in masked:
        Image.fromarray(np.ones((10, 20), np.uint8)).save(root / "SegmentationClass" / f"{id}.png")
    empty = {f"p{i:02}" for i in range(0, 20, 2)}
    for val, with_mask in ((1, 1), (4, 2), (9, 4), (18, 8), (20, None)):
        if val == 20:
            with pytest.raises(ValueError, match="no labelled photo"):
                from_folder(many / "photos", many / "labels.csv", root, val=val)
            continue
        from_folder(many / "photos", many / "labels.csv", root, val=val)
        drawn_for_val = lists_of(root)["val"]
        assert (len(drawn_for_val & masked), len(drawn_for_val & empty)) == (with_mask, val - with_mask)


def test_a_photo_that_gets_a_row_leaves_the_list_test(many):
    lay_out(many)
    with open(many / "labels.csv", "a") as table:
        table.write("new,1\n")
    root = lay_out(many)
    assert "test" not in lists_of(root)
    assert "new" in lists_of(root)["train"]
    assert folder.RECORD in {path.name for path in root.iterdir()}
