"""Label tables as people write them."""

import numpy as np
import pytest

from wsss_lib.data.labels import check_class_names, is_background, read_label_table


def read(tmp_path, text, photos=("a", "b", "c")):
    (tmp_path / "labels.csv").write_text(text)
    return read_label_table(tmp_path / "labels.csv", photos)


def test_ids_and_columns_keep_their_order_and_lose_endings_and_blanks(tmp_path):
    table = read(tmp_path, "\ufeffdog, id ,my cat\n1,b.JPG,0\n\n0, a.png ,1.0\n1,c,0\n")
    assert table.index.tolist() == ["b", "a", "c"]
    assert table.columns.tolist() == ["dog", "my cat"]
    np.testing.assert_array_equal(table, [[1, 0], [0, 1], [1, 0]])


def test_an_id_that_ends_like_a_photo_is_kept_if_it_is_one(tmp_path):
    table = read(tmp_path, "id,cat\na.png,1\nb.png.jpg,0\nc.2,1\nd.png,0\n", {"a.png", "b.png", "c.2", "d"})
    assert table.index.tolist() == ["a.png", "b.png", "c.2", "d"]


def test_ids_are_text(tmp_path):
    assert read(tmp_path, "id,cat\n007,1\nNA,0\n1e3,1\n").index.tolist() == ["007", "NA", "1e3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,cat\na,1,0\n", "Expected 2 fields"),  # pandas would take a for the index and 1 for the id
        ("id,cat,dog\na,1\n", "other than 0 and 1 in the row of 'a'"),
        ("id,cat\na,\n", "other than 0 and 1 in the row of 'a'"),
        ("id;cat\na;1\n", "it needs one column 'id'"),
        ("id,id,cat\na,a,1\n", "it needs one column 'id'"),
        ("id,cat\na,1\na.jpg,0\n", "more than one row for 'a'"),
        ("id,,cat\na,0,1\n", "has no name for class 1"),
        ("id,cat,cat \na,0,1\n", "names class 'cat' more than once"),
        ("id,BackGround,cat\na,0,1\n", "names 'BackGround' as a class, but background is always id 0"),
    ],
)
def test_what_would_be_misread_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*labels\.csv .*{message}[^\n]*\.$"):
        read(tmp_path, text)


def test_an_npz_is_read_alike(tmp_path):
    np.savez(tmp_path / "labels.npz", ids=["b", "a"], classes=["dog", "cat"], labels=[[1, 0], [0, 0]])
    table = read_label_table(tmp_path / "labels.npz", {"a", "b"})
    assert table.index.tolist() == ["b", "a"]
    np.testing.assert_array_equal(table, [[1, 0], [0, 0]])
    np.savez(tmp_path / "labels.npz", ids=["b"], classes=["dog", "dog"], labels=[[1, 0]])
    with pytest.raises(ValueError, match="names class 'dog' more than once"):
        read_label_table(tmp_path / "labels.npz", {"b"})


def test_spellings_of_background():
    for name in ("background", "Background", "_background_", "__background__", "BG", "bg", "back-ground"):
        assert is_background(name)
    for name in ("bag", "background person", "big", ""):
        assert not is_background(name)


def test_as_many_classes_as_a_mask_has_ids():
    assert len(check_class_names((f"c{i}" for i in range(254)), "here")) == 254
    with pytest.raises(ValueError, match="here names 255 classes, but a mask has ids for 254"):
        check_class_names((f"c{i}" for i in range(255)), "here")
