"""MXNet's parameter files: all three layouts, and no damaged one passes."""

import struct

import numpy as np
import pytest
from mxnet_file import write_params

from wsss_lib.models.mxnet_params import read_params


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "arg:conv_weight": rng.normal(size=(4, 3, 2, 1)).astype("float32"),
        "arg:bn_gamma": rng.normal(size=5),
        "aux:bn_moving_mean": rng.normal(size=(2, 3)).astype("float16"),
        "arg:table": rng.integers(0, 256, (3, 2), "uint8"),
        "arg:ünique": rng.integers(-9, 9, (1,), "int32"),
        "arg:none": np.zeros((0, 2), "float32"),
    }


@pytest.mark.parametrize("layout", ["legacy", "V1", "V2"])
def test_every_layout_gives_names_types_and_numbers(tmp_path, layout):
    expected = arrays()
    found = read_params(write_params(tmp_path / "a.params", expected, layout))
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(found[name].numpy(), array)


@pytest.mark.parametrize("layout", ["legacy", "V1", "V2"])
def test_every_cut_and_every_extra_byte_is_noticed(tmp_path, layout):
    whole = write_params(tmp_path / "whole.params", arrays(), layout).read_bytes()
    cut = tmp_path / "cut.params"
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="it ends after"):
            read_params(cut)
    cut.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="1 more bytes"):
        read_params(cut)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, struct.pack("<Q", 0x113), "does not start as an MXNet parameter file"),
        (16, struct.pack("<Q", 2**63), "it holds numbers of the unknown type"),
        (28, struct.pack("<i", 1), "sparse"),
        (36, struct.pack("<q", -4), "it ends after"),
        (36, struct.pack("<q", 2**40), "it ends after"),
        (36 + 32 + 8, struct.pack("<i", 77), "unknown type 77"),
    ],
)
def test_damaged_headers_are_named(tmp_path, place, value, message):
    path = write_params(tmp_path / "a.params", arrays(), "V2")
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_params(path)
