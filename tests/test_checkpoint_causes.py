"""A folder that cannot be used is named for what it is, not for the first tensor that does not fit."""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gymnast_core
from gymnast_core import doctor
from gymnast_core.config import StationConfig, load_config
from gymnast_core.contents import name_content
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy.openvla import load_policy
from gymnast_core.reward.classifier import load_classifier
from gymnast_core.run_folder import RunFolder
from gymnast_core.world_model.checkpoint import load_world_model
from gymnast_core.world_model.familiarity import load_familiarity
from tests.machine import slower

MINI = Path(gymnast_core.__file__).parent / "weights" / "mini"
FRAME = np.random.default_rng(0).integers(0, 255, (1, 128, 128, 3), dtype=np.uint8)
ONE = "language_model.model.layers.0.self_attn.q_proj.weight"
LOADERS: dict[str, Callable[[Path], Any]] = {
    "policy": lambda folder: load_policy(folder, "station", "cpu"),
    "world_model": lambda folder: load_world_model(folder),
    "judge": lambda folder: load_classifier(folder, "cpu"),
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 5866408\n"
PAGE = b"<!doctype html>\n<html><head><title>Access to model is restricted</title></head></html>"


def copy(kind: str, target: Path) -> Path:
    return Path(shutil.copytree(MINI / kind, target))


def refused(kind: str, folder: Path) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(CheckpointError) as caught:
        LOADERS[kind](folder)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600
    return line


NEEDED = [
    ("policy", "config.json"),
    ("policy", "dataset_statistics.json"),
    ("policy", "model.safetensors"),
    ("policy", "preprocessor_config.json"),
    ("policy", "tokenizer.json"),
    ("world_model", "config.json"),
    ("world_model", "weights.safetensors"),
    ("world_model", "autoencoder/config.json"),
    ("world_model", "autoencoder/weights.safetensors"),
    ("judge", "judge.json"),
    ("judge", "model.safetensors"),
]


@pytest.mark.parametrize(("kind", "name"), NEEDED)
def test_every_needed_file_that_is_something_else_is_named(kind: str, name: str, tmp_path: Path) -> None:
    folder = copy(kind, tmp_path / "folder")
    whole = (folder / name).read_bytes()
    for content, words in (
        (POINTER, "a pointer of Git LFS"),
        (PAGE, "an HTML page ('Access to model is restricted')"),
        (b"Invalid username or password.", "text ('Invalid username or password.')"),
        (b"", "empty"),
        (b"\x1f\x8b\x08\x00rest", "gzip data"),
    ):
        (folder / name).write_bytes(content)
        line = refused(kind, folder)
        assert f"{name}: " in line and f"found {words}" in line, line
    if name.endswith(".safetensors"):
        (folder / name).write_bytes(whole[:-100])
        assert f"cut short: found {len(whole) - 100} of {len(whole)} bytes" in refused(kind, folder)
    (folder / name).unlink()
    (folder / name).symlink_to("blobs/gone")
    assert name in refused(kind, folder), "a link to nothing is no missing file: its values are not the defaults"


def test_the_measure_of_familiarity_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "familiarity.safetensors"
    path.write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="a pointer of Git LFS"):
        load_familiarity(path, None)  # type: ignore[arg-type]


def test_an_image_size_that_is_no_number_does_not_become_the_default(tmp_path: Path) -> None:
    folder = copy("world_model", tmp_path / "folder")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "image_size": "64"}))
    assert "image_size is '64'" in refused("world_model", folder)


@pytest.mark.parametrize(
    ("name", "model", "told"),
    [
        ("config.json", {}, "weights.safetensors: does not fit the configured network"),  # the full size is the default
        ("config.json", {"dim": 16_384, "num_heads": 8, "num_layers": 200}, "does not fit the configured network"),
        ("config.json", {"num_layers": 10**9}, "num_layers is 1000000000, must be an integer from 1 to 256"),
        ("config.json", {"dim": 10**40}, "dim is 1000"),
        ("autoencoder/config.json", {"width": 10**12}, "width 1000000000000: must be"),
        ("autoencoder/config.json", {"width": 8192}, "does not fit the configured network"),
    ],
    ids=str,
)
def test_a_size_that_is_not_the_weights_takes_no_memory(
    name: str, model: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder = copy("world_model", tmp_path / "folder")
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, "model": model}))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((CheckpointError, ConfigError), match=told) as caught:
        load_world_model(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # kB
    assert time.process_time() - began < 5 * slower()


def test_a_worldgym_file_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="a pointer of Git LFS"):
        load_world_model(path, autoencoder=str(MINI / "world_model" / "autoencoder"))


