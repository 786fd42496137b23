"""One page of pictures from what stages made: `gallery(study, ids, {"photo": PHOTO, "CAM": cams, ...})`."""

from collections.abc import Mapping, Sequence
from enum import Enum

import numpy as np
from matplotlib.figure import Figure

from wsss_lib.artifacts import Artifact
from wsss_lib.data.masks import load_mask
from wsss_lib.data.voc import VOCDataset
from wsss_lib.metrics import mean_iou
from wsss_lib.refinement.masks import Background, best_classes
from wsss_lib.report.pictures import Cell, Heat, Painted, Picture, page
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study


class Source(Enum):
    """What a data set itself has to show."""

    PHOTO = "photo"
    TRUTH = "truth"


PHOTO, TRUTH = Source.PHOTO, Source.TRUTH
Column = Source | Artifact | Mapping[str, ScoreMaps | np.ndarray]
"""What fills a column: the photo or its true mask, a stage's artifact, or something for each photo at hand:
score maps, a mask (H, W) of class ids or a picture (H, W, 3)."""


def gallery(
    study: Study,
    ids: Sequence[str],
    columns: Mapping[str, Column],
    *,
    of: str = "first",
    iou: bool = False,
    notes: Mapping[str, str] | None = None,
    width: float = 2.2,
) -> Figure:
    """A row for each photo, a column for each title; each photo once, however often `ids` names it.

    Score maps become heat maps of one class, which is named on them and the same along a row, each divided by
    its maximum on the photo; masks, marginals and probabilities (by their argmax) get the classes' colours;
    boundaries are dark on white. Where the photo has a true mask, its objects are outlined.

    Args:
        ids: photos of one split, that of the artifacts.
        of: class of the heat maps: "first" of the photo's labels; "strongest", whose map in the first column
            of score maps has the greatest mean; "each", a row for each of the photo's classes; or a name.
        iou: write on each mask the photo's own mean IoU.
        notes: id -> what stands at the left of its row, in place of the id.
        width: of a picture, in inches.

    Raises:
        ValueError: no photos or columns, columns of several splits, an artifact that cannot be drawn, or a
            class that the study does not have.

    Example:
        >>> columns = {"photo": PHOTO, "CAM": cams, "pseudo label": labels, "truth": TRUTH}
        >>> study.results.figure(gallery(study, ids, columns), "01_cam")
    """
    data, names = _dataset(study, ids, columns), study.data.classes
    rows, said = [], []
    for id in dict.fromkeys(ids):
        image, truth = data.image(id), data.mask(id) if data.has_mask(id) else None
        found = {title: _content(column, id, image, truth) for title, column in columns.items()}
        maps = [content for content in found.values() if isinstance(content, ScoreMaps)]
        for place, c in enumerate(_classes(of, data, names, id, maps)):
            cells = [_cell(content, image, truth, c, names, iou) for content in found.values()]
            # the photo of a further class is not drawn again, nor are its masks
            rows.append([cell if isinstance(cell, Heat) or not place else None for cell in cells])
            said.append("" if place else (notes or {}).get(id, id))
    return page(rows, list(columns), names, said, width)


def _dataset(study: Study, ids: Sequence[str], columns: Mapping[str, Column]) -> VOCDataset:
    """The split of the artifacts; where there are none, the first that has the photos."""
    if not len(ids) or not columns:
        raise ValueError(f"{len(ids)} photos and {len(columns)} columns make no page; give some of both.")
    splits = {column.origin.split for column in columns.values() if isinstance(column, Artifact)}
    if len(splits) > 1:
        raise ValueError(f"The columns show photos of {sorted(splits)}; give artifacts of one split.")
    if splits:
        return study.data.dataset(splits.pop())
    return study.data.train if set(ids) <= set(study.data.train.ids) else study.data.val


def _content(
    column: Column, id: str, image: np.ndarray, truth: np.ndarray | None
) -> ScoreMaps | np.ndarray | None:
    """What a column has for a photo: score maps, a mask (H, W), a picture (H, W, 3), or nothing."""
    if column is PHOTO:
        return image
    if column is TRUTH:
        return truth
    if isinstance(column, Mapping):
        return column.get(id)
    if column.kind == "masks":
        return load_mask(column.file(f"{id}.png"))
    if column.kind not in ("score maps", "boundaries", "marginals", "probabilities"):
        raise ValueError(f"{column.title!r} holds no pictures ({column.kind}); give maps or masks.")
    maps = ScoreMaps.load(column.file(f"{id}.npz"))
    if column.kind == "score maps":
        return maps
    if column.kind == "boundaries":
        return 1 - maps.full()[0][..., None].repeat(3, -1)
    return best_classes(maps, Background("included"))


def _classes(
    of: str, data: VOCDataset, names: Sequence[str], id: str, maps: Sequence[ScoreMaps]
) -> list[int]:
    """Class ids whose maps are shown, one a row; a single 0 where there are no maps to choose for."""
    if not maps:
        return [0]
    if of in names[1:]:
        return [names.index(of)]
    present = (np.flatnonzero(data.label(id)) + 1).tolist()
    if of == "each":
        return present
    if of == "first":
        return present[:1]
    if of == "strongest":
        means = {c: m.mean() for c, m in zip(maps[0].classes.tolist(), maps[0].full(), strict=True) if c}
        return [max(means, key=means.__getitem__)]
    raise ValueError(
        f"of={of!r} names no class; choose first, strongest, each or one of {', '.join(names[1:])}."
    )


def _cell(
    content: ScoreMaps | np.ndarray | None,
    image: np.ndarray,
    truth: np.ndarray | None,
    c: int,
    names: Sequence[str],
    iou: bool,
) -> Cell | None:
    if content is None:
        return None
    if isinstance(content, ScoreMaps):
        found = content.full()[content.classes == c]
        response = found[0] if len(found) else np.zeros(image.shape[:2])
        return Heat(
            image, response / max(response.max(), 1e-5), names[c], None if truth is None else truth == c
        )
    if content.ndim == 3:
        return Picture(content)
    scored = iou and truth is not None and content is not truth
    return Painted(
        image, content, truth, f"IoU {100 * mean_iou(content, truth, len(names)):.0f} %" if scored else ""
    )
