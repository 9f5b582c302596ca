"""Where golden values lie, and how those of the repository were made small enough for it.

`tests/goldens` holds the goldens that a clone brings. The policy's are packed there: compressed, and without the rows
of the vocabulary that no golden needs; what is compared keeps all of its bits. Where `../shared/fixtures` exists, its
goldens are met as well.

Pack a folder again: `python -m tests.golden_values ../shared/fixtures/openvla tests/goldens/openvla`
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

GOLDENS = Path(__file__).resolve().parent / "goldens"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
ROWS = ":rows"
"""Beside a tensor of which only some rows are kept: their numbers. Beside those stands the number of all rows."""
EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
VOCABULARY_LOGITS = "row0_full_logits_pos0"
PACKED = ("model", "golden")


def policy_goldens() -> list[Path]:
    """The folders of the policy's golden values: the repository's, then ../shared's."""
    return [GOLDENS / "openvla", *sorted(path.parent for path in SHARED.glob("openvla*/golden.safetensors"))]


def world_model_goldens() -> list[Path]:
    """The files of the world model's golden values: the repository's, then those of ../shared that are not the same."""
    own = sorted((GOLDENS / "worldgym").glob("*.safetensors"))
    others = sorted(SHARED.glob("worldgym*/*.safetensors"))
    return own + [path for path in others if not any(filecmp.cmp(path, known, shallow=False) for known in own)]


def label(path: Path) -> str:
    """The name of a test's case."""
    return path.stem if GOLDENS in path.parents else f"shared_{path.stem}"


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """`folder` as the reference wrote it: itself, or an unpacked copy for as long as the context lasts."""
    if not (folder / "golden.npz").is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="goldens_") as made:
        unpack(folder, Path(made))
        yield Path(made)


def unpack(folder: Path, target: Path) -> None:
    """Write a packed folder to `target` in the layout of the reference. Rows that were left out are zero."""
    for path in folder.iterdir():
        if path.stem not in PACKED or path.suffix != ".npz":
            shutil.copyfile(path, target / path.name)
    for name in PACKED:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
            tensors = dict(archive)
        for key in [key for key in tensors if key.endswith(ROWS)]:
            kept, of = tensors[key.removesuffix(ROWS)], tensors.pop(key)
            filled = np.zeros((of[-1], *kept.shape[1:]), kept.dtype)
            filled[of[:-1]] = kept
            tensors[key.removesuffix(ROWS)] = filled
        save_file(tensors, str(target / f"{name}.safetensors"))


def pack(folder: Path, target: Path) -> None:
    """Write the policy's golden values of `folder` packed into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, target / path.name)
    model, golden = (load_file(str(folder / f"{name}.safetensors")) for name in PACKED)
    facts = json.loads((folder / "golden.json").read_text())
    # The loss sees the action tokens' columns alone, so the other rows of the head have no gradient either.
    bins = np.arange(facts["n_action_bins"]) + facts["action_token_first_id"]
    said = [golden[name].ravel() for name in ("input_ids", "grpo_input_ids")]
    prompts = np.unique(np.concatenate([*said, [facts[f"{token}_token_id"] for token in ("bos", "stop", "pad")]]))
    for tensors, key, rows in ((model, EMBEDDING, prompts), (model, HEAD, bins), (golden, VOCABULARY_LOGITS, bins)):
        tensors[key + ROWS] = np.append(rows, len(tensors[key]))
        tensors[key] = tensors[key][rows]
    for name, tensors in zip(PACKED, (model, golden)):
        np.savez_compressed(target / f"{name}.npz", **tensors)  # type: ignore[arg-type]


if __name__ == "__main__":
    pack(*map(Path, sys.argv[1:3]))
