"""Chains hold each stage once a seed, in order; tables keep the order of systems, seeds and stages."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from wsss_lib.artifacts import Artifact, Origin
from wsss_lib.report.chains import chain, compared, gains_over, histories, scored


class Stages:
    """A study whose stages only say what they were asked for."""

    seeds = (3, 5)
    config = SimpleNamespace(segmentation=SimpleNamespace(crf="some_crf"))

    def made(self, origin: Origin) -> Artifact:
        return Artifact(Path("folder"), "key", origin.stage, "masks", origin)

    def response_maps(self, method, seed, split="train"):
        return self.made(Origin(method, seed, split=split, stage="CAM"))

    def refine(self, maps, by):
        return self.made(maps.origin.but(stage="CAM+IRN" if by == "irn" else "CAM+RW"))

    def pseudo_labels(self, maps):
        return self.made(maps.origin.but(stage=maps.origin.stage + "+CRF"))

    def segment(self, labels):
        return self.made(
            labels.origin.but(stage="segmentation", split="val", learned_from=labels.origin.stage)
        )

    def masks(self, maps, background, crf):
        assert background.kind == "included"
        return self.made(maps.origin.but(stage=maps.origin.stage + ("+CRF" if crf == "some_crf" else "")))

    def scores(self, artifacts):
        rows = [(one.origin.method, one.origin.stage, one.origin.seed, one.origin.split) for one in artifacts]
        return pd.DataFrame(rows, columns=["method", "stage", "seed", "split"])

    def compare(self, ours, baseline):
        names = [f"{one.origin.method} {one.origin.stage} {one.origin.seed}" for one in (*ours, *baseline)]
        return pd.DataFrame({"compared": [", ".join(names)]})


STAGES = {
    "maps": ["CAM"],
    "walk": ["CAM", "CAM+RW"],
    "labels": ["CAM", "CAM+RW", "CAM+RW+CRF"],
    "network": ["CAM", "CAM+RW", "CAM+RW+CRF", "segmentation", "segmentation+CRF"],
}


@pytest.mark.parametrize(("until", "expected"), STAGES.items())
def test_a_chain_ends_where_it_is_told(until, expected):
    found = chain(Stages(), "pss", until=until)
    assert list(found) == expected
    for stage, artifacts in found.items():
        assert [(one.origin.stage, one.origin.seed) for one in artifacts] == [(stage, 3), (stage, 5)]
        assert {one.origin.method for one in artifacts} == {"pss"}
        assert {one.origin.split for one in artifacts} == {"val" if "segmentation" in stage else "train"}


def test_a_chain_goes_by_irn_and_on_val():
    found = chain(Stages(), "cam", "val", by="irn")
    assert list(found) == ["CAM", "CAM+IRN", "CAM+IRN+CRF"]
    assert {one.origin.split for of in found.values() for one in of} == {"val"}


def test_scores_go_system_by_system_seed_by_seed_through_all_its_chains():
    study = Stages()
    of = {
        title: [chain(study, method, split, "walk") for split in ("train", "val")]
        for title, method in {"A": "cam", "B": "sc"}.items()
    }
    table = scored(study, of)
    expected = [
        (title, stage, seed, split)
        for title in "AB"
        for seed in (3, 5)
        for split in ("train", "val")
        for stage in ("CAM", "CAM+RW")
    ]
    assert list(table.itertuples(index=False, name=None)) == expected


def test_comparisons_carry_their_own_columns():
    study = Stages()
    maps = {method: chain(study, method, until="maps")["CAM"] for method in ("cam", "pss")}
    table = compared(study, [(maps["pss"], maps["cam"], {"K": 2}), (maps["cam"], maps["pss"], {"K": 4})])
    assert table["compared"].tolist() == [
        "pss CAM 3, pss CAM 5, cam CAM 3, cam CAM 5", "cam CAM 3, cam CAM 5, pss CAM 3, pss CAM 5",
    ]  # fmt: skip
    assert table["K"].tolist() == [2, 4]
    assert table.index.tolist() == [0, 1]


def test_gains_are_over_the_baseline_at_the_same_stage_and_over_no_crf():
    study = Stages()
    chains = {title: chain(study, title, until="network") for title in ("CAM", "B", "C")}
    table = gains_over(study, chains, "CAM", ("CAM+RW+CRF", "segmentation"))
    assert table["what"].tolist() == [
        "B − CAM, CAM+RW+CRF", "B − CAM, segmentation", "C − CAM, CAM+RW+CRF", "C − CAM, segmentation",
        "CAM, CRF − no CRF", "B, CRF − no CRF", "C, CRF − no CRF",
    ]  # fmt: skip
    assert (
        table["compared"][1] == "B segmentation 3, B segmentation 5, CAM segmentation 3, CAM segmentation 5"
    )
    assert (
        table["compared"][5]
        == "B segmentation+CRF 3, B segmentation+CRF 5, B segmentation 3, B segmentation 5"
    )


def test_histories_are_what_trainings_wrote(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    net = Artifact(tmp_path, "key", "net", "network", Origin("cam", 0))
    assert histories({"a": net})["a"]["loss"].tolist() == [0.5, 0.25]
