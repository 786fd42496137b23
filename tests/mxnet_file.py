"""Writes MXNet .params files in its three layouts, for tests of their reader."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DTYPES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4}


def array_bytes(array: np.ndarray, layout: str) -> bytes:
    if layout == "legacy":
        head = struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
    else:
        head = {"V1": struct.pack("<I", 0xF993FAC8), "V2": struct.pack("<Ii", 0xF993FAC9, 0)}[layout]
        head += struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}q", *array.shape)
    # saved on a GPU (2), number 0
    return head + struct.pack("<iii", 2, 0, DTYPES[array.dtype.name]) + array.tobytes()


def write_params(path: Path, arrays: Mapping[str, np.ndarray], layout: str = "legacy") -> Path:
    content = struct.pack("<QQQ", 0x112, 0, len(arrays))
    content += b"".join(array_bytes(array, layout) for array in arrays.values())
    content += struct.pack("<Q", len(arrays))
    content += b"".join(struct.pack("<Q", len(name)) + name for name in map(str.encode, arrays))
    path.write_bytes(content)
    return path
