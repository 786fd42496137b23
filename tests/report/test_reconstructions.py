"""Figures of what the reconstructor paints, from pictures of known values."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from wsss_lib.artifacts import Artifact, Origin
from wsss_lib.methods.acr import PANELS, picture_file
from wsss_lib.report import reconstructions


@pytest.fixture
def classifier(tmp_path) -> Artifact:
    """Three epochs of two photos; a panel of epoch e is 10 e + its number, one of photo 1 is 100 brighter."""
    for epoch in (1, 2, 3):
        found = {}
        for number, name in enumerate(PANELS):
            grey = name in ("g", "A_t", "A_nt")
            values = np.full((2, 4, 4, 1 if grey else 3), 10 * epoch + number, np.uint8)
            values[1] += 100
            found[name] = values
        np.savez_compressed(tmp_path / picture_file(epoch), ids=np.array(["a", "b"]), targets=[0, 1], **found)
    return Artifact(tmp_path, "key", "ACR", "network", Origin("acr", 0))


def values(figure) -> list[int]:
    return [int(axis.images[0].get_array().flat[0]) for axis in figure.axes]


def test_the_eight_panels_of_a_photo(classifier):
    figure = reconstructions.figure_a6(reconstructions.pictures(classifier, 2), 1)
    assert values(figure) == [120 + number for number in range(8)]
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [reconstructions.TITLES[name] for name in PANELS]
    plt.close(figure)


def test_the_last_area_is_that_of_the_classifiers_phase():
    alone = pd.DataFrame({"epoch": [1, 2], "mean A_t": [0.2, 0.3]})
    both = pd.DataFrame({"classify mean A_t": [0.5, 0.6], "reconstruct loss": [1.0, 2.0]})
    assert reconstructions.last_areas({"a": alone, "b": both}).to_dict() == pytest.approx({"a": 30, "b": 60})


def test_a_row_an_epoch(classifier):
    figure = reconstructions.over_epochs(classifier, 0, (1, 3))
    columns = [PANELS.index(name) for name in reconstructions.OVER_EPOCHS]
    assert values(figure) == [10 * epoch + number for epoch in (1, 3) for number in columns]
    said = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert said == ["epoch 1", "epoch 3"]
    plt.close(figure)


def test_the_slider_shows_the_chosen_epoch(classifier, monkeypatch):
    monkeypatch.setattr(reconstructions, "epochs_of", lambda study, method: 3)
    shown = []
    plain = reconstructions.figure_a6

    def watched(found, photo):
        shown.append((int(found["I"][photo].flat[0]), photo))
        return plain(found, photo)

    monkeypatch.setattr(reconstructions, "figure_a6", watched)
    page = reconstructions.page(None, classifier)
    epoch, photo, picture, errors = page.children
    first = bytes(picture.value)
    assert (epoch.value, epoch.max) == (3, 3)
    assert [label for label, _ in photo.options] == ["a", "b"]
    epoch.value = 1
    photo.value = 1
    assert shown == [(30, 0), (10, 0), (110, 1)]
    assert first.startswith(b"\x89PNG")
    assert bytes(picture.value) != first
    assert errors.outputs == ()  # a picture displayed there hangs papermill now and then


def test_monitors_show_what_a_history_has():
    epochs = pd.Series([1, 2])
    attacked = pd.DataFrame(
        {"epoch": epochs, "classify mean A_t": [0.2, 0.3], "classify area A_t = 0": [0.6, 0.5],
         "classify L_t per pixel": [0.7, 0.8], "classify L_nt per pixel": [0.5, 0.6],
         "reconstruct L_t per pixel": [0.4, 0.3], "reconstruct L_nt per pixel": [0.35, 0.3],
         "reconstruct L1 of the whole": [0.9, 0.4], "reconstruct L1 of the mean colour": [0.8, 0.8]}
    )  # fmt: skip
    plain = pd.DataFrame({"epoch": epochs, "mean A_t": [0.2, 0.25], "area A_t = 0": [0.6, 0.55]})
    figure = reconstructions.monitors({"ACR": attacked, "baseline": plain})
    lines = [{line.get_label(): list(line.get_ydata()) for line in axis.lines} for axis in figure.axes]
    assert lines[0]["ACR: mean $A_t$"] == [0.2, 0.3]
    assert lines[0]["baseline: share of $A_t = 0$"] == [0.6, 0.55]
    assert lines[1] == {"ACR: rest": [0.7, 0.8], "ACR: target": [0.5, 0.6]}
    assert lines[2]["ACR: rest"] == [0.4, 0.3]
    assert lines[3] == {"ACR: rebuilt": [0.9, 0.4], "ACR: mean colour": [0.8, 0.8]}
    plt.close(figure)
