"""A run folder belongs to one process at a time, and to one run; a start with bad input leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gymnast_core.cli import main
from gymnast_core.config import dump_config
from gymnast_core.errors import CheckpointError
from gymnast_core.evaluation.policy_config import EvaluatePolicyConfig
from gymnast_core.locks import lock_folder
from gymnast_core.policy.sft_config import SFTConfig
from gymnast_core.run_folder import RunFolder
from gymnast_core.world_model.train_config import TrainConfig

HOLD = "import sys, time; from gymnast_core.locks import lock_folder; from pathlib import Path\n"
HOLD += "held = lock_folder(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_a_folder_in_use_is_refused_and_free_when_its_process_dies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        before = sorted(os.listdir(tmp_path))
        for words in (
            ["policy", "evaluate", "--policy", "expert", "--run", str(tmp_path)],
            ["judge", "evaluate", "--run", str(tmp_path), "--data", "nowhere"],
            ["judge", "train", "--run", str(tmp_path), "--data", "nowhere", "--out", str(tmp_path / "judge")],
            ["train", "--environment", "station", "--run", str(tmp_path)],
            ["data", "collect", "--out", str(tmp_path), "--policy", "expert"],
        ):
            assert main(words) == 2, words
            told = capsys.readouterr().err.strip().splitlines()
            assert len(told) == 1 and f"process {holder.pid} works in this folder" in told[0], (words, told)
        assert sorted(os.listdir(tmp_path)) == before
        RunFolder(tmp_path)  # reading, and the other processes of one run, need no lock
    finally:
        holder.kill()
        holder.wait()
    first = lock_folder(tmp_path)
    assert lock_folder(tmp_path) is first  # one process may have many hands in it
    assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_start_with_bad_input_leaves_nothing_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "new"
    picture = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "station.png"
    for words in (
        ["judge", "train", "--data", "nowhere", "--out", str(tmp_path / "judge")],
        ["adapt", "--frame", str(picture), "--instruction", "open the drawer", "--policy", "nowhere"],
        ["adapt", "--frame", str(picture), "--instruction", "open the drawer", "--recipe", "nowhere"],
        ["train", "--environment", "station", "--recipe", "nowhere"],
        ["adapter", "evaluate", "--adapter", "nobody"],
        ["judge", "evaluate", "--data", "nowhere"],
        ["policy", "evaluate", "--policy", "nowhere"],
        ["sft", "--data", "nowhere", "--out", str(tmp_path / "policy")],
        ["world-model", "train", "--data", "nowhere"],
        ["world-model", "train-autoencoder", "--data", "nowhere"],
    ):
        assert main([*words, "--run", str(run)]) == 2, words
        assert len(capsys.readouterr().err.strip().splitlines()) == 1, words
        assert list(tmp_path.iterdir()) == [], words


def test_bad_input_changes_nothing_in_an_older_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = EvaluatePolicyConfig(policy="expert", run=str(tmp_path))
    RunFolder(tmp_path, old, tensorboard=False).log(1, {"success": 1.0})
    before = (tmp_path / "config.yaml").read_text()
    assert before == dump_config(old)
    assert main(["judge", "train", "--data", "nowhere", "--run", str(tmp_path)]) == 2
    assert (tmp_path / "config.yaml").read_text() == before
    assert main(["policy", "evaluate", "--policy", "random", "--run", str(tmp_path)]) == 2
    assert "holds a run with policy 'expert', found 'random'; give the same options" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == before


def test_checkpoints_name_their_verb_wherever_its_options_stand(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, TrainConfig(), tensorboard=False)
    state = torch.load(run.save_checkpoint(3, {}) / "state.pt", weights_only=True)
    assert state["kind"] == "gymnast_core.world_model.train.TrainConfig"  # as before its options had their own module
    assert RunFolder(tmp_path, TrainConfig(), tensorboard=False).load_checkpoint() is not None
    with pytest.raises(CheckpointError, match="holds another run"):
        RunFolder(tmp_path, SFTConfig(), tensorboard=False).load_checkpoint()
