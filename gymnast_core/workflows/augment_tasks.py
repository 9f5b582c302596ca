"""`gymnast augment tasks`: start frames sorted into the folders of a mixture, some of each instruction held out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from gymnast_core.errors import ConfigError
from gymnast_core.files import user_path
from gymnast_core.policy.prompt import normalise_instruction
from gymnast_core.progress import interruptible, progress_bar, say
from gymnast_core.rollout.mixture import MixturePart, load_mixture
from gymnast_core.seeds import derive_seed
from gymnast_core.workflows.augment_config import TasksConfig
from gymnast_core.workflows.augment_folder import StartsFolder
from gymnast_core.workflows.augment_frames import Source, read_sources


def split(sources: Sequence[Source], share: float, seed: int) -> tuple[list[Source], list[Source]]:
    """(for training, held out) of the frames of one instruction, by seed: `share` of them held out, at least one of two
    where the share is above 0, and never all.
    """
    order = sorted(sources, key=lambda one: (derive_seed(seed, "held out", one.mark), one.mark))
    count = round(share * len(order))
    if share > 0 and len(order) > 1:
        count = min(max(1, count), len(order) - 1)
    return order[min(count, len(order)) :], order[: min(count, len(order))]


def augment_tasks(config: TasksConfig) -> int:
    """The verb; 0 when every instruction has frames, 1 when some have none, 130 when interrupted. Raises: ConfigError
    where no part of the mixture lists instructions."""
    mixture = load_mixture(config.mixture)
    parts = {name: part for name, part in mixture.parts.items() if part.instructions}
    if not parts:
        raise ConfigError(f"mixture: found '{config.mixture}', none of whose parts lists instructions; needed one")
    sources = read_sources(config.starts, config.limit)
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("out", "starts")}
    options["frames"] = hashlib.sha256("".join(sorted(one.mark for one in sources)).encode()).hexdigest()[:16]
    folder = StartsFolder(config.out, "tasks", options)
    by_instruction: dict[str, list[Source]] = {}
    for source in sources:
        by_instruction.setdefault(normalise_instruction(source.start.instruction), []).append(source)
    missing: dict[str, str] = {}
    with interruptible() as stop, progress_bar() as bar:
        row = bar.add_task("sorting frames", total=sum(len(part.instructions) for part in parts.values()), note="")
        for name, part in parts.items():
            for instruction in part.instructions:
                if stop:
                    break
                frames = by_instruction.get(normalise_instruction(instruction), [])
                if not frames:
                    missing[instruction] = f"no start frame, for the mixture's part '{name}'"
                _write(folder, name, part, frames, config)
                bar.advance(row)
    done = folder.finish(missing, "", whole=not stop)
    _tell(done.starts, missing, config)
    return 130 if stop else int(bool(missing))


def _write(folder: StartsFolder, name: str, part: MixturePart, frames: Sequence[Source], config: TasksConfig) -> None:
    """The frames of one instruction, in the folders of its part."""
    share = part.held_out_share if config.held_out is None else config.held_out
    train, held_out = split(frames, share if part.held_out else 0.0, config.seed)
    for place, some in ((part.starts, train), (part.held_out, held_out)):
        for source in some:
            instruction = source.start.instruction
            target = f"{place}/{folder.name(source, instruction, 0)}"
            if not folder.has(target):
                lineage = {"part": name, "held_out": some is held_out}
                folder.write(target, source.frame, instruction, source, lineage, source.criteria)


def _tell(starts: Mapping[str, Mapping[str, object]], missing: Mapping[str, str], config: TasksConfig) -> None:
    held_out = sum(bool(one.get("held_out")) for one in starts.values())
    if missing:
        say(f"warning: no start frame of {len(missing)} instructions: {'; '.join(missing)}", "yellow")
    say(f"{len(starts) - held_out} starts for training and {held_out} held out, in {user_path(config.out)}")
