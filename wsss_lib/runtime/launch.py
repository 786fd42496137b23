"""Several processes on one study, started by torchrun or accelerate launch: how they agree."""

import os
import time
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

SECONDS_BETWEEN_LOOKS = 1


def launched() -> int:
    """Number of processes; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes; true without a launcher."""
    return int(os.environ.get("RANK", "0")) == 0


def main_says(answer: bool) -> bool:
    """The main process's answer, in all of them; all must ask."""
    if launched() == 1:
        return answer
    PartialState(cpu=not torch.accelerator.is_available())  # connects the processes
    return broadcast_object_list([answer])[0]


def wait_for(path: Path) -> None:
    """Return once the main process has written `path`; torch's own waiting gives up after half an hour."""
    while not path.is_file():
        time.sleep(SECONDS_BETWEEN_LOOKS)
