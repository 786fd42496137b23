"""Training and stages on two CPU processes that accelerate launch started: as on one."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import two_processes
from safetensors.torch import load_file

pytestmark = pytest.mark.whole  # see pyproject.toml

LAUNCH = (
    "--multi_gpu --num_processes=2 --num_machines=1 --main_process_port=0 "
    "--mixed_precision=no --dynamo_backend=no"
)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same training in this one process: its folder and the photos it saw."""
    out = tmp_path_factory.mktemp("single")
    two_processes.train_toy(out / "toy")
    return out / "whole", two_processes.train_tiny(out / "whole")


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """The folder of two processes, one killed, both started again; and their records.

    The test starts them again, not the launcher: its second attempt meets the addresses of the first.
    """
    out, script = tmp_path_factory.mktemp("double"), Path(two_processes.__file__)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), script, out]
    died, done = (
        subprocess.run([*command, wish], env=environment, capture_output=True, text=True, timeout=120)
        for wish in ("die", "live")
    )
    assert "exitcode: -9" in died.stderr, died.stdout[-3000:] + died.stderr[-5000:]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return out, [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_share_each_batch_of_the_one(single, double):
    halves = [np.reshape(record["whole"], (9, 4)) for record in double[1]]
    np.testing.assert_array_equal(np.concatenate(halves, 1), np.reshape(single[1], (9, 8)))


def test_losses_and_weights_are_those_of_one_process(single, double):
    one, two = (pd.read_csv(out / "history.csv") for out in (single[0], double[0] / "whole"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-5)
    assert one["loss"].nunique() == 3
    one, two = (load_file(out / "model.safetensors") for out in (single[0], double[0] / "whole"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)


def test_two_phases_on_two_processes_are_those_of_one(single, double):
    one, two = (pd.read_csv(out / "toy" / "history.csv") for out in (single[0].parent, double[0]))
    pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    one, two = (load_file(out / "toy" / "model.safetensors") for out in (single[0].parent, double[0]))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-6)


def test_a_run_whose_process_was_killed_goes_on_and_ends_with_the_same_bytes(double):
    assert [len(record["killed"]) for record in double[1]] == [24, 24]  # the first epoch was kept
    whole, resumed = (double[0] / name / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_a_loss_that_is_not_finite_in_one_process_stops_both(double):
    first, second = (record["nan"] for record in double[1])
    assert first == second
    assert first.startswith("NonFiniteLossError: tiny: the loss is nan at epoch 2, step 2")


def test_a_batch_that_cannot_be_shared_is_named(double):
    for record in double[1]:
        assert record["uneven"].startswith(
            "ValueError: tiny: 2 processes cannot share a batch of 3 photos evenly"
        )


def test_the_main_process_alone_does_and_writes_all_but_training(double):
    first, second = double[1]
    trained, size, again = second["stages"]
    assert trained == "trained on drawn"
    assert size == again
    assert first["stages"] == ["drawn", *second["stages"]]
    assert any(name.endswith("model.safetensors") for name in first["written"])
    assert second["written"] == []


def test_every_stage_that_trains_says_so():
    """Or the main process would wait for the others in vain."""
    silent, stages = [], 0
    for file in (Path(two_processes.__file__).parents[1] / "wsss_lib").rglob("*.py"):
        for function in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)):
            calls = {ast.unparse(n.func): n for n in ast.walk(function) if isinstance(n, ast.Call)}
            if "study.train" in calls and "study.stage" in calls:
                stages += 1
                if "trains=True" not in ast.unparse(calls["study.stage"]):
                    silent.append(f"{file.name}: {function.name}")
    assert stages >= 4
    assert not silent