def bytes_like(weights: dict[str, torch.Tensor], share: int = 2) -> torch.Tensor:
    return torch.zeros(weights[ONE].numel() // share, 1, dtype=torch.uint8)


QUANTISED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], dict[str, Any], str]] = {
    "nf4": (
        lambda w: {
            ONE: bytes_like(w),
            f"{ONE}.absmax": torch.zeros(8, dtype=torch.uint8),
            f"{ONE}.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8),
        },
        {},
        "bitsandbytes NF4",
    ),
    "nf4 by its config": (
        lambda w: {ONE: bytes_like(w), f"{ONE}.absmax": torch.zeros(8, dtype=torch.uint8)},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes NF4, as config.json says",
    ),
    "int8": (
        lambda w: {ONE: w[ONE].to(torch.int8), ONE.replace("weight", "SCB"): torch.zeros(128)},
        {},
        "bitsandbytes int8",
    ),
    "gptq": (
        lambda w: {
            ONE: None,  # type: ignore[dict-item]
            ONE.replace("weight", "qweight"): torch.zeros(16, 128, dtype=torch.int32),
            ONE.replace("weight", "qzeros"): torch.zeros(1, 16, dtype=torch.int32),
            ONE.replace("weight", "scales"): torch.zeros(1, 128, dtype=torch.float16),
            ONE.replace("weight", "g_idx"): torch.zeros(128, dtype=torch.int32),
        },
        {"quant_method": "gptq", "bits": 4},
        "gptq 4 bits, as config.json says",
    ),
    "awq": (
        lambda w: {ONE: None, ONE.replace("weight", "qweight"): torch.zeros(16, 128, dtype=torch.int32)},  # type: ignore[dict-item]
        {"quant_method": "awq", "bits": 4},
        "awq 4 bits, as config.json says",
    ),
    "float8": (
        lambda w: {ONE: w[ONE].to(torch.float8_e4m3fn), f"{ONE}_scale_inv": torch.ones(1, 1)},
        {},
        "scaled integers or float8",
    ),
    "float8 without a scale": (lambda w: {ONE: w[ONE].to(torch.float8_e4m3fn)}, {}, "q_proj.weight' is F8_E4M3"),
    "integers alone": (lambda w: {ONE: w[ONE].to(torch.int8)}, {}, "q_proj.weight' is I8"),
}


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_weights_are_named_with_their_method(name: str, tmp_path: Path) -> None:
    change, config, words = QUANTISED[name]
    folder = copy("policy", tmp_path / "folder")
    weights = load_file(str(folder / "model.safetensors"))
    changed = {key: value for key, value in {**weights, **change(weights)}.items() if value is not None}
    save_file(changed, str(folder / "model.safetensors"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "quantization_config": config}))
    line = refused("policy", folder)
    assert "its weights are quantised (" in line and words in line


