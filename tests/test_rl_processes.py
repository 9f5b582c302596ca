"""Two processes make the update that one would make, and a killed run goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gymnast_core.cli import leave
from gymnast_core.config import dump_config, load_config
from gymnast_core.data.frames import write_image
from gymnast_core.policy.adapters import AdapterStore
from gymnast_core.policy.checkpoint import with_statistics
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.policy.recipe import new_checkpoint
from gymnast_core.policy.sft_config import ModelRecipe, TowerRecipe
from gymnast_core.policy.sharding import shard
from gymnast_core.protocols import TrainablePolicy, Verdict
from gymnast_core.ranks import Ranks
from gymnast_core.rl.adapt import AdaptConfig, adapt
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.train_config import TrainConfig
from gymnast_core.rl.trainable import prepare_training
from gymnast_core.rl.trainer import GRPOTrainer
from gymnast_core.rollout.rollout import Group, Rollout
from gymnast_core.run_folder import RunFolder
from tests.machine import HANG_S, overdue
from tests.point_world import PointEnvironment, PointJudge, PointPolicy, point_starts
from tests.processes import two_processes, wait_for
from tests.test_rl_trainer import CONFIG, roll
from tests.tiny_station import build_tiny_station, picture

ROOT = Path(__file__).resolve().parent.parent
MYSELF = [sys.executable, "-m", "tests.test_rl_processes"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TWO_STEPS = dataclasses.replace(
    CONFIG, minibatch=10_000, epochs=2, micro_batch=9, learning_rate=1e-2, rehearsal_anchor=0.5
)
TOWER = TowerRecipe(16, 2, 2)
TINY = ModelRecipe(32, 16, TOWER, TOWER, 32, 2, 2, 64, n_bins=8, words=("move", "the", "dot", "left"))
KINDS = ("replicated", "lora", "full")


def point_policy(kind: str, folder: Path) -> tuple[TrainablePolicy, nn.Module]:
    """A small network without shards, or a tiny OpenVLA of which an adapter or all weights are trained."""
    if kind == "replicated":
        plain = PointPolicy()
        return plain, plain
    limits = [0.1] * 6 + [1.0]
    statistics = {"action": {"q01": [-x for x in limits[:6]] + [0.0], "q99": limits, "mask": [True] * 6 + [False]}}
    checkpoint = with_statistics(new_checkpoint(TINY, [], 0, folder), "station", statistics)
    policy = OpenVLAPolicy(checkpoint, "station")
    prepare_training(policy, dataclasses.replace(CONFIG, trainable=kind, lora_rank=2))
    return policy, policy.model


class OddJudge(PointJudge):
    """Finds success in about half of the pictures, whatever they show."""

    def judge(self, videos: Sequence[np.ndarray], instructions: Sequence[str]) -> list[Verdict]:
        return [Verdict(float(int(video.sum(dtype=np.int64)) // 3 % 2), 1.0, "") for video in videos]


def trainer(folder: Path, config: GRPOConfig, kind: str = "replicated", side_by_side: int = 64) -> GRPOTrainer:
    policy, module = point_policy(kind, folder)
    if kind != "replicated":
        shard(Ranks(), module)
    judge = PointJudge() if kind == "replicated" else OddJudge()
    run = RunFolder(folder, config if Ranks().first else None, False)
    return GRPOTrainer(policy, module, PointEnvironment(side_by_side), judge, point_starts(6), config, run)


def fixed_groups(kind: str, folder: Path) -> list[Group]:
    """The same five groups in every process, of unequal number of rollouts, rewarded so that all have a lesson."""
    policy, _ = point_policy(kind, folder)
    groups = []
    for number, group in enumerate(roll(policy, point_starts(5), seed=9)):
        verdicts = [Verdict(float((number + i) % 3 == 0), 1.0, "") for i in range(8 - number % 3)]
        rollouts = [dataclasses.replace(r, verdict=v) for r, v in zip(group.rollouts, verdicts)]
        groups.append(Group(tuple(rollouts)))
    return groups


def rehearsed(groups: Sequence[Group]) -> list[Rollout]:
    """Eleven rollouts, more than one process's pass holds, for the policy to stay on as it was."""
    return [rollout for group in groups for rollout in group.rollouts][:11]


def likelihood(one: GRPOTrainer) -> list[float]:
    """Log-probabilities that the policy gives to some tokens now."""
    frames = np.stack([start.frame for start in point_starts(2) if start.frame is not None])
    tokens = np.arange(2 * one.policy.chunk_length * 7).reshape(2, -1) % 8
    with torch.no_grad():
        return one.policy.log_probs(frames, ["move the dot left"] * 2, tokens, 1.0)[0].flatten().tolist()


