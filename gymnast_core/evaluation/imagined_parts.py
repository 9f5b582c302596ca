"""What trials in imagination are made with: the policy, the world model behind the safety envelope, the judge."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.config import SCRIPTED_POLICIES, JudgeConfig, find_model
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.imagined_config import ImaginePolicyConfig
from gymnast_core.policy.load import check_policy, open_policy
from gymnast_core.policy.names import REMOTE
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.policy.scripted import ScriptedPolicy
from gymnast_core.progress import busy
from gymnast_core.protocols import Judge, Policy
from gymnast_core.reward.factory import load_judge
from gymnast_core.rollout.confirmation import Confirms
from gymnast_core.rollout.open import open_confirmation, open_imagination
from gymnast_core.station_file import StationFile, open_station
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.fidelity import describe_sampling, fingerprint, sampling_of


@dataclass(frozen=True)
class Parts:
    """What is loaded. policy_name: as it was asked for."""

    station: StationFile
    policy_name: str
    policy: Policy
    environment: WorldModelEnvironment
    judge: Judge
    confirm: Confirms | None


def station_of(config: ImaginePolicyConfig) -> StationFile:
    """The station file with what the options replace, checked before anything is loaded.

    Raises: ConfigError for a policy or judge that cannot work in imagination, or a folder that is not there.
    """
    station = open_station(config.config, config.policy, config.world_model, config.judge, config.device)
    judge, models = station.config.judge, station.config.models
    if judge.kind == "truth":
        raise ConfigError(f"{station.path}: judge.kind: found truth, but imagination has none; needed another judge")
    if judge.kind in ("vlm", "transformers"):
        judge = dataclasses.replace(judge, votes=config.votes)
    name = models.policy
    if name in SCRIPTED_POLICIES and name != "random":
        raise ConfigError(
            f"policy: found {name}, which sees the simulator's state, not frames; needed a learned policy or random"
        )
    if name != "random":
        check_policy(name, station.path)
    find_model(models.world_model, station.path)
    alone = name.startswith(REMOTE) or name == "random"  # what has a memory would mix the frames of several
    models = dataclasses.replace(models, imagined_rollouts=1 if alone else config.batch)
    return dataclasses.replace(station, config=dataclasses.replace(station.config, judge=judge, models=models))


def open_parts(config: ImaginePolicyConfig, station: StationFile, run: Path, criteria: Mapping[str, str]) -> Parts:
    """Load everything. criteria: when half a point is given, by instruction, besides what the station file says.

    Raises: ConfigError, CheckpointError, DataError, JudgeError.
    """
    with busy("loading policy, world model and judge"):
        policy = _open_policy(config, station)
        environment = open_imagination(station, config.confirm)
        judge = load_judge(station.config, station.path, run, criteria=criteria)
    confirm = open_confirmation(config.confirm, station, environment, judge)
    return Parts(station, station.config.models.policy, policy, environment, judge, confirm)


def made_with(config: ImaginePolicyConfig, parts: Parts) -> dict[str, str]:
    """What decides a rollout besides its start, horizon, temperature and seed, by name."""
    station = parts.station
    policy = parts.policy_name
    if isinstance(parts.policy, OpenVLAPolicy):
        policy = parts.policy.checkpoint.fingerprint
    elif isinstance(parts.policy, ScriptedPolicy):
        policy = hashlib.sha256(find_model(policy, station.path).read_bytes()).hexdigest()[:32]
    return {
        "policy weights": policy,
        "adapter": config.adapter,
        "world model weights": fingerprint(station.world_model_folder),
        "sampling": describe_sampling(sampling_of(station.config.models)),
        "judge": _describe_judge(station),
        "confirmation": config.confirm.describe(),
    }


def _open_policy(config: ImaginePolicyConfig, station: StationFile) -> Policy:
    models = station.config.models
    if models.policy == "random":
        from gymnast_core.simulation.expert import RandomPolicy  # a simulator is no need of the others

        return RandomPolicy()
    adapters = config.adapters or models.adapters
    return open_policy(models.policy, models.unnorm_key, models.device, config.adapter, adapters, station.path)


def _describe_judge(station: StationFile) -> str:
    """A judge by what decides its verdicts."""
    judge: JudgeConfig = station.config.judge
    threshold = "" if judge.threshold is None else f", threshold {judge.threshold:g}"
    if judge.kind == "classifier":
        weights = fingerprint(find_model(judge.checkpoint, station.path) / "model.safetensors")
        return f"classifier {weights}{threshold}"
    model = judge.checkpoint if judge.kind == "transformers" else judge.model
    votes = f", {judge.votes} votes" if judge.kind != "robometer" and judge.scale != "log_p_true" else ""
    return f"{judge.kind} {model}, scale {judge.scale}{votes}{threshold}"
