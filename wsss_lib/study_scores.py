"""How a study scores its artifacts: tables of scores, sweeps and times."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from wsss_lib.atomic import save_atomically
from wsss_lib.cache import Artifact
from wsss_lib.metrics import summary
from wsss_lib.models.deeplab import SEGMENTATION_NETWORKS
from wsss_lib.progress import report
from wsss_lib.scoring import (
    MEANS,
    Settings,
    of_masks,
    part_recall,
    score_table,
    settings_of,
    sweep_backgrounds,
    sweep_thresholds,
    total_confusions,
)


class StudyScores:
    """The scoring half of `Study`, which gives it `data`, `config`, `dataset` and `_stage`."""

    def settings(self, artifact: Artifact) -> Settings:
        """The knob between an artifact and its masks: CAM's threshold, the walk's alpha, or none."""
        return settings_of(artifact.stage, self.config)

    def confusions(self, artifact: Artifact) -> dict[str, np.ndarray]:
        """Confusions (T, K, K) at every setting, over all pixels and, on the scenes, over each part."""
        data, ids = self.data.dataset(artifact.labels["split"]), self.data.scored(artifact.labels["split"])
        settings, count = self.settings(artifact), len(self.data.classes)
        title = f"scores of {artifact.title}"

        def work(out: Path) -> None:
            predict = {
                "threshold": lambda: sweep_thresholds(artifact.path, settings.values, count),
                "alpha": lambda: sweep_backgrounds(artifact.path, len(settings.values), count),
                "": lambda: of_masks(artifact.path, count),
            }[settings.name]()
            totals = total_confusions(
                predict, report(ids, title, unit="photo", total=len(ids)), data.mask,
                self.data.parts if self.data.has_parts else None,
            )  # fmt: skip
            save_atomically(lambda path: np.savez_compressed(path, **totals), out / "confusions.npz")

        scored = self._stage(
            "scores", 1, {"settings": [settings.name, settings.values.tolist()], "photos": ids},
            [artifact.key, data.fingerprint()], work, title, artifact.labels,
        )  # fmt: skip
        with np.load(scored.file("confusions.npz"), allow_pickle=False) as totals:
            return dict(totals)

    def scores(self, artifacts: Sequence[Artifact]) -> pd.DataFrame:
        """Tidy scores in %, each row saying on what, by what and how it was reached.

        Rule "fixed" is the preset's setting; "oracle" the best one on this very ground truth.
        """
        tables = []
        for artifact in artifacts:
            table = score_table(self.confusions(artifact)["all"], self.settings(artifact), self.data.classes)
            labels = artifact.labels
            about = {
                "dataset": self.dataset,
                "split": labels["split"],
                "photos": len(self.data.scored(labels["split"])),
                "method": labels["method"],
                "stage": labels["stage"],
                "seed": labels["seed"],
                "learned from": labels.get("learned from", "image labels"),
                "weights": self._weights(labels["stage"], labels.get("learned from", "")),
                "inference": self._inference(labels["stage"]),
            }
            for place, (name, value) in enumerate(about.items()):
                table.insert(place, name, value)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def _weights(self, stage: str, learned_from: str = "") -> str:
        """Networks behind a stage and their initial weights, files by their names."""
        config, segmentation = self.config, self.config.segmentation
        named = [f"{config.backbone.name}, {Path(config.backbone.weights).name}"]
        for network, involved, own in (
            ("IRN", "IRN" in stage + learned_from, config.irn.backbone),
            (segmentation.network, stage.startswith("segmentation"), segmentation.backbone),
        ):
            if involved and own:
                weights = Path(own.weights).name
                named.append(f"{network}: {own.name}, {weights} (trained on {own.trained_on})")
        return "; ".join(named)

    def _inference(self, stage: str) -> str:
        """Scales, flip and fusion of the forward passes behind a stage."""
        segments = stage.startswith("segmentation")
        scales = self.config.segmentation.test_scales if segments else self.config.maps.scales
        flip = self.config.segmentation.test_flip if segments else self.config.maps.flip
        passes = "scales " + " ".join(f"{s:g}" for s in scales) + (" + flip" if flip else "")
        if not segments:
            return passes
        return f"{passes}, {SEGMENTATION_NETWORKS[self.config.segmentation.network].fusion}"

    def sweep(self, artifact: Artifact) -> pd.DataFrame:
        """Summary metrics in % at every setting; on the scenes also the recall of each part."""
        confusions, settings = self.confusions(artifact), self.settings(artifact)
        means = [summary(confusion) for confusion in confusions["all"]]
        table = pd.DataFrame({metric: [100 * m[key] for m in means] for metric, key in MEANS.items()})
        if len(confusions) > 1:
            table = table.join(part_recall(confusions))
        return table.set_index(pd.Index(settings.values, name=settings.name))

    def times(self, artifacts: Sequence[Artifact]) -> pd.DataFrame:
        """Wall time of each stage as it was first computed, with the device."""
        records = [artifact.provenance() for artifact in artifacts]
        return pd.DataFrame(
            [(r["title"], r["seconds"], r["resumed"], r["device"]) for r in records],
            columns=["stage", "seconds", "resumed", "device"],
        )