def one_rank(folder: Path) -> None:
    """What each of the two processes runs."""
    torch.set_num_threads(1)
    ranks = Ranks()
    told: dict[str, Any] = {}
    for kind in KINDS:
        groups = fixed_groups(kind, folder / "none")
        shares = {"shared": groups[ranks.rank :: 2], "on_one": groups if ranks.rank == 0 else []}
        for name, share in shares.items():
            own = trainer(folder / f"{kind}_{name}_{ranks.rank}", TWO_STEPS, kind)
            assert own.trained.sharded == (kind != "replicated")
            if kind == "replicated" and ranks.rank == 1:
                with torch.no_grad():
                    own.update_policy.parameters[0].add_(1.0)  # a process that started elsewhere is put right
            if kind == "replicated":
                ranks.broadcast(own.update_policy.parameters)
            likelihood(own)  # a pass before the update: weights gathered for it must not be used after it
            anchors = rehearsed(groups)[ranks.rank :: 2]
            told[f"{kind}_{name}"] = dataclasses.asdict(own.update_policy(share, own.update, anchors))
            told[f"{kind}_{name}"]["likelihood"] = likelihood(own)
            weights = own.weights()
            assert bool(weights) == ranks.first
            if ranks.first:
                save_file(weights, folder / f"{kind}_{name}.safetensors")
        config = dataclasses.replace(CONFIG, groups=3, min_groups=3, micro_batch=9)
        # Batches of other sizes: the two processes need other numbers of passes for the same work.
        whole = trainer(folder / f"{kind}_run", config, kind, 64 if ranks.first else 7)
        told[f"{kind}_run"] = [whole.step() for _ in range(2)]
        resumed = trainer(folder / f"{kind}_run", config, kind)
        assert resumed.update == 2 and len(resumed.carried) == len(whole.carried)
        one, other = whole.weights(), resumed.weights()
        assert all(torch.equal(one[name], other[name]) for name in one)
        if ranks.first:
            save_file(one, folder / f"{kind}_run.safetensors")
    (folder / f"told{ranks.rank}.json").write_text(json.dumps(told))
    ranks.finish()


def test_two_processes_make_the_update_of_one(tmp_path: Path) -> None:
    with two_processes(*MYSELF, str(tmp_path)) as processes:
        for process in processes:
            _, errors = process.communicate(timeout=HANG_S)
            assert process.returncode == 0, errors[-3000:]
    told = [json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in range(2)]
    for kind in KINDS:
        alone = trainer(tmp_path / f"{kind}_alone", TWO_STEPS, kind)
        start = alone.weights()
        groups = fixed_groups(kind, tmp_path / "none")
        statistics = alone.update_policy(groups, alone.update, rehearsed(groups))
        wanted = alone.weights()
        moved = max(float((wanted[name] - start[name]).abs().max()) for name in wanted)
        assert moved > 1e-3, "the update must have done something"
        for name in ("shared", "on_one"):
            found = load_file(tmp_path / f"{kind}_{name}.safetensors")
            assert found.keys() == wanted.keys()
            error = max(float((wanted[key] - found[key]).abs().max()) for key in wanted)
            assert error < 0.02 * moved, f"{kind}, {name}: weights differ by {error} of {moved}"
            for own in told:
                assert own[f"{kind}_{name}"]["loss"] == pytest.approx(statistics.loss, abs=1e-6)
                assert statistics.divergence > 1e-3
                assert own[f"{kind}_{name}"]["divergence"] == pytest.approx(statistics.divergence, rel=1e-3)
                assert own[f"{kind}_{name}"]["grad_norm"] == pytest.approx(statistics.grad_norm, rel=1e-4)
                assert own[f"{kind}_{name}"]["likelihood"] == pytest.approx(likelihood(alone), abs=2e-3)
        alike = ("mean_reward", "groups_used", "groups_carried", "usable_groups", "loss", "grad_norm")
        assert [[m[k] for k in alike] for m in told[0][f"{kind}_run"]] == [
            [m[k] for k in alike] for m in told[1][f"{kind}_run"]
        ]
        one = trainer(tmp_path / f"{kind}_run", dataclasses.replace(CONFIG, groups=3, min_groups=3), kind)
        assert one.update == 2, "one process goes on where two stopped"
        run = load_file(tmp_path / f"{kind}_run.safetensors")
        assert all(torch.equal(value, run[name]) for name, value in one.weights().items())
        assert math.isfinite(one.step()["loss"])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_processes_train_and_save_one_policy(kind: str, tmp_path: Path) -> None:
    station = build_tiny_station(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("trainable: lora", f"trainable: {kind}"))
    write_image(tmp_path / "starts" / "a.png", picture(1))
    (tmp_path / "starts" / "a.json").write_text(json.dumps({"instruction": "open the drawer"}))
    out = "both" if kind == "lora" else str(tmp_path / "trained")
    files = {name: str(tmp_path / name) for name in ("starts", "run", "adapters")}
    config = TrainConfig(**files, config=str(station), out=out, updates=1)
    (tmp_path / "train.yaml").write_text(dump_config(config))
    run_in_two_processes("-m", "gymnast_core.cli", "train", "--from", str(tmp_path / "train.yaml"))
    state = RunFolder(tmp_path / "run", tensorboard=False).load_checkpoint()
    assert state is not None and len(state["ranks"]) == 2
    if kind == "lora":
        policy = load_policy(tmp_path / "policy", device="cpu")
        AdapterStore(tmp_path / "adapters").load(policy, "both")
        found = {name.replace(".both.", ".practice."): p for name, p in named(policy)}
    else:
        found = dict(named(load_policy(tmp_path / "trained", device="cpu")))
    assert all(torch.equal(found[name], value) for name, value in state["weights"].items())


