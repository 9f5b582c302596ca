"""What a station file names, opened: imagination behind its safety envelope, the judges."""

from __future__ import annotations

from gymnast_core.config import JudgeConfig, find_model
from gymnast_core.errors import ConfigError
from gymnast_core.protocols import Environment, Judge
from gymnast_core.ranks import Ranks
from gymnast_core.robot.safety import DeadReckoning
from gymnast_core.rollout.confirmation import Confirmation
from gymnast_core.rollout.confirmation_config import ConfirmationConfig
from gymnast_core.station_file import StationFile
from gymnast_core.world_model.environment import WorldModelEnvironment
from gymnast_core.world_model.fidelity import fingerprint, meter_limits, sampling_of


def on_this_rank(station: StationFile, ranks: Ranks) -> StationFile:
    """The station with the device that this process works on."""
    return station.on_device(ranks.device(station.device))


def open_imagination(station: StationFile, confirm: ConfirmationConfig | None = None) -> WorldModelEnvironment:
    """Imagination in which the station's safety envelope stands before the world model as it does before the arm.

    confirm: whether rollouts are doubted by their meters of hallucination.

    Raises: ConfigError (no such folder), CheckpointError (damaged, or meters that were never measured)."""
    limits = meter_limits(station.world_model_folder) if confirm is not None and confirm.meters else None
    models = station.config.models
    return WorldModelEnvironment.from_folder(
        station.world_model_folder,
        device=station.device,
        max_rollouts=models.imagined_rollouts,
        sampling=sampling_of(models),
        autoencoder=models.autoencoder,
        arm=DeadReckoning(station.config.arm, station.config.safety),
        limits=limits,
    )


def open_second_imagination(station: StationFile, envelope: bool = True) -> WorldModelEnvironment:
    """The station's second world model, with an autoencoder and a picture size of its own.

    envelope: whether actions pass the station's safety envelope before it.

    Raises: ConfigError where the station names none, or names the first one's weights again; CheckpointError.
    """
    folder = station.second_world_model_folder
    if fingerprint(folder) == fingerprint(station.world_model_folder):
        raise ConfigError(
            f"{station.path}: models.second_world_model: found the weights of models.world_model; needed a world model "
            "that was trained apart, with another seed and another split of the data: the same one confirms nothing"
        )
    config = station.config
    return WorldModelEnvironment.from_folder(
        folder,
        device=station.device,
        max_rollouts=config.models.imagined_rollouts,
        sampling=sampling_of(config.models),
        arm=DeadReckoning(config.arm, config.safety) if envelope else None,
    )


def open_confirmation(
    confirm: ConfirmationConfig, station: StationFile, environment: Environment, judge: Judge, envelope: bool = True
) -> Confirmation | None:
    """Who says which successes in `environment` are to be believed; None where each success counts as it is.

    envelope: whether actions pass the station's safety envelope before the second world model; logged ones have.

    Raises: ConfigError, CheckpointError.
    """
    if not confirm.replays:
        return None
    second = open_second_imagination(station, envelope) if confirm.second else None
    return Confirmation(environment, judge, noises=confirm.noises, second=second, retreat=confirm.retreat_actions())


def find_gate_judge(station: StationFile, folder: str = "") -> JudgeConfig | None:
    """Who measures before and after practice: the learned judge in `folder`, or whom the station file names.

    None where that is the very judge that trains. Raises: ConfigError (no such folder; a judge that needs a station).
    """
    own, chosen = station.config.judge, folder or station.config.adaptation.gate_judge
    if not chosen:
        return None
    other = JudgeConfig(kind="classifier", checkpoint=chosen) if isinstance(chosen, str) else chosen
    if other.kind == "truth":
        raise ConfigError(
            f"{station.path}: adaptation.gate_judge.kind: found truth, but imagination has none; needed another judge"
        )
    if other.kind != own.kind:
        return other
    if own.kind in ("vlm", "robometer"):
        same = (other.model, other.base_url) == (own.model, own.base_url)
    else:
        same = find_model(other.checkpoint, station.path) == find_model(own.checkpoint, station.path)
    return None if same else other
