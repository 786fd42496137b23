"""AuxSegNet's stages in numbers, and its affinities as pictures: which cells a cell listens to.

`affinity_page` is one piece of HTML that works wherever a notebook is shown, also in the exported file: a
click on the photo paints the rows of that cell.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image

from wsss_lib.artifacts import Artifact
from wsss_lib.methods import auxsegnet
from wsss_lib.refinement.masks import Background
from wsss_lib.report import plots
from wsss_lib.resampling import to_pixels
from wsss_lib.study.study import Study

METHOD = auxsegnet.RECIPE.name
ONE_SCALE = {
    f"{METHOD}.test_scales": [1.0],
    f"{METHOD}.test_flip": False,
}  # as in the ablations
NAMES = {"seg": "A_seg", "sal": "A_sal", "cross": "A, cross-task"}


def masks_of_val(study: Study, crf: bool = True) -> list[Artifact]:
    """Masks of val of AuxSegNet at the preset's test scales, with its CRF or without, one artifact a seed."""
    name = study.section(METHOD).crf if crf else None
    return [
        study.masks(auxsegnet.segment(study, study.classifier(METHOD, seed)), Background("included"), name)
        for seed in study.seeds
    ]


def row_masks(study: Study, overrides: Mapping[str, Any], crf: bool = False) -> list[Artifact]:
    """Masks of val of a row of `auxsegnet.ABLATION`, one scale, one artifact a seed."""
    return masks_of_val(study.varied({**ONE_SCALE, **overrides}), crf)


def by_stage(study: Study) -> pd.DataFrame:
    """A row for each seed and stage: what its labels are like, how its affinity does, what its masks score.

    Columns labels mIoU, labels precision, labels recall (on the scored training photos), class (%),
    background (%), ignored (%), saliency IoU, entropy ratio, val mIoU, val precision, val recall (one scale,
    no CRF).
    """
    study, rows = study.varied(ONE_SCALE), {}
    for seed in study.seeds:
        for stage in range(study.section(METHOD).rounds + 1):
            network = study.classifier(METHOD, seed, stage)
            masks = study.masks(auxsegnet.segment(study, network), Background("included"), None)
            labels = auxsegnet.label_scores(study, auxsegnet.labels(study, seed, stage))
            scores = study.scores([masks]).query("`class` == 'all'").set_index("metric")["value"]
            salient = auxsegnet.saliency_iou(study, auxsegnet.saliency(study, seed, stage)).mean()
            history = network.read("history.csv", pd.read_csv)
            rows[seed, stage] = {
                **{name if "(" in name else f"labels {name}": value for name, value in labels.items()},
                "saliency IoU": 100 * salient,
                "entropy ratio": history["entropy ratio"].iloc[-1],
                **{f"val {name}": scores[name] for name in ("mIoU", "precision", "recall")},
            }
    return pd.DataFrame(rows).T.rename_axis(["seed", "stage"])


def affinity_grid(study: Study, network: Artifact, id: str, points: Sequence[tuple[float, float]]) -> Figure:
    """A row for each point: the training photo with a cross on it, then the row of its cell in each affinity.

    points: (y, x) as shares of the photo's sides, in [0, 1). Each map is divided by its maximum.
    """
    image = study.data.train.image(id)
    affinities = auxsegnet.photo_affinities(study, network, id)
    figure, axes = plt.subplots(
        len(points), 1 + len(affinities), squeeze=False, layout="constrained",
        figsize=(2.2 * (1 + len(affinities)), 2.2 * len(points) * image.shape[0] / image.shape[1] + 0.5),
    )  # fmt: skip
    for axis, name in zip(axes[0], ["photo", *(NAMES[name] for name in affinities)], strict=True):
        axis.set_title(name, fontsize=9)
    for line, (y, x) in zip(axes, points, strict=True):
        place = y * image.shape[0], x * image.shape[1]
        line[0].imshow(image)
        for axis, affinity in zip(line[1:], affinities.values(), strict=True):
            axis.imshow(plots.overlay_map(image, cell_row(affinity, image.shape[:2], place)))
        for axis in line:
            axis.plot(place[1], place[0], "+", color="#00c0ff", markersize=9, markeredgewidth=2)
            axis.set_axis_off()
    plots.heat_bar(figure, axes, len(points), "affinity / its maximum in the row")
    return figure


