"""Two processes make the update that one would make, and a killed run goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from point_world import PointEnvironment, PointJudge, PointPolicy, point_starts
from safetensors.torch import load_file, save_file
from test_rl_trainer import CONFIG, roll

from gymnast_core.rl.processes import Processes
from gymnast_core.rl.rollout import Group
from gymnast_core.rl.trainer import GRPOConfig, GRPOTrainer
from gymnast_core.run_folder import RunFolder

HERE = Path(__file__).resolve()
ONE_STEP = dataclasses.replace(CONFIG, minibatch=10_000, learning_rate=1e-2)


def trainer(folder: Path, config: GRPOConfig) -> GRPOTrainer:
    policy = PointPolicy()
    return GRPOTrainer(
        policy, policy, PointEnvironment(), PointJudge(), point_starts(6), config, RunFolder(folder, config, False)
    )


def fixed_groups() -> list[Group]:
    """The same five groups in every process, of unequal number of rollouts."""
    groups = roll(PointPolicy(), point_starts(5), seed=9)
    return [dataclasses.replace(group, rollouts=group.rollouts[: 8 - i % 3]) for i, group in enumerate(groups)]


def one_rank(folder: Path) -> None:
    """What each of the two processes runs."""
    torch.set_num_threads(1)
    processes = Processes.setup()
    own = trainer(folder / "fixed", ONE_STEP)
    if processes.rank == 1:
        with torch.no_grad():
            own._parameters[0].add_(1.0)  # a rank that started elsewhere is put right
    own.processes.broadcast(own._parameters)
    statistics = own.update_policy(fixed_groups()[processes.rank :: 2])
    save_file(own.weights(), folder / f"rank{processes.rank}.safetensors")
    (folder / f"rank{processes.rank}.json").write_text(json.dumps(dataclasses.asdict(statistics)))
    whole = trainer(folder / "run", dataclasses.replace(CONFIG, groups=5, min_groups=3))
    metrics = [whole.step() for _ in range(3)]
    resumed = trainer(folder / "run", dataclasses.replace(CONFIG, groups=5, min_groups=3))
    assert resumed.update == 3 and len(resumed.carried) == len(whole.carried)
    save_file(resumed.weights(), folder / f"after{processes.rank}.safetensors")
    (folder / f"metrics{processes.rank}.json").write_text(json.dumps(metrics))


def test_two_processes_make_the_update_of_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(HERE), str(tmp_path)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors

    alone = trainer(tmp_path / "alone", ONE_STEP)
    statistics = alone.update_policy(fixed_groups())
    start = PointPolicy().state_dict()
    for rank in range(2):
        weights = load_file(tmp_path / f"rank{rank}.safetensors")
        for name, value in alone.weights().items():
            torch.testing.assert_close(weights[name], value, atol=2e-6, rtol=1e-5)
            assert not torch.equal(value, start[name]), "the update must have done something"
        told = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert told["loss"] == pytest.approx(statistics.loss, abs=1e-6)
        assert told["grad_norm"] == pytest.approx(statistics.grad_norm, rel=1e-5)
    after = [load_file(tmp_path / f"after{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0]), "ranks must not drift apart"
    first, second = (json.loads((tmp_path / f"metrics{rank}.json").read_text()) for rank in range(2))
    assert [m["mean_reward"] for m in first] == [m["mean_reward"] for m in second]


def test_a_killed_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE), str(tmp_path / "killed"), "steps"]
    for _ in range(2):
        before = len(RunFolder(tmp_path / "killed", tensorboard=False).read_metrics())
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(RunFolder(tmp_path / "killed", tensorboard=False).read_metrics()) < before + 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(
        command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, stderr=subprocess.DEVNULL
    )
    many_steps(tmp_path / "straight")

    def curve(name: str) -> list[dict[str, float]]:
        lines = RunFolder(tmp_path / name, tensorboard=False).read_metrics()
        return [{k: v for k, v in line.items() if not k.startswith(("seconds", "time"))} for line in lines]

    assert curve("killed") == curve("straight") and len(curve("straight")) == 12
    killed, straight = (RunFolder(tmp_path / name, tensorboard=False) for name in ("killed", "straight"))
    for run in (killed, straight):
        newest = run.load_checkpoint()
        assert newest is not None
        rewards = [line["mean_reward"] for line in run.read_metrics()]
        over = {step: np.mean(rewards[step - 3 : step]) for step in range(3, 13)}
        step = max(over, key=lambda step: over[step])
        assert newest["best"] == [step, pytest.approx(over[step])] and step < 11, "the test must cover an old best"
        kept = sorted(path.name for path in (run.path / "checkpoints").iterdir())
        assert kept == ["best", f"step_{step:08d}", "step_00000011", "step_00000012"]
        assert (run.path / "checkpoints" / "best" / "state.pt").exists()
    one, other = killed.load_best(), straight.load_best()
    assert one is not None and other is not None
    assert all(torch.equal(value, other["weights"][name]) for name, value in one["weights"].items())


def many_steps(folder: Path) -> None:
    torch.set_num_threads(1)
    config = dataclasses.replace(CONFIG, groups=3, min_groups=3, best_over=3, horizon=10, learning_rate=1e-3)
    one = trainer(folder, config)
    while one.update < 12:
        one.step()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        many_steps(Path(sys.argv[1]))
    else:
        one_rank(Path(sys.argv[1]))
