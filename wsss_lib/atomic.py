"""Files that appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4


def save_atomically(write: Callable[[Path], Any], path: Path) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers never see half a file."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
