"""How a study scores its artifacts: tables of scores, sweeps and times."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from wsss_lib.metrics import summary
from wsss_lib.models.deeplab import SEGMENTATION_NETWORKS
from wsss_lib.runtime.cache import Artifact, arrays
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.progress import report
from wsss_lib.statistics import LEVEL, paired_bootstrap
from wsss_lib.study.scoring import (
    MEANS,
    Settings,
    of_masks,
    part_recall,
    score_photos,
    score_table,
    settings_of,
    sweep_backgrounds,
    sweep_thresholds,
)
from wsss_lib.study_refinement import name_of


class StudyScores:
    """The scoring half of `Study`, which gives it `data`, `config`, `dataset` and `_stage`."""

    def settings(self, artifact: Artifact) -> Settings:
        """The knob between an artifact and its masks: CAM's threshold, the walk's alpha, or none."""
        return settings_of(artifact.stage, self.config)

    def _scored(self, artifact: Artifact) -> Artifact:
        """One pass over the photos of a split: confusions.npz, photos.npz (both at every setting)."""
        data, ids = self.data.dataset(artifact.labels["split"]), self.data.scored(artifact.labels["split"])
        settings, count = self.settings(artifact), len(self.data.classes)
        title = f"scores of {artifact.title}"

        def work(out: Path) -> None:
            predict = {
                "threshold": lambda: sweep_thresholds(artifact.path, settings.values, count),
                "alpha": lambda: sweep_backgrounds(artifact.path, len(settings.values), count),
                "": lambda: of_masks(artifact.path, count),
            }[settings.name]()
            totals, counts = score_photos(
                predict, report(ids, title, unit="photo", total=len(ids)), data.mask,
                self.data.parts if self.data.has_parts else None,
            )  # fmt: skip
            save_atomically(lambda path: np.savez_compressed(path, **totals), out / "confusions.npz")
            save_atomically(lambda path: sparse.save_npz(path, counts), out / "photos.npz")

        return self._stage(
            "scores", 2, {"settings": [settings.name, settings.values.tolist()], "photos": ids},
            [artifact.key, data.fingerprint()], work, title, artifact.labels,
        )  # fmt: skip

    def confusions(self, artifact: Artifact) -> dict[str, np.ndarray]:
        """Confusions (T, K, K) at every setting, over all pixels and, on the scenes, over each part."""
        return self._scored(artifact).read("confusions.npz", arrays)

    def photo_counts(self, artifact: Artifact) -> dict[str, sparse.csr_array]:
        """Rule -> hits, predicted and true pixels of each class in each scored photo, (N, 3 K)."""
        counts = self._scored(artifact).read("photos.npz", sparse.load_npz)
        width = 3 * len(self.data.classes)
        rules = self.settings(artifact).rules(self.confusions(artifact)["all"])
        return {rule: counts[:, index * width : (index + 1) * width] for rule, index in rules.items()}

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

    def compare(self, ours: Iterable[Artifact], baseline: Iterable[Artifact]) -> pd.DataFrame:
        """How much mIoU `ours` has over `baseline`, with its paired bootstrap interval over photos.

        One row per rule where both sides have a setting: "fixed" and "oracle", whose setting is that of all
        photos and not chosen again in each resample. Masks have no setting; they are compared with the other
        side's fixed one only, because an oracle would have an advantage over them.

        Args:
            ours, baseline: one system each, an artifact per seed.

        Returns:
            Columns dataset, split, photos, system, against, rule, seeds (how many), difference (in points of
            mIoU, mean over seeds), "95% low", "95% high", std (of the difference over seeds; NaN of one) and
            verdict ("improves", "worsens" or "no difference shown").

        Raises:
            ValueError: a side of several systems, or sides that differ in split or seeds.
        """
        sides = [sorted(side, key=lambda artifact: artifact.labels["seed"]) for side in (ours, baseline)]
        systems = [sorted({_system(artifact) for artifact in side}) for side in sides]
        runs = [[(a.labels["split"], a.labels["seed"]) for a in side] for side in sides]
        if [len(names) for names in systems] != [1, 1] or runs[0] != runs[1]:
            raise ValueError(
                f"{systems[0]} on {runs[0]} cannot be paired with {systems[1]} on {runs[1]}; give each side "
                "one system, on the same split and with the same seeds."
            )
        (split, _), *_ = runs[0]
        counts = [[self.photo_counts(artifact) for artifact in side] for side in sides]
        rules = list(counts[0][0]) if counts[0][0].keys() == counts[1][0].keys() else ["fixed"]
        rows = []
        for rule in rules:
            found = paired_bootstrap(*([c.get(rule, c.get("none")) for c in side] for side in counts))
            rows.append(
                {
                    "dataset": self.dataset,
                    "split": split,
                    "photos": len(self.data.scored(split)),
                    "system": systems[0][0],
                    "against": systems[1][0],
                    "rule": rule,
                    "seeds": len(sides[0]),
                    "difference": 100 * found.value,
                    f"{LEVEL:.0%} low": 100 * found.low,
                    f"{LEVEL:.0%} high": 100 * found.high,
                    "std": 100 * found.std,
                    "verdict": found.verdict,
                }
            )
        return pd.DataFrame(rows)

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


def _system(artifact: Artifact) -> str:
    """What a comparison calls an artifact: method, stage and, of a segmentation, what it learned from."""
    learned = artifact.labels.get("learned from")
    return f"{name_of(artifact)}: {artifact.labels['stage']}" + (f" on {learned}" if learned else "")