def test_a_quantisation_that_was_undone_is_none(tmp_path: Path) -> None:
    folder = copy("policy", tmp_path / "folder")
    content = json.loads((folder / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(content))
    load_policy(folder, "station", "cpu")


@pytest.mark.parametrize(("kind", "name"), [("world_model", "weights.safetensors"), ("judge", "model.safetensors")])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_integers_of_the_right_shape_are_no_weights(kind: str, name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = copy(kind, tmp_path / "folder")
    weights = load_file(str(folder / name))
    largest = max(weights, key=lambda key: weights[key].numel())
    save_file({**weights, largest: weights[largest].to(dtype)}, str(folder / name))
    assert "quantised" in refused(kind, folder)


def test_a_critic_takes_no_part_and_is_left_out_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = copy("policy", tmp_path / "folder")
    weights = load_file(str(folder / "model.safetensors"))
    theta = 10000.0
    text = json.loads((folder / "config.json").read_text())["text_config"]
    width, heads = text["hidden_size"], text["num_attention_heads"]
    inverse = 1.0 / theta ** (torch.arange(0, width // heads, 2) / (width // heads))
    spare = {
        "value_head.head_l1.weight": torch.zeros(8, 128),
        "value_head.head_l1.bias": torch.full((8,), torch.nan),
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": inverse,
    }
    save_file({**weights, **spare}, str(folder / "model.safetensors"))
    with caplog.at_level(logging.WARNING):
        policy = load_policy(folder, "station", "cpu")
    assert "left out 3 tensors" in caplog.text and "value_head" in caplog.text
    plain = load_policy(MINI / "policy", "station", "cpu")
    assert np.array_equal(policy.act(FRAME, ["close the drawer"]), plain.act(FRAME, ["close the drawer"]))
    policy.save(tmp_path / "saved")
    assert set(load_file(str(tmp_path / "saved" / "model.safetensors"))) == set(weights)
    spare["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = inverse / 4
    save_file({**weights, **spare}, str(folder / "model.safetensors"))
    assert "other rotary frequencies" in refused("policy", folder)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("action_head.model.fc1.weight", "a regression or diffusion head"),
        ("proprio_projector.fc1.weight", "proprioceptive input"),
        ("base_model.model.projector.fc1.lora_A.weight", "a LoRA adapter that is not merged"),
        ("_orig_mod.projector.fc1.weight", "a wrapped model"),
        ("module.projector.fc1.weight", "named 'module.'"),
        ("something.else", "'something.else' is not part of this architecture"),
    ],
)
def test_other_tensors_are_named_for_what_they_belong_to(extra: str, words: str, tmp_path: Path) -> None:
    folder = copy("policy", tmp_path / "folder")
    weights = load_file(str(folder / "model.safetensors"))
    save_file({**weights, extra: torch.zeros(4)}, str(folder / "model.safetensors"))
    assert words in refused("policy", folder)


def test_another_kind_of_folder_is_named(tmp_path: Path) -> None:
    for kind, other, words in (
        ("policy", "world_model", "found a world-model folder"),
        ("policy", "judge", "found the folder of a learned judge"),
        ("world_model", "judge", "found the folder of a learned judge"),
        ("world_model", "policy", "found a checkpoint of model_type 'openvla'"),
        ("judge", "policy", "found a checkpoint of model_type 'openvla'"),
        ("judge", "world_model", "found a world-model folder"),
    ):
        assert words in refused(kind, MINI / other)
    for made, content, words in (
        ("adapter/adapter_config.json", "{}", "a LoRA adapter alone"),
        ("cache/snapshots/0a/config.json", "{}", f"name the folder {tmp_path}/cache/snapshots/0a"),
        ("pickled/pytorch_model.bin", "", "a folder of pickled weights (pytorch_model.bin)"),
        ("lerobot/config.json", '{"type": "pi0"}', "a LeRobot policy of type 'pi0'"),
        ("around/inner/config.json", "{}", "a folder around 'inner'"),
        ("nothing/x", "", "a folder without config.json"),
    ):
        path = tmp_path / made
        path.parent.mkdir(parents=True)
        path.write_text(content)
        assert words in refused("policy", tmp_path / Path(made).parts[0])
    assert "found a pointer" not in name_content(b"{}")


# --- what a processor's files say -------------------------------------------------------------------------------------

OTHERS = {"means": [[0.2] * 3] * 2, "stds": [[0.1] * 3] * 2}


def said(**changes: Any) -> dict[str, Any]:
    """The shipped preprocessor config with other means and deviations."""
    content: dict[str, Any] = json.loads((MINI / "policy" / "preprocessor_config.json").read_text())
    del content["tvf_normalize_params"]
    return {**content, **OTHERS, **changes}


def with_files(target: Path, **files: Any) -> Path:
    """The shipped policy with these processor files and no other."""
    folder = copy("policy", target)
    (folder / "preprocessor_config.json").unlink()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def means(folder: Path) -> Any:
    return load_policy(folder, "station", "cpu").images.normalisation[0][0]


def test_a_processor_is_read_wherever_a_version_of_transformers_puts_it(tmp_path: Path) -> None:
    nested = {"processor_class": "PrismaticProcessor", "image_processor": said()}
    folders = [
        with_files(tmp_path / "4", preprocessor_config=said()),
        with_files(tmp_path / "5", processor_config=nested),
        with_files(tmp_path / "nested", preprocessor_config=nested),
        with_files(tmp_path / "flat", processor_config=said()),
        with_files(tmp_path / "both", preprocessor_config=said(), processor_config=nested),
        with_files(tmp_path / "4 with 5's name", preprocessor_config=said(), processor_config={"processor_class": "P"}),
    ]
    actions = [load_policy(folder, "station", "cpu").act(FRAME, ["close the drawer"]) for folder in folders]
    assert all(means(folder) == (0.2, 0.2, 0.2) for folder in folders)
    assert all(np.array_equal(one, actions[0]) for one in actions)
    policy = load_policy(folders[1], "station", "cpu")
    policy.save(tmp_path / "saved")
    assert means(tmp_path / "saved") == (0.2, 0.2, 0.2), "also for who reads the older file"
    assert json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())["means"] == OTHERS["means"]
    assert means(with_files(tmp_path / "none")) == pytest.approx((0.484375, 0.455078125, 0.40625))
    assert means(with_files(tmp_path / "silent", processor_config={"processor_class": "P"})) != (0.2, 0.2, 0.2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_resize_strategy": "letterbox"}, "image_resize_strategy is 'letterbox'"),
        ({"interpolations": ["bilinear"] * 2}, "interpolations is"),
        ({"tvf_do_letterbox": True}, "tvf_do_letterbox is True"),
        ({"input_sizes": [[3, 224, 224]] * 2}, "input_sizes"),
        ({"tvf_resize_params": [{"size": [224, 224], "interpolation": 3}] * 2}, "tvf_resize_params"),
        ({"tvf_resize_params": [{"size": [64, 64], "interpolation": 2}] * 2}, "tvf_resize_params"),
        ({"tvf_resize_params": [{"size": 64, "interpolation": 3}] * 2}, "tvf_resize_params"),
        ({"tvf_crop_params": [{"output_size": [60, 60]}] * 2}, "tvf_crop_params"),
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type is 'CLIPImageProcessor'"),
        ({"means": None, "image_mean": [0.5] * 3}, "neither tvf_normalize_params nor means"),
        ({"stds": [[0.1, 0.0, 0.1]] * 2}, "a deviation is not positive"),
        ({"means": [[float("nan")] * 3] * 2}, "finite"),
        ({"tvf_resize_params": 5}, "not a readable preprocessor config"),
    ],
)
def test_another_processor_is_refused_in_either_file(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    content = said(**changes)
    for name, files in (
        ("old", {"preprocessor_config": content}),
        ("new", {"processor_config": {"image_processor": content}}),
    ):
        assert words in refused("policy", with_files(tmp_path / name, **files))


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    other = {"image_processor": said(means=[[0.3] * 3] * 2)}
    line = refused("policy", with_files(tmp_path / "a", preprocessor_config=said(), processor_config=other))
    assert "processor_config.json: its means or deviations are not those of preprocessor_config.json" in line
    assert "twice" in refused("policy", with_files(tmp_path / "b", preprocessor_config={**said(), **other}))


# --- rotary positions -------------------------------------------------------------------------------------------------


def with_rope(target: Path, **rope: Any) -> Path:
    folder = copy("policy", target)
    content = json.loads((folder / "config.json").read_text())
    text = {key: value for key, value in content["text_config"].items() if "rope" not in key}
    (folder / "config.json").write_text(json.dumps({**content, "text_config": {**text, **rope}}))
    return folder


@pytest.mark.parametrize(
    ("rope", "theta"),
    [
        ({}, 10000.0),
        ({"rope_scaling": None, "rope_parameters": None}, 10000.0),
        ({"rope_scaling": {"rope_type": "default"}}, 10000.0),
        ({"rope_scaling": {"type": "default"}, "rope_theta": 500.0}, 500.0),
        ({"rope_scaling": {"rope_type": "default", "rope_theta": 500.0}}, 500.0),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, 500.0),
        ({"rope_parameters": {"rope_theta": 500.0}, "rope_theta": 500}, 500.0),
        ({"rope_parameters": {}, "rope_scaling": {}}, 10000.0),
    ],
)
def test_positions_that_are_not_scaled_are_read(rope: dict[str, Any], theta: float, tmp_path: Path) -> None:
    assert load_policy(with_rope(tmp_path / "f", **rope), "station", "cpu").config.language.rope_theta == theta


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling is not supported"),
        ({"rope_scaling": {"type": "yarn", "rope_type": "default"}}, "rope_scaling is not supported"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_scaling is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_scaling is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_scaling is not supported"),
        ({"rope_scaling": "default"}, "needed a mapping"),
        ({"rope_theta": 10000.0, "rope_parameters": {"rope_theta": 500.0}}, "which disagree"),
        ({"rope_parameters": {"rope_theta": "many"}}, "rope_theta is 'many'"),
        ({"head_dim": 7}, "head_dim is 7"),
    ],
)
def test_scaled_positions_are_refused(rope: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refused("policy", with_rope(tmp_path / "f", **rope))


# --- where else such files turn up ------------------------------------------------------------------------------------


def test_the_doctor_looks_into_weights_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone without Git LFS has every file, under its name."""
    (tmp_path / "weights").mkdir()
    shutil.copytree(MINI, tmp_path / "weights" / "mini")
    monkeypatch.setattr(doctor, "PACKAGE_ROOT", tmp_path)
    assert doctor.check_shipped_models().status == "ok"
    (tmp_path / "weights" / "mini" / "judge" / "model.safetensors").write_bytes(POINTER)
    finding = doctor.check_shipped_models()
    assert finding.status == "missing" and "a pointer of Git LFS" in finding.detail
    config = load_config(StationConfig, MINI.parents[2] / "robot_configs" / "simulated_drawer.yaml")
    folder = tmp_path / "weights" / "mini" / "policy"
    (folder / "model.safetensors").write_bytes(POINTER)
    config = dataclasses.replace(config, models=dataclasses.replace(config.models, policy=str(folder)))
    finding = doctor.check_models(config, tmp_path / "station.yaml")
    assert finding.status == "missing" and "policy: " in finding.detail and "a pointer of Git LFS" in finding.detail


def test_the_state_of_a_run_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step_00000001"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"state\.pt: found a pointer of Git LFS"):
        RunFolder(tmp_path).load_checkpoint()
