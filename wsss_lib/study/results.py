"""Tables and figures on disk, each with where it comes from."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import PIL.Image
from IPython.display import Image, display
from matplotlib.figure import Figure

from wsss_lib.runtime.cache import environment
from wsss_lib.runtime.files import locked, save_atomically, unwritable
from wsss_lib.runtime.progress import in_notebook

PROVENANCE = "provenance.json"


class Results:
    """The folder results/<dataset>/<preset>.

    origin: what every number depends on (preset, dataset, seeds, configuration), stored beside the tables.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any]):
        self.folder, self.origin = folder, json.loads(json.dumps(origin))

    def table(self, table: pd.DataFrame, name: str) -> Path:
        """Write tables/<name>.csv, and its origin into provenance.json."""
        return self._save(
            "tables", f"{name}.csv", lambda p: table.to_csv(p, index=False, float_format="%.6g")
        )

    def figure(self, figure: Figure, name: str) -> Path:
        """Write figures/<name>.png, what it shows in words inside it, and its origin into provenance.json.

        A notebook shows this picture and closes the figure, which left open would be drawn twice more.
        """
        said = described(figure)
        path = self._save(
            "figures", f"{name}.png", lambda p: figure.savefig(p, metadata={"Description": said})
        )
        if in_notebook():
            with PIL.Image.open(path) as picture:
                width = round(picture.width * figure.dpi / picture.info["dpi"][0])
            display(Image(path, width=width, alt=said))
            plt.close(figure)
        return path

    def _save(self, kind: str, name: str, write: Callable[[Path], Any]) -> Path:
        path = self.folder / kind / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path.parent, error) from error
        save_atomically(write, path)
        with locked(self.folder / f".{PROVENANCE}.lock", "provenance"):
            record(self.folder / PROVENANCE, path.stem, self.origin, environment())
        return path


def described(figure: Figure) -> str:
    """What is written on a figure, for who can't see it: titles, axes and legends, each text once."""
    texts = []
    for axes in figure.axes:
        legend = axes.get_legend()
        texts += [axes.get_title(), axes.get_ylabel(), axes.get_xlabel()]
        texts += [text.get_text() for text in (legend.get_texts() if legend else [])]
    texts += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "; ".join(dict.fromkeys(filter(None, texts)))


def record(file: Path, name: str, origin: Mapping[str, Any], environment: dict[str, Any]) -> None:
    """Note in provenance.json how a result was made.

    The file holds `runs`, by number, each with its origin and environment, once for all results that share
    them, and `results`: name -> its run, and when it was finished.
    """
    known = provenance(file.parent)
    finished, run = environment.pop("finished"), {**origin, **environment}
    numbers = [number for number, other in known["runs"].items() if other == run]
    number = numbers[0] if numbers else str(1 + max(map(int, known["runs"]), default=0))
    results = {**known["results"], name: {"run": number, "finished": finished}}
    used = {result["run"] for result in results.values()}
    runs = {key: value for key, value in {**known["runs"], number: run}.items() if key in used}
    text = json.dumps({"runs": runs, "results": dict(sorted(results.items()))}, indent=1)
    save_atomically(lambda path: path.write_text(text + "\n"), file)


def finished(folder: Path) -> dict[str, str]:
    """When each result in a folder of results was finished, by its name."""
    return {name: result["finished"] for name, result in provenance(folder)["results"].items()}


def origin_of(folder: Path, name: str) -> dict[str, Any]:
    """Origin and environment of a result in a folder of results; empty if it is not there."""
    known = provenance(folder)
    return known["runs"][known["results"][name]["run"]] if name in known["results"] else {}


def provenance(folder: Path) -> dict[str, Any]:
    """What `record` wrote in a folder of results."""
    file = folder / PROVENANCE
    return json.loads(file.read_text()) if file.is_file() else {"runs": {}, "results": {}}