def cell_row(affinity: np.ndarray, size: tuple[int, int], place: tuple[float, float]) -> np.ndarray:
    """Row of the cell at pixel (y, x) as a map (H, W), its maximum 1; affinity: (h, w, h, w)."""
    row = affinity[int(place[0]) // auxsegnet.STRIDE, int(place[1]) // auxsegnet.STRIDE]
    return to_pixels((row / row.max()).astype(np.float32), auxsegnet.STRIDE, size)


def affinity_page(study: Study, network: Artifact, id: str) -> HTML:
    """The training photo to be clicked on, and beside it the rows of that cell in each affinity.

    Rows are kept to 1/255 of their maximum, about a megabyte for a photo of 160 x 192.
    """
    image = study.data.train.image(id)
    affinities = auxsegnet.photo_affinities(study, network, id)
    height, width = next(iter(affinities.values())).shape[:2]
    rows = {NAMES[name]: encoded_rows(affinity) for name, affinity in affinities.items()}
    return HTML(
        PAGE.substitute(
            id=f"affinity-{network.key}-{id}", photo=_png(image), rows=json.dumps(rows), h=height, w=width,
            height=image.shape[0], width=image.shape[1], stride=auxsegnet.STRIDE,
        )
    )  # fmt: skip


def encoded_rows(affinity: np.ndarray) -> str:
    """(h, w, h, w) -> base64 of h w rows of h w bytes, each row from 0 to its maximum at 255."""
    rows = affinity.reshape(affinity.shape[0] * affinity.shape[1], -1)
    levels = (255 * rows / rows.max(1, keepdims=True)).round().astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


def _png(image: np.ndarray) -> str:
    with io.BytesIO() as file:
        Image.fromarray(image).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


PAGE = Template("""<div id="$id" style="display: flex; gap: 10px; flex-wrap: wrap"></div>
<script>
(() => {
  const root = document.getElementById("$id"), rows = $rows, photo = new Image();
  const titles = ["click the photo", ...Object.keys(rows)];
  const bytes = Object.values(rows).map(text => Uint8Array.from(atob(text), c => c.charCodeAt(0)));
  const canvases = titles.map(title => {
    const box = root.appendChild(document.createElement("div")), canvas = document.createElement("canvas");
    box.append(title, document.createElement("br"), canvas);
    [canvas.width, canvas.height] = [$width, $height];
    return canvas;
  });
  const heat = value => [Math.min(255, 2 * value), Math.max(0, 2 * value - 255), 40 + (255 - value) / 4];
  const show = (x, y) => {
    const cell = Math.floor(y / $stride) * $w + Math.floor(x / $stride);
    canvases.forEach((canvas, i) => {
      const draw = canvas.getContext("2d");
      draw.drawImage(photo, 0, 0);
      if (i) {
        const small = new OffscreenCanvas($w, $h), n = $w * $h;
        const row = bytes[i - 1].subarray(cell * n, (cell + 1) * n), pixels = new ImageData($w, $h);
        row.forEach((value, j) => pixels.data.set([...heat(value), 165], 4 * j));
        small.getContext("2d").putImageData(pixels, 0, 0);
        draw.drawImage(small, 0, 0, $w * $stride, $h * $stride);
      }
      draw.strokeStyle = "#00c0ff";
      draw.lineWidth = 2;
      draw.strokeRect(x - 4, y - 4, 8, 8);
    });
  };
  canvases[0].style.cursor = "crosshair";
  canvases[0].onclick = event => show(event.offsetX, event.offsetY);
  photo.onload = () => show($width / 2, $height / 2);
  photo.src = "data:image/png;base64,$photo";
})();
</script>""")