def run_in_two_processes(*words: str) -> None:
    """Under torchrun, to a good end."""
    done = subprocess.run(
        [*TORCHRUN, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def adaptation(folder: Path, run: str, **fields: Any) -> list[str]:
    """Words that adapt the tiny station's policy from a file of options (torchrun takes --run for its own)."""
    config = AdaptConfig((str(folder / "start.png"),), "open the drawer", config=str(folder / "station.yaml"))
    config = dataclasses.replace(config, run=str(folder / run), adapters=str(folder / f"{run}_adapters"), **fields)
    (folder / f"{run}.yaml").write_text(dump_config(config))
    return ["-m", "gymnast_core.cli", "adapt", "--from", str(folder / f"{run}.yaml")]


def test_two_processes_adapt_as_one_does(tmp_path: Path) -> None:
    station = build_tiny_station(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("minibatch: 6", "minibatch: 100").replace("groups: 2", "groups: 3"))
    words = adaptation(tmp_path, "both", validation_rollouts=5, evaluation_rollouts=9)
    run_in_two_processes(*words)
    adaptation(tmp_path, "alone", validation_rollouts=5, evaluation_rollouts=9)
    adapt(load_config(AdaptConfig, tmp_path / "alone.yaml"))
    assert station.exists()
    both, alone = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("both", "alone"))
    for name in ("success_before", "success_after", "standard_error", "pairs", "accepted", "iterations"):
        assert both[name] == pytest.approx(alone[name], abs=1e-6), name
    assert (tmp_path / "both" / "report.html").read_text().count("data:image") >= 3

    def curve(run: str) -> list[dict[str, float]]:
        lines = RunFolder(tmp_path / run, tensorboard=False).read_metrics()
        return [{k: v for k, v in line.items() if not k.startswith(("seconds", "time"))} for line in lines]

    assert len(curve("both")) == len(curve("alone")) == 4, "two updates and their validations, told once"
    for one, other in zip(curve("both"), curve("alone")):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    states = [RunFolder(tmp_path / name, tensorboard=False).load_checkpoint() for name in ("both", "alone")]
    assert states[0] is not None and states[1] is not None
    start = trainer_start(tmp_path)
    for name, value in states[1]["weights"].items():
        moved = float((value - start[name]).abs().max())
        assert moved > 1e-4 and float((value - states[0]["weights"][name]).abs().max()) < 0.02 * moved, name
    accepted = list((tmp_path / "both_adapters").glob("*/adapter_model.safetensors"))
    assert len(accepted) == both["accepted"], "one process writes it"


def trainer_start(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter that a run of the tiny station begins with."""
    policy = load_policy(folder / "policy", device="cpu")
    prepare_training(policy, load_config(GRPOConfig, folder / "recipe.yaml"))
    return {name: value.detach() for name, value in named(policy)}


def test_no_process_is_left_waiting_for_one_that_ended(tmp_path: Path) -> None:
    build_tiny_station(tmp_path)
    words = adaptation(tmp_path, "run", iterations=100_000, seconds=9999.0, validation_rollouts=2)
    progress = tmp_path / "run" / "progress.jsonl"
    for number in (signal.SIGINT, signal.SIGKILL):
        before = progress.read_text().count('"train"') if progress.exists() else 0
        with two_processes(sys.executable, *words) as processes:
            wait_for(
                lambda before=before: progress.exists() and progress.read_text().count('"train"') >= before + 2,
                200.0,
                *processes,
            )
            processes[1].send_signal(number)
            told = [process.communicate(timeout=HANG_S)[1] for process in processes]
            codes = [process.returncode for process in processes]
        assert codes == [130, -number if number == signal.SIGKILL else 130], told
        assert not any("Traceback" in text for text in told), told
        assert "resume with --run" in told[0] and "resume" not in told[1]
        assert json.loads(progress.read_text().splitlines()[-1])["phase"] == "interrupted"
    done = max(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    config = load_config(AdaptConfig, tmp_path / "run.yaml", {"iterations": done + 1})
    assert adapt(config) in (0, 1), "one process goes on where two were ended"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["iterations"] == done + 1


def named(policy: OpenVLAPolicy) -> list[tuple[str, nn.Parameter]]:
    return list(policy.model.named_parameters())


def test_a_killed_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    command = [*MYSELF, str(tmp_path / "killed"), "steps"]
    for _ in range(2):
        before = len(RunFolder(tmp_path / "killed", tensorboard=False).read_metrics())
        process = subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        while len(RunFolder(tmp_path / "killed", tensorboard=False).read_metrics()) < before + 2:
            assert process.poll() is None and not overdue(120.0, started)
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, cwd=ROOT, env=ONE_THREAD, timeout=HANG_S, stderr=subprocess.DEVNULL)
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
        leave(0)
