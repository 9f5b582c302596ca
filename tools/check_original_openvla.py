"""Whether a policy folder gives in OpenVLA-OFT's own code what it gives here.

    python tools/check_original_openvla.py write FOLDER VALUES.npz [--unnorm-key bridge_orig]   # with gymnast
    python tools/check_original_openvla.py compare FOLDER VALUES.npz                            # with OpenVLA-OFT

The first command needs gymnast only, the second one OpenVLA-OFT's environment (its transformers fork) with its
repository on PYTHONPATH: the two do not fit into one. Float32 on the CPU; the largest differences of token ids, pixels,
logits and actions are printed, and the second command exits 1 where one is above 0.001.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

INSTRUCTION = "open the drawer"
TOLERANCE = 1e-3
PLATFORMS = {5: "bridge", 8: "libero"}
"""What OpenVLA-OFT looks for on its command line to choose the chunk length."""


def write(folder: Path, values: Path, unnorm_key: str | None) -> None:
    """What the folder gives here, for one random frame."""
    from gymnast_core.policy.openvla import load_policy

    policy = load_policy(folder, unnorm_key, "cpu", torch.float32)
    frame = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    prepared = policy.images.prepare(frame)
    pixels, prompts = policy.inputs(prepared, [INSTRUCTION])
    with torch.no_grad():
        logits = policy.model.token_logits(pixels, prompts)[0, :-1]
    bins = logits[:, policy.config.first_action_id : policy.config.unpadded_vocab_size].argmax(-1)
    actions = policy.actions(bins[None].numpy())[0]
    arrays: dict[str, Any] = {"ids": prompts.ids, "pixels": pixels, "logits": logits, "actions": actions}
    np.savez(values, prepared=prepared[0], unnorm_key=policy.unnorm_key, **arrays)


def compare(folder: Path, values: Path) -> bool:
    """Load the folder with the original classes and print the largest differences; whether all are small."""
    found: dict[str, np.ndarray[Any, Any]] = dict(np.load(values, allow_pickle=False))
    if len(found["actions"]) not in PLATFORMS:
        sys.exit(f"{folder}: chunks of {len(found['actions'])}; OpenVLA-OFT's own code knows {sorted(PLATFORMS)}")
    sys.argv = [sys.argv[0], PLATFORMS[len(found["actions"])]]
    image_module: Any = importlib.import_module("PIL.Image")
    processing: Any = importlib.import_module("prismatic.extern.hf.processing_prismatic")
    modeling: Any = importlib.import_module("prismatic.extern.hf.modeling_prismatic")
    auto: Any = importlib.import_module("transformers")
    auto.AutoConfig.register("openvla", modeling.OpenVLAConfig)
    auto.AutoImageProcessor.register(modeling.OpenVLAConfig, processing.PrismaticImageProcessor)
    processor = processing.PrismaticProcessor.from_pretrained(folder)
    model, loading = modeling.OpenVLAForActionPrediction.from_pretrained(
        folder, torch_dtype=torch.float32, low_cpu_mem_usage=True, output_loading_info=True
    )
    model.eval()
    outputs: list[Any] = []
    model.language_model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    prompt = f"In: What action should the robot take to {INSTRUCTION}?\nOut:"
    inputs = processor(prompt, image_module.fromarray(found["prepared"]))
    with torch.no_grad():
        model.predict_action(**inputs, unnorm_key=str(found["unnorm_key"]))
    ids = np.concatenate([inputs["input_ids"].numpy(), [[29871]]], axis=1)  # predict_action adds the empty token
    first = model.vision_backbone.get_num_patches() + ids.shape[1] - 1
    logits = outputs[0].logits[0, first : first + found["actions"].size].numpy()
    columns = logits[:, model.vocab_size - model.config.n_action_bins : model.vocab_size]
    bins = np.clip(model.config.n_action_bins - columns.argmax(1) - 1, 0, len(model.bin_centers) - 1)
    normalised = model.bin_centers[bins].reshape(found["actions"].shape)
    theirs = {
        "ids": ids,
        "pixels": inputs["pixel_values"].numpy(),
        "logits": logits,
        "actions": model._unnormalize_actions(normalised, str(found["unnorm_key"])),
    }
    good = not any(loading.values())
    print({name: len(entries) for name, entries in loading.items()})
    for name, array in theirs.items():
        same = array.shape == found[name].shape
        difference = float(np.abs(array.astype(np.float64) - found[name]).max()) if same else np.inf
        print(f"{name}: largest difference {difference:.3g}")
        good = good and difference <= TOLERANCE
    return good


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("write", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("values", type=Path)
    parser.add_argument("--unnorm-key", default=None)
    given = parser.parse_args()
    if given.command == "compare":
        return 0 if compare(given.folder, given.values) else 1
    write(given.folder, given.values, given.unnorm_key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
