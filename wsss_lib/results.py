"""Tables and figures on disk, each with where it comes from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from wsss_lib.atomic import save_atomically
from wsss_lib.cache import environment


class Results:
    """The folder results/<dataset>/<preset>.

    origin: what every number depends on (preset, dataset, seeds, configuration), stored beside the tables.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any]):
        self.folder, self.origin = folder, origin

    def table(self, table: pd.DataFrame, name: str) -> Path:
        """Write tables/<name>.csv and provenance/<name>.json."""
        path = self._path("tables", f"{name}.csv")
        save_atomically(lambda p: table.to_csv(p, index=False, float_format="%.6g"), path)
        origin = json.dumps({**self.origin, **environment()}, indent=1)
        save_atomically(lambda p: p.write_text(origin), self._path("provenance", f"{name}.json"))
        return path

    def figure(self, figure: Figure, name: str) -> Path:
        """Write figures/<name>.png."""
        path = self._path("figures", f"{name}.png")
        save_atomically(lambda p: figure.savefig(p), path)
        return path

    def _path(self, kind: str, name: str) -> Path:
        path = self.folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
