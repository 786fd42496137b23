"""How a study refines response maps: AffinityNet or IRN, a random walk, masks with a dense CRF."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.examples import AffinityExamples, SegmentationExamples, photo_tensor
from wsss_lib.data.masks import IGNORE
from wsss_lib.data.transforms import affinity_transform, normalise, segmentation_transform
from wsss_lib.inference import multi_scale, write_maps
from wsss_lib.models.affinity import AffinityNet, affinity_labels
from wsss_lib.models.irn import IRN
from wsss_lib.random_walk import Offsets
from wsss_lib.refinement.affinitynet import affinity_walk
from wsss_lib.refinement.irn import write_boundary_walk
from wsss_lib.refinement.masks import (
    Background,
    over_processes,
    write_confident,
    write_marginals,
    write_mask,
)
from wsss_lib.runtime.cache import Artifact
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import load_trained


class StudyRefinement:
    """The refining part of `Study`, which gives it `response_maps`, `data`, `config`, `_stage`, `_train`."""

    def refine(self, maps: Artifact, by: str = "affinitynet") -> Artifact:
        """Random walk of the maps along affinities that "affinitynet" or "irn" learned from training maps."""
        walks = {"affinitynet": self._affinity_walk, "irn": self._irn_walk}
        if by not in walks:
            raise ValueError(f"Refinement {by!r} is unknown; choose one of {sorted(walks)}.")
        return walks[by](maps)

    def _training_maps(self, maps: Artifact) -> Artifact:
        """The training photos' maps of the classifier that made `maps`.

        Raises:
            ValueError: another study's classifier made maps of other photos, so these are unknown here.
        """
        if maps.labels["split"] == "train":
            return maps
        method, seed, rounds = (maps.labels.get(label) for label in ("method", "seed", "rounds"))
        if self.classifier(method, seed, rounds).key not in maps.provenance()["inputs"]:
            raise ValueError(
                f"The {maps.title} come from a study with other settings; refine them with that study."
            )
        return self.response_maps(method, seed, rounds=rounds)

    # --- AffinityNet -------------------------------------------------------------------------------------

    def crf_marginals(self, maps: Artifact, alpha: float) -> Artifact:
        """Dense CRF on [(1 - max CAM)^alpha, CAM], for the affinity labels."""
        config = {"alpha": alpha, "crf": self.config.affinity.crf, "scale": self.config.crf_scale}
        title = title_of(maps, f"CRF with background alpha {alpha:g}")
        work = self._over_photos(
            write_marginals, maps, Background("power", alpha), config["crf"], ".npz", title
        )
        labels = {**maps.labels, "stage": f"CRF alpha {alpha:g}"}
        return self._stage("crf_marginals", 1, config, [maps.key], work, title, labels)

    def affinity_net(self, maps: Artifact) -> Artifact:
        """Train AffinityNet on the confident labels of training maps."""
        config, seed = self.config.affinity, maps.labels["seed"]
        low, high = (self.crf_marginals(maps, alpha) for alpha in (config.alpha_low, config.alpha_high))
        title = title_of(maps, "AffinityNet")

        def work(out: Path) -> None:
            model = self._affinity_net(seed)
            transform = affinity_transform(
                config.crop, model.backbone.mean, model.backbone.std, config.jitter
            )
            examples = AffinityExamples(self.data.train, low.path, high.path, transform, affinity_labels)
            self._train(model, examples, len(self.data.train), config, out, title, seed)

        return self._stage(
            "affinity_net", 1,
            {"seed": seed, **self._net_config(config), "walk": self.config.walk.psa_compat},
            [low.key, high.key], work, title, maps.labels, trains=True,
        )  # fmt: skip

    def _affinity_walk(self, maps: Artifact) -> Artifact:
        """Also a walked background for every alpha of the sweep."""
        net = self.affinity_net(self._training_maps(maps))
        data, walk = self.data.dataset(maps.labels["split"]), self.config.walk
        title = title_of(maps, "random walk")

        def work(out: Path) -> None:
            model = load_trained(self._affinity_net(maps.labels["seed"]), net.path).to(self.device)

            def walked(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
                loaded = [ScoreMaps.load(maps.file(f"{id}.npz")) for id in ids]
                return [
                    affinity_walk(one, affinity, model.offsets, walk, walk.alpha_sweep)
                    for one, affinity in zip(loaded, self._affinities(model, images), strict=True)
                ]

            write_maps(data, out, title, self.config.maps.batch, self.device, walked)

        return self._stage(
            "random_walk", 1, walk.model_dump(exclude={"alpha"}), [maps.key, net.key], work, title,
            {**maps.labels, "stage": "CAM+RW"},
        )  # fmt: skip

    def photo_affinity(self, maps: Artifact, id: str) -> tuple[Tensor, Offsets]:
        """Affinities (K, h, w) of one photo of `maps`, and their offsets; computed anew at each call."""
        net = self.affinity_net(self._training_maps(maps))
        model = load_trained(self._affinity_net(maps.labels["seed"]), net.path).to(self.device)
        image = photo_tensor(self.data.dataset(maps.labels["split"]), id).as_subclass(Tensor)
        return self._affinities(model, image[None].to(self.device))[0], model.offsets

    @staticmethod
    @torch.inference_mode()
    def _affinities(model: AffinityNet, images: Tensor) -> Tensor:
        return model(normalise(images, model.backbone.mean, model.backbone.std))

    def _affinity_net(self, seed: int) -> AffinityNet:
        config = self.config.affinity
        return self._seeded(
            seed,
            lambda: AffinityNet(
                self._backbone(config),
                config.channels,
                config.radius,
                self.config.walk.psa_compat,
            ),
        )

    # --- IRN ---------------------------------------------------------------------------------------------

    def irn_labels(self, maps: Artifact) -> Artifact:
        """Confident labels against a strong and a weak constant background, each after a CRF."""
        irn = self.config.irn
        thresholds = (irn.foreground_threshold, irn.background_threshold)
        config = {"thresholds": thresholds, "crf": irn.crf, "scale": self.config.crf_scale}
        title = title_of(maps, "IRN labels")
        work = self._over_photos(write_confident, maps, thresholds, irn.crf, ".png", title)
        return self._stage("irn_labels", 1, config, [maps.key], work, title, maps.labels)

    def irn_net(self, maps: Artifact) -> Artifact:
        """Train IRN's boundary and displacement branch on the confident labels of training maps."""
        config, seed = self.config.irn, maps.labels["seed"]
        labels, title = self.irn_labels(maps), title_of(maps, "IRN")

        def work(out: Path) -> None:
            model = self._irn_net(seed)
            transform = segmentation_transform(
                config.scale, config.crop, model.backbone.mean, model.backbone.std
            )
            examples = SegmentationExamples(self.data.train, self.data.train.ids, labels.path, transform)
            self._train(model, examples, len(self.data.train), config, out, title, seed)

        elsewhere = {"foreground_threshold", "background_threshold", "crf", "walk"}
        trained = {k: v for k, v in self._net_config(config).items() if k not in elsewhere}
        return self._stage(
            "irn_net", 1, {"seed": seed, **trained}, [labels.key], work, title, maps.labels, trains=True
        )  # fmt: skip

    def irn_boundaries(self, maps: Artifact) -> Artifact:
        """Boundary probabilities of the photos of `maps` at stride 4, mean logit of photo and flip."""
        net = self.irn_net(self._training_maps(maps))
        data, title = self.data.dataset(maps.labels["split"]), title_of(maps, "IRN boundaries")

        def work(out: Path) -> None:
            model = load_trained(self._irn_net(maps.labels["seed"]), net.path).to(self.device)

            def boundaries(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
                logits = multi_scale(model, images, (1,), True, model.stride, lambda found: found[:, 0]) / 2
                found, size = logits.sigmoid().cpu().numpy(), tuple(images.shape[-2:])
                return [ScoreMaps(np.array([IGNORE]), one[None], size, model.stride) for one in found]

            write_maps(data, out, title, self.config.maps.batch, self.device, boundaries)

        return self._stage(
            "irn_boundaries", 1, {}, [net.key, data.fingerprint()], work, title,
            {**maps.labels, "stage": "IRN boundaries"},
        )  # fmt: skip

    def _irn_walk(self, maps: Artifact) -> Artifact:
        """The classes alone: the background is a constant."""
        edges, walk = self.irn_boundaries(maps), self.config.irn.walk
        title = title_of(maps, "IRN random walk")

        def work(out: Path) -> None:
            files = [f"{id}.npz" for id in self.data.dataset(maps.labels["split"]).ids]
            jobs = [(maps.file(file), edges.file(file), walk, self.device, out / file) for file in files]
            over_processes(write_boundary_walk, jobs, 1, title)  # a pool would import torch for longer

        return self._stage(
            "irn_walk", 1, walk.model_dump(exclude={"threshold"}), [maps.key, edges.key], work, title,
            {**maps.labels, "stage": "CAM+IRN"},
        )  # fmt: skip

    def _irn_net(self, seed: int) -> IRN:
        config = self.config.irn
        return self._seeded(
            seed,
            lambda: IRN(
                self._backbone(config),
                config.radius,
                config.boundary_width,
                config.displacement_width,
                config.dilated,
                config.psa_compat,
            ),
        )

    # --- masks -------------------------------------------------------------------------------------------

    def masks(self, maps: Artifact, background: Background, crf: str | None) -> Artifact:
        """Masks in VOC layout from score maps; with a dense CRF if it is named."""
        config = {
            "background": [background.kind, background.value],
            "crf": crf,
            "scale": self.config.crf_scale if crf else None,
        }
        stage = maps.labels["stage"] + ("+CRF" if crf else "")
        title = title_of(maps, f"{stage} masks")
        work = self._over_photos(write_mask, maps, background, crf, ".png", title)
        return self._stage("masks", 1, config, [maps.key], work, title, {**maps.labels, "stage": stage})

    def pseudo_labels(self, maps: Artifact, crf: bool = True) -> Artifact:
        """Masks of walked maps at the preset's background, refined by its CRF unless `crf` is off."""
        constant = Background("threshold", self.config.irn.walk.threshold)
        background = constant if maps.stage == "irn_walk" else self.walk_background()
        return self.masks(maps, background, self.config.refine_crf if crf else None)

    def walk_background(self) -> Background:
        """AffinityNet's walked background of the preset's alpha."""
        return Background("channel", self.config.walk.alpha_sweep.index(self.config.walk.alpha))

    def _over_photos(
        self,
        write: Callable[..., None],
        maps: Artifact,
        background: Background | tuple[float, float],
        crf: str | None,
        suffix: str,
        title: str,
    ) -> Callable[[Path], None]:
        """Work of a stage that calls `write` for every photo on a pool of processes."""

        def work(out: Path) -> None:
            data, scale = self.data.dataset(maps.labels["split"]), self.config.crf_scale
            jobs = [
                (data.image_path(id), maps.file(f"{id}.npz"), background, crf, scale, out / f"{id}{suffix}")
                for id in data.ids
            ]
            over_processes(write, jobs, self.config.processes, title)

        return work


def name_of(artifact: Artifact) -> str:
    """The method of an artifact, with its rounds if it has them."""
    rounds = artifact.labels.get("rounds")
    return artifact.labels["method"] + ("" if rounds is None else f" round {rounds}")


def title_of(artifact: Artifact, what: str) -> str:
    """What a stage is called in progress lines and tables of times."""
    return f"{name_of(artifact)} {what}, {artifact.labels['split']}, seed {artifact.labels['seed']}"
