"""Shared fixtures: a tiny folder in VOC layout; and the order of the files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# id: classes in its mask (VOC ids: aeroplane 1, cat 8, dog 12, person 15)
TINY_VOC = {"a1": (8,), "a2": (8, 15), "a3": (12,), "b1": (1,), "b2": (15, 12)}

LONGEST = ("test_notebooks.py", "test_interruption.py", "test_study.py", "test_distributed.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest first, so that the two processes of `make test` end together."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def digests_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the kernels they start, remember no digests in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSSS_DIGESTS", str(tmp_path_factory.mktemp("digests")))
        yield


@pytest.fixture
def tiny_voc(tmp_path: Path) -> Path:
    """Five photos, 24 high and 32 wide, with palette masks, void borders, XML; lists train (all) and val."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for id, classes in TINY_VOC.items():
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(root / "JPEGImages" / f"{id}.jpg")
        mask = np.zeros((24, 32), np.uint8)
        for i, c in enumerate(classes):
            mask[4:20, 2 + 14 * i : 14 + 14 * i] = 255
            mask[5:19, 3 + 14 * i : 13 + 14 * i] = c
        save_mask(mask, root / "SegmentationClass" / f"{id}.png")
        names = {1: "aeroplane", 8: "cat", 12: "dog", 15: "person"}
        objects = "".join(
            f"<object><name>{names[c]}</name><part><name>head</name></part></object>" for c in classes
        )
        (root / "Annotations" / f"{id}.xml").write_text(
            f"<annotation><folder>VOC2012</folder>{objects}</annotation>"
        )
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("".join(f"{id}\n" for id in TINY_VOC))
    (lists / "val.txt").write_text("b1\nb2\n")
    return root


def keep_apart(root: Path) -> Path:
    """Take the photos of val off the list train, so that `Splits` accepts both."""
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a1\na2\na3\n")
    return root


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Save an (H, W) uint8 index mask as a palette PNG whose colours are unlike its ids."""
    image = Image.fromarray(mask, mode="P")
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)
