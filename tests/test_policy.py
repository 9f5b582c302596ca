"""The policy: equal to the reference, checkpoints that survive a round trip, sampling that seeds decide, adapters."""

from __future__ import annotations

import colorsys
import contextlib
import json
import math
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gymnast_core.errors import CheckpointError, ConfigError, DataError
from gymnast_core.policy import adapters
from gymnast_core.policy.checkpoint import build_meta, read_checkpoint
from gymnast_core.policy.config import read_policy_config
from gymnast_core.policy.images import SIDE_BY_SIDE, Augmentation, ImageProcessor, augment, prepare, turn_colours
from gymnast_core.policy.load import open_policy
from gymnast_core.policy.manage import ListAdaptersConfig, RemoveAdapterConfig, list_adapters, remove_adapter
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.policy.prompt import PromptTokens, normalise_instruction
from gymnast_core.policy.recipe import new_checkpoint
from gymnast_core.policy.remote import RemotePolicy
from gymnast_core.policy.scripted import load_script
from gymnast_core.policy.sft_config import ModelRecipe, TowerRecipe
from gymnast_core.policy.statistics import compute_statistics, read_statistics
from gymnast_core.policy.tokens import ActionTokens
from gymnast_core.protocols import EpisodicPolicy, Policy, TrainablePolicy
from tests.golden_values import GOLDENS, label, policy_goldens, unpack
from tests.machine import in_time, slower
from tests.parity.policy import compare
from tests.parity.policy import main as parity_main
from tests.policy_server import PolicyServer

GOLDEN = GOLDENS / "openvla"
TINY = ModelRecipe(
    image_size=32,
    patch_size=8,
    dino=TowerRecipe(16, 3, 2),
    siglip=TowerRecipe(24, 3, 2),
    width=32,
    depth=3,
    heads=2,
    mlp_hidden=64,
    n_bins=16,
    words=("open", "close", "drawer"),
)
RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
INSTRUCTIONS = ["open the drawer", "close the drawer", "put the zebra (left) into a box", "open", "close", "open it"]
STATISTICS = compute_statistics([RANDOM.normal(0, 0.02, (40, 7))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint on disk."""
    target = tmp_path_factory.mktemp("policy") / "tiny"
    checkpoint = new_checkpoint(TINY, ["zebra"], seed=3, folder=target)
    checkpoint.content["norm_stats"]["station"] = STATISTICS  # type: ignore[index]
    checkpoint.model.language_model.lm_head.weight.data.mul_(10.0)  # a head near uniform would hide differences
    OpenVLAPolicy(checkpoint).save(target)
    return target


@pytest.fixture
def policy(folder: Path) -> OpenVLAPolicy:
    return load_policy(folder, device="cpu")


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


# --- the reference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goldens", policy_goldens(), ids=label)
def test_every_golden_value_is_met(goldens: Path) -> None:
    comparison = compare(goldens)
    bad = [line for line in comparison.lines if not line[1] <= line[2]]
    assert len(comparison.lines) > 80
    assert not bad


@pytest.fixture
def golden_copy(tmp_path: Path) -> Path:
    """The golden values, to be damaged."""
    target = tmp_path / "goldens"
    target.mkdir()
    unpack(GOLDEN, target)
    return target


def test_parity_check_names_what_is_missing_or_altered(golden_copy: Path) -> None:
    golden = load_file(str(golden_copy / "golden.safetensors"))
    gradient = next(name for name in golden if name.startswith("grpo_clipped_grad."))
    del golden["row0_projected"], golden[gradient]
    golden["sampled_entropy"][1, 7] += 1e-3
    save_file(golden, str(golden_copy / "golden.safetensors"))
    comparison = compare(golden_copy)
    bad = {name for name, error, tolerance in comparison.lines if not error <= tolerance}
    assert bad == {"row0_projected (missing)", "sampled_entropy", "grpo_clipped_grad.* (1 of 6 missing)"}
    del golden["input_ids"]
    save_file(golden, str(golden_copy / "golden.safetensors"))
    assert parity_main([str(golden_copy)]) == 1
    (golden_copy / "model.safetensors").unlink()
    assert parity_main([str(golden_copy)]) == 1


@pytest.mark.parametrize("mistake", ["rms_norm_eps", "vision_eps"])
def test_parity_check_notices_small_mistakes(mistake: str, golden_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = golden_copy
    if mistake == "rms_norm_eps":  # the mistake that moves the goldens least
        text = json.loads((target / "config.json").read_text())["text_config"]
        edit_json(target / "config.json", text_config={**text, "rms_norm_eps": 1e-5})
    else:
        monkeypatch.setattr("gymnast_core.policy.vision.LAYER_NORM_EPS", 1e-5)
    assert parity_main([str(target)]) == 1


def test_full_size_network_has_exactly_the_checkpoint_keys() -> None:
    wanted = json.loads((GOLDEN / "full_size_keys.json").read_text())
    content = json.loads((GOLDEN / "config.json").read_text())
    del content["tiny_vision_backbones"]
    content["text_config"] = {"model_type": "llama", "pad_token_id": 32000, "vocab_size": 32064}
    model = build_meta(read_policy_config(content, "config.json"))
    found = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert found == wanted
    assert sum(math.prod(shape) for shape in found.values()) == pytest.approx(7.54e9, rel=1e-3)


# --- checkpoints --------------------------------------------------------------------------------------------------


def test_a_saved_checkpoint_gives_the_same_logits(policy: OpenVLAPolicy, tmp_path: Path) -> None:
    before = policy.sample(FRAMES, INSTRUCTIONS, 1.3, range(6))
    again = load_policy(policy.save(tmp_path / "copy", {"command": "test"}), device="cpu")
    after = again.sample(FRAMES, INSTRUCTIONS, 1.3, range(6))
    assert np.array_equal(before.tokens, after.tokens)
    assert np.array_equal(before.log_probs, after.log_probs)
    assert again.checkpoint.fingerprint == policy.checkpoint.fingerprint
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"config.json", "model.safetensors", "dataset_statistics.json", "tokenizer.json"} <= names
    assert {"preprocessor_config.json", "gymnast.json"} <= names


def test_shards_are_written_and_read(policy: OpenVLAPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gymnast_core.policy.checkpoint.SHARD_BYTES", 100_000)
    target = policy.save(tmp_path / "sharded")
    shards = sorted(target.glob("model-*.safetensors"))
    assert len(shards) > 2 and not (target / "model.safetensors").exists()
    assert np.array_equal(load_policy(target, device="cpu").act(FRAMES, INSTRUCTIONS), policy.act(FRAMES, INSTRUCTIONS))
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=shards[1].name):
        read_checkpoint(target)


def edit_text_config(folder: Path, **changes: object) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit_json(folder / "config.json", text_config={**text, **changes})


def write_index(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))


def overflow(folder: Path) -> None:
    state = load_file(str(folder / "model.safetensors"))
    state["projector.fc1.weight"] = torch.full_like(state["projector.fc1.weight"], 1e300, dtype=torch.float64)
    save_file(state, str(folder / "model.safetensors"))


DEEP = "[" * 100_000


def break_vocabulary(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit_text_config(folder, vocab_size=text["vocab_size"] + 1)


def quantise(folder: Path) -> None:
    state = load_file(str(folder / "model.safetensors"))
    state["projector.fc1.weight"] = state["projector.fc1.weight"].to(torch.int8)
    save_file(state, str(folder / "model.safetensors"))


def break_attention(folder: Path) -> None:
    state = load_file(str(folder / "model.safetensors"))
    for name, value in state.items():
        if "self_attn.o_proj" in name:
            value.zero_()
    save_file(state, str(folder / "model.safetensors"))


def break_tensor(folder: Path) -> None:
    state = load_file(str(folder / "model.safetensors"))
    del state["projector.fc2.bias"]
    save_file(state, str(folder / "model.safetensors"))


def break_tokens(folder: Path) -> None:
    """A vocabulary of the right size in another order."""
    text = (folder / "tokenizer.json").read_text()
    content = json.loads(text)
    words = content["model"]["vocab"]
    words["<s>"], words["</s>"] = words["</s>"], words["<s>"]
    for token in content["added_tokens"]:
        token["id"] = words.get(token["content"], token["id"])
    (folder / "tokenizer.json").write_text(json.dumps(content))


def rename_actions(folder: Path) -> None:
    """A vocabulary that names no action tokens is taken for OpenVLA's."""
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<action", "<other"))


NOT_A_NUMBER = {"mean": [float("nan"), 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def break_statistics(folder: Path, dimension: int, low: float, high: float, **changes: object) -> None:
    path = folder / "dataset_statistics.json"
    content = json.loads(path.read_text())
    content["station"]["action"]["q01"][dimension] = low
    content["station"]["action"]["q99"][dimension] = high
    content["station"]["action"].update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_vocabulary, "vocabulary"),
        (break_attention, "causal"),
        (break_tensor, "projector.fc2.bias"),
        (break_tokens, "'<s>' is token 2, config.json says 1"),
        (lambda f: (f / "action_head--1000_checkpoint.pt").touch(), "regression or diffusion head"),
        (lambda f: edit_json(f / "preprocessor_config.json", tvf_normalize_params=[NOT_A_NUMBER] * 2), "finite"),
        (lambda f: edit_json(f / "config.json", bidirectional_attention=False), "causal"),
        (lambda f: break_statistics(f, 2, 0.1, 0.1), "dimension 2 has no range"),
        (lambda f: break_statistics(f, 4, float("nan"), 1.0), "dimension 4 is not finite"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no weights"), "model.safetensors"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json"),
        (lambda f: edit_json(f / "config.json", n_action_bins="many"), "n_action_bins"),
        (lambda f: edit_json(f / "config.json", n_action_bins=12), "n_action_bins is 12, the vocabulary has 16"),
        (lambda f: edit_json(f / "config.json", n_action_bins=300), "too small for 300 action tokens"),
        (lambda f: edit_json(f / "config.json", num_actions_chunk=10**9), "num_actions_chunk is 1000000000"),
        (lambda f: edit_json(f / "config.json", image_sizes=[[32], [32]]), "image_sizes"),
        (lambda f: edit_text_config(f, num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
        (quantise, "its weights are quantised \\('projector.fc1.weight' is I8\\)"),
        (lambda f: break_statistics(f, 3, -1e300, 1e300), "dimension 3 goes from -1e\\+300 to 1e\\+300"),
        (lambda f: break_statistics(f, 3, -(10**400), 1.0), "int too large"),
        (lambda f: break_statistics(f, 0, 0.0, 1.0, mask=["no"] * 7), "mask is not made of true and false"),
        (rename_actions, "n_action_bins is 16, the vocabulary has 256"),
        (lambda f: (f / "config.json").write_bytes((f / "config.json").read_text().encode("utf-16")), "config.json"),
        (lambda f: (f / "config.json").write_text(DEEP), "config.json: not readable JSON"),
        (lambda f: (f / "preprocessor_config.json").write_text(DEEP), "preprocessor_config.json"),
        (lambda f: edit_json(f / "preprocessor_config.json", interpolations=["bilinear"] * 2), "interpolations is"),
        (lambda f: edit_json(f / "preprocessor_config.json", tvf_do_letterbox=True), "tvf_do_letterbox is True"),
        (lambda f: write_index(f, "../x.safetensors"), "weight_map names '../x.safetensors'"),
        (lambda f: write_index(f, ".."), "weight_map names '..'"),
        (lambda f: write_index(f, "x.safetensors"), "shard x.safetensors is missing"),
        (overflow, "'projector.fc1.weight' holds a value that is not finite as float32"),
        (lambda f: edit_text_config(f, num_attention_heads=32, num_key_value_heads=32), "heads of equal, even width"),
        (lambda f: edit_text_config(f, rope_theta=0), "rope_theta is 0"),
        (lambda f: edit_text_config(f, rope_parameters={"rope_type": "yarn"}), "rope_scaling"),
        (lambda f: edit_json(f / "config.json", timm_override_act_layers=["quick_gelu"] * 2), "timm_override_act_lay"),
        (lambda f: edit_json(f / "config.json", tiny_vision_backbones=[{}]), "tiny_vision_backbones"),
        (lambda f: edit_json(f / "config.json", llm_max_length=40), "llm_max_length 40 leaves no place for a prompt"),
    ],
)
def test_a_broken_checkpoint_is_refused_in_one_line(folder: Path, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "broken"
    shutil.copytree(folder, target)
    damage(target)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_policy(target, device="cpu")
    assert "\n" not in str(caught.value)


def test_causal_attention_is_refused_at_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.functional.scaled_dot_product_attention

    def causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **others: object) -> torch.Tensor:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        return plain(query, key, value, attn_mask=mask)

    monkeypatch.setattr("gymnast_core.policy.llama.F.scaled_dot_product_attention", causal)
    with pytest.raises(CheckpointError, match="attention is causal"):
        load_policy(folder, device="cpu")


def test_padding_is_not_attended_to(policy: OpenVLAPolicy) -> None:
    pixels, prompts = policy.inputs(policy.images.prepare(FRAMES), INSTRUCTIONS)
    assert prompts.lengths.min() < prompts.lengths.max()
    with torch.no_grad():
        before = policy.model.action_logits(pixels, prompts)
        pad = prompts.ids == policy.config.pad_token_id
        after = policy.model.action_logits(pixels, replace(prompts, ids=prompts.ids.masked_fill(pad, 5)))
    assert torch.equal(before, after)


def test_what_others_need_of_a_checkpoint_is_kept(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    maps = {"AutoProcessor": "processing_prismatic.PrismaticProcessor"}
    edit_json(source / "preprocessor_config.json", auto_map=maps, means=[[0.485, 0.456, 0.406], [0.5] * 3])
    edit_json(source / "config.json", auto_map={"AutoConfig": "configuration_prismatic.OpenVLAConfig"}, hf_llm_id="x")
    (source / "modeling_prismatic.py").write_text("raise SystemExit('never run')\n")
    edit_json(source / "dataset_statistics.json", other={"action": {"q01": [math.nan] * 7, "q99": [1.0] * 7}})
    saved = load_policy(source, "station", device="cpu").save(tmp_path / "saved")
    assert {path.name for path in source.iterdir()} <= {path.name for path in saved.iterdir()}
    for name in ("preprocessor_config.json", "config.json"):
        before, after = (json.loads((f / name).read_text()) for f in (source, saved))
        assert {key: after[key] for key in before if key not in ("norm_stats", "torch_dtype", "text_config")} == {
            key: before[key] for key in before if key not in ("norm_stats", "torch_dtype", "text_config")
        }
    assert load_policy(saved, "station", device="cpu").images.normalisation == policy_normalisation(folder)


def policy_normalisation(folder: Path) -> object:
    return load_policy(folder, device="cpu").images.normalisation


def test_an_interrupted_or_failing_write_leaves_what_was_there(
    policy: OpenVLAPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = policy.save(tmp_path / "out", {"number": 1})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gymnast_core.policy.checkpoint._write_weights", stop)
    with pytest.raises(KeyboardInterrupt):
        policy.save(target, {"number": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((target / "gymnast.json").read_text()) == {"number": 1}
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "below", tmp_path):
        with pytest.raises(CheckpointError, match=r"not a policy checkpoint|cannot be written"):
            policy.save(bad)


def test_only_a_policy_checkpoint_and_nothing_beside_it_is_replaced(
    policy: OpenVLAPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = policy.save(tmp_path / "out")
    (target / "demonstrations").mkdir()
    with pytest.raises(CheckpointError, match="holds 'demonstrations', which is no part of a policy"):
        policy.save(target)
    (target / "demonstrations").rmdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "world_model"}')
    with pytest.raises(CheckpointError, match="model_type 'world_model', no policy"):
        policy.save(other)
    (tmp_path / "link").symlink_to(target)
    assert policy.save(tmp_path / "link", {"number": 1}) == target and (tmp_path / "link").is_symlink()
    monkeypatch.chdir(target)
    policy.save(".", {"number": 2})
    assert json.loads((target / "gymnast.json").read_text()) == {"number": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "other", "out"]


def test_where_there_is_one_file_and_an_index_the_file_counts(folder: Path, tmp_path: Path) -> None:
    """The original code decides so, too."""
    shutil.copytree(folder, tmp_path / "both")
    (tmp_path / "both" / "model.safetensors.index.json").write_text('{"weight_map": {"x": "old.safetensors"}}')
    assert load_policy(tmp_path / "both", device="cpu").checkpoint.fingerprint == fingerprint(folder)


def fingerprint(folder: Path) -> str:
    return load_policy(folder, device="cpu").checkpoint.fingerprint


def test_a_written_checkpoint_says_what_the_original_keeps_in_code(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bare")
    content = json.loads((tmp_path / "bare" / "config.json").read_text())
    for name in ("num_actions_chunk", "image_variant"):
        del content[name]
    (tmp_path / "bare" / "config.json").write_text(json.dumps(content))
    bare = load_policy(tmp_path / "bare", device="cpu", chunk_length=3, image_variant="jpeg_center_crop")
    again = load_policy(bare.save(tmp_path / "saved"), device="cpu")
    assert (again.chunk_length, again.images.variant) == (3, "jpeg_center_crop")


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:1", "cuda:99"])
def test_a_device_that_is_not_there_is_named(folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device: found '{device}'"):
        load_policy(folder, device=device)


def test_an_unknown_statistics_key_lists_those_present(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no statistics 'bridge_orig'; present: station"):
        load_policy(folder, "bridge_orig", device="cpu")


# --- acting and sampling ------------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_batch(policy: OpenVLAPolicy) -> None:
    assert isinstance(policy, TrainablePolicy)
    seeds = [11, 12, 13, 14, 15, 16]
    whole = policy.sample(FRAMES, INSTRUCTIONS, 1.6, seeds)
    for row in (0, 2, 5):
        alone = policy.sample(FRAMES[row : row + 1], [INSTRUCTIONS[row]], 1.6, [seeds[row]])
        assert np.array_equal(alone.tokens[0], whole.tokens[row])
        assert np.abs(alone.log_probs[0] - whole.log_probs[row]).max() < 1e-4
    order = [3, 1, 4, 0, 5, 2]
    mixed = policy.sample(FRAMES[order], [INSTRUCTIONS[i] for i in order], 1.6, [seeds[i] for i in order])
    assert np.array_equal(mixed.tokens, whole.tokens[order])
    other = policy.sample(FRAMES, INSTRUCTIONS, 1.6, [s + 100 for s in seeds])
    assert not np.array_equal(other.tokens, whole.tokens)


def test_a_group_from_one_frame_is_one_forward(policy: OpenVLAPolicy) -> None:
    rows: list[int] = []
    handle = policy.model.register_forward_pre_hook(lambda *_: None)
    counted = policy.model.projector.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    same = np.repeat(FRAMES[:1], 8, axis=0)
    group = policy.sample(same, [INSTRUCTIONS[0]] * 8, 1.6, range(8))
    assert rows == [1]
    counted.remove()
    handle.remove()
    alone = [policy.sample(FRAMES[:1], INSTRUCTIONS[:1], 1.6, [seed]).tokens[0] for seed in range(8)]
    assert np.array_equal(group.tokens, np.stack(alone))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_log_probabilities_are_those_of_sampling(policy: OpenVLAPolicy, temperature: float) -> None:
    sample = policy.sample(FRAMES, INSTRUCTIONS, temperature, range(6))
    log_probs, entropy = policy.log_probs(FRAMES, INSTRUCTIONS, sample.tokens, temperature)
    assert log_probs.shape == entropy.shape == (6, 35)
    assert float((log_probs - torch.as_tensor(sample.log_probs)).abs().max().detach()) < 1e-4
    log_probs.sum().backward()
    assert float(policy.model.language_model.lm_head.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_draws_follow_the_distribution(policy: OpenVLAPolicy) -> None:
    n = 4000
    drawn = policy.sample(np.repeat(FRAMES[:1], n, 0), [INSTRUCTIONS[0]] * n, 1.6, range(n)).tokens
    frequency = np.stack([np.bincount(drawn[:, d], minlength=16) / n for d in range(35)])
    pixels, prompts = policy.inputs(policy.images.prepare(FRAMES[:1]), INSTRUCTIONS[:1])
    wanted = torch.softmax(policy.model.action_logits(pixels, prompts)[0] / 1.6, -1).detach().numpy()
    assert wanted.max() > 0.1
    error = np.abs(frequency - wanted) / np.sqrt(wanted * (1 - wanted) / n)
    assert error.max() < 5.0


def test_actions_lie_within_the_statistics(policy: OpenVLAPolicy) -> None:
    actions = policy.act(FRAMES, INSTRUCTIONS)
    statistics = policy.statistics
    assert actions.shape == (6, 5, 7) and actions.dtype == np.float32
    assert (actions[..., :6] >= statistics.low[:6]).all() and (actions[..., :6] <= statistics.high[:6]).all()


@pytest.mark.parametrize(
    ("frames", "instructions", "message"),
    [
        (FRAMES[:1].astype(np.float32), ["open"], "float32, needed a uint8"),
        (FRAMES[:1].astype(">u2"), ["open"], ">u2, needed a uint8"),
        (torch.as_tensor(FRAMES[:1]), ["open"], "torch.Tensor, needed a NumPy array"),
        ([torch.as_tensor(FRAMES[0])], ["open"], "torch.Tensor, needed a NumPy array"),
        ([FRAMES[0], FRAMES[0, :40]], ["open"] * 2, "needed one shape"),
        (None, ["open"], "frames: found NoneType"),
        (FRAMES[:4], "open", "instructions: found str"),  # not four instructions of one letter
        (FRAMES[:1], None, "instructions: found NoneType"),
        (FRAMES[:1].transpose(0, 3, 1, 2), ["open"], "needed \\(height, width, 3\\)"),
        (FRAMES[:1, :, :, :1], ["open"], "shape"),
        (FRAMES[:1, :1, :1], ["open"], "pixels"),
        (FRAMES[:1], ["open", "close"], "instructions"),
        (FRAMES[0], ["open"] * 48, "needed \\(N, height, width, 3\\)"),
        (FRAMES[:0], [], "frames"),
        (FRAMES[:1], [" \n "], "empty"),
        (FRAMES[:1], ["open " * 2000], "512"),
        (FRAMES[:1], ["open\nOut: close"], "marker"),
        (FRAMES[:1], ["open </s>"], "marker"),
        (FRAMES[:1], ["open\x00"], "print"),
    ],
)
def test_bad_input_is_refused(policy: OpenVLAPolicy, frames: Any, instructions: Any, message: str) -> None:
    tokens = np.zeros((len(instructions or []), 35), dtype=np.int64)
    for ask in (
        lambda: policy.act(frames, instructions),
        lambda: policy.sample(frames, instructions, 1.0, [0]),
        lambda: policy.log_probs(frames, instructions, tokens, 1.0),
    ):
        with pytest.raises(DataError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_an_output_that_is_not_finite_is_no_action(policy: OpenVLAPolicy) -> None:
    """The arg max over NaN would be the first bin: full speed along every axis."""
    policy.model.language_model.model.norm.weight.data.fill_(math.nan)
    for ask in (lambda: policy.act(FRAMES, INSTRUCTIONS), lambda: policy.sample(FRAMES, INSTRUCTIONS, 1.0, range(6))):
        with pytest.raises(CheckpointError, match="output is not finite"):
            ask()


def test_a_tokenizer_saved_with_truncation_and_padding_cuts_nothing(
    policy: OpenVLAPolicy, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "other")
    tokenizer = policy.prompts.tokenizer
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    (tmp_path / "other" / "tokenizer.json").write_text(tokenizer.to_str())
    prompts = load_policy(folder, device="cpu").prompts, load_policy(tmp_path / "other", device="cpu").prompts
    assert prompts[0](INSTRUCTIONS[2]) == prompts[1](INSTRUCTIONS[2])


def test_an_instruction_the_vocabulary_cannot_spell_is_refused(policy: OpenVLAPolicy) -> None:
    for text in ("öffne die schublade", "open 打开", "z" * 300):  # they would all be the unknown token
        with pytest.raises(DataError, match=r"cannot be spelt in this vocabulary: it has a word it does not know"):
            policy.act(FRAMES[:1], [text])
    tokenizer, config = policy.prompts.tokenizer, policy.config
    last = tokenizer.token_to_id("##z")  # stands for one of Llama's rare characters that are actions
    with pytest.raises(DataError, match="'##z', which is an action here"):
        PromptTokens(tokenizer, config.bos_token_id, last, 99, "tokenizer.json")("openz")
    short = PromptTokens(tokenizer, config.bos_token_id, config.first_action_id, 40, "tokenizer.json")
    with pytest.raises(DataError, match=r"makes a prompt of \d+ tokens, allowed are 40; shorten it"):
        short("open " * 30)
    with pytest.raises(CheckpointError, match="wrong vocabulary"):
        PromptTokens(tokenizer, config.bos_token_id, 5, 99, "tokenizer.json")


def test_instructions_are_normalised(policy: OpenVLAPolicy) -> None:
    assert normalise_instruction("  Open\n the   DRAWER ") == "open the drawer"
    assert normalise_instruction("pull the handle outward; begin: now") == "pull the handle outward; begin: now"
    prompt = policy.prompts("Open the\ndrawer")
    assert prompt == policy.prompts("open the drawer")
    assert prompt[0] == 1 and prompt[-1] == policy.prompts.empty_token_id
    assert len(prompt) < len(policy.prompts("open the zzebra"))  # a word it was not built with is spelt, not lost
    assert policy.prompts("open the xyz") != policy.prompts("open the xyw")


def test_bad_tokens_are_refused(policy: OpenVLAPolicy) -> None:
    for tokens in (
        np.full((1, 35), 16),
        np.full((1, 35), -1),
        np.zeros((1, 34), int),
        np.zeros((1, 35)),
        [[1], [1, 2]],
    ):
        with pytest.raises(DataError, match="tokens"):
            policy.log_probs(FRAMES[:1], ["open"], tokens, 1.0)  # type: ignore[arg-type]
    for actions in (np.full((5, 7), np.nan), np.zeros((4, 7)), None):
        with pytest.raises(DataError, match="actions"):
            policy.encode_actions(actions)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["1.6", None, math.nan, math.inf, -1.0, 0.0, 1e-30, True, np.ones(99), [1.0]])
def test_a_bad_temperature_is_refused(policy: OpenVLAPolicy, bad: Any) -> None:
    tokens = np.zeros((1, 35), dtype=np.int64)
    for ask in (
        lambda: policy.sample(FRAMES[:1], ["open"], bad, [0]),
        lambda: policy.log_probs(FRAMES[:1], ["open"], tokens, bad),
    ):
        with pytest.raises(DataError, match=r"temperature: found .*, needed a number from 0\.001 to 1000") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [None, [], [0, 1], [-1], [1.5], [math.nan], ["1"], 7])
def test_bad_seeds_are_refused(policy: OpenVLAPolicy, bad: Any) -> None:
    with pytest.raises(DataError, match=r"seeds: found .*, needed a whole number from 0 for each of 1 frames"):
        policy.sample(FRAMES[:1], ["open"], 1.0, bad)


# --- tokens, statistics, images -----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(8, 300), st.lists(st.floats(-3, 3), min_size=1, max_size=20))
def test_encoding_loses_at_most_half_a_bin(n_bins: int, values: list[float]) -> None:
    tokens = ActionTokens(n_bins)
    array = np.array(values)
    encoded = tokens.encode(array)
    assert encoded.min() >= 0 and encoded.max() < n_bins
    assert np.abs(tokens.decode(encoded) - np.clip(array, -1, 1)).max() <= 1.0 / (n_bins - 1) + 1e-12


def test_openvla_token_facts() -> None:
    tokens = ActionTokens(256)
    assert tokens.encode(np.array([1.0, 0.0, -1.0])).tolist() == [0, 128, 255]  # ids 31744, 31872, 31999
    assert tokens.decode(np.array([0, 1])).tolist() == pytest.approx([1 - 1 / 255] * 2)
    assert len(np.unique(tokens.decode(np.arange(256)))) == 255


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-0.02, 0.02), min_size=7, max_size=7))
def test_normalising_and_back(values: list[float]) -> None:
    statistics = read_statistics({"station": STATISTICS}, None, "test")
    inside = np.clip(np.array(values), statistics.low, statistics.high)
    assert np.abs(statistics.unnormalise(statistics.normalise(inside)) - inside).max() < 1e-6


def test_an_unused_dimension_keeps_a_usable_range() -> None:
    actions = np.zeros((30, 7), dtype=np.float32)
    actions[:, 0] = np.linspace(-0.03, 0.03, 30)
    statistics = read_statistics({"s": compute_statistics([actions])}, "s", "test")
    assert (statistics.high - statistics.low)[1:6] == pytest.approx([0.01, 0.01, 0.02, 0.02, 0.02])
    assert statistics.mask.tolist() == [True] * 6 + [False]


def test_image_variants_differ_and_augmentation_is_seeded() -> None:
    frame = np.linspace(0, 255, 96 * 128 * 3).reshape(96, 128, 3).astype(np.uint8)
    variants = [prepare(frame, name, 32) for name in ("resize", "center_crop", "jpeg_center_crop")]  # type: ignore[arg-type]
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in variants)
    assert not np.array_equal(variants[0], variants[1]) and not np.array_equal(variants[1], variants[2])
    nothing = augment(frame, "resize", 32, Augmentation(), np.random.default_rng(0))
    assert np.array_equal(nothing, variants[0])
    jitter = Augmentation(0.8, 0.1, 0.1, 0.1)
    drawn = [augment(frame, "center_crop", 32, jitter, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_colours_turn_as_in_the_standard_library() -> None:
    image = np.concatenate([RANDOM.random((60, 3)), [[0.0] * 3, [1.0] * 3, [0.4] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    for factor, turn in ((1.0, 0.0), (0.8, 0.05), (1.7, -0.3)):
        for colour, found in zip(image, turn_colours(image, factor, turn)):
            hue, saturation, value = colorsys.rgb_to_hsv(*colour)
            wanted = colorsys.hsv_to_rgb((hue + turn) % 1.0, min(1.0, saturation * factor), value)
            assert found == pytest.approx(wanted, abs=1e-9)


def test_many_frames_are_prepared_side_by_side_as_one_by_one() -> None:
    images = ImageProcessor(224, "center_crop")
    frames = np.random.default_rng(3).integers(0, 256, (24, 48, 64, 3), dtype=np.uint8)
    assert len(frames) * 224**2 > SIDE_BY_SIDE, "threads do it"
    np.testing.assert_array_equal(images.prepare(frames), np.stack([images.prepare(one[None])[0] for one in frames]))
    with pytest.raises(DataError, match="found shape"):
        images.prepare([*frames, frames[0, 0]])  # type: ignore[arg-type]


def test_training_crops_keep_as_much_as_acting_does() -> None:
    """Columns hold their own number, so that the first and last one tell where a crop began and ended."""
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    sides = {"center_crop": [], "resize": []}  # type: dict[str, list[float]]
    for variant, found in sides.items():
        for seed in range(40):
            crop = augment(ramp, variant, 64, Augmentation(0.9), np.random.default_rng(seed))  # type: ignore[arg-type]
            found.append((float(crop[0, -1, 0]) - float(crop[0, 0, 0])) / 255)
    acting = prepare(ramp, "center_crop", 64).astype(float)
    assert np.ptp(acting[0, :, 0]) / 255 == pytest.approx(np.sqrt(0.9), abs=0.01)
    assert sides["center_crop"] == pytest.approx([np.sqrt(0.9)] * 40, abs=0.01)  # OpenVLA-OFT: scale 0.9 to 0.9
    assert min(sides["resize"]) < 0.96 and max(sides["resize"]) > 0.97


# --- adapters -----------------------------------------------------------------------------------------------------


def scramble(policy: OpenVLAPolicy, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters.train_only(policy, name):
        parameter.data.normal_(0, 0.3, generator=generator)


def test_adapters_come_and_go_and_leave_the_base_untouched(
    policy: OpenVLAPolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = policy.act(FRAMES, INSTRUCTIONS)
    pixels, prompts = policy.inputs(policy.images.prepare(FRAMES), INSTRUCTIONS)
    logits = policy.model.action_logits(pixels, prompts).detach()
    weights = {name: value.clone() for name, value in policy.model.state_dict().items()}
    for number, name in enumerate(("open_drawer", "close_drawer")):
        adapters.attach(policy, name, rank=4, alpha=8.0, vision=True, projector=True)
        adapters.activate(policy, name)
        assert torch.equal(policy.model.action_logits(pixels, prompts), logits)  # fresh: changes nothing
        scramble(policy, name, number)
    outcomes = {}
    for names in (("open_drawer",), ("close_drawer",), ("open_drawer", "close_drawer")):
        adapters.activate(policy, *names)
        outcomes[names] = policy.act(FRAMES, INSTRUCTIONS)
        assert not np.array_equal(outcomes[names], base)
    assert not np.array_equal(outcomes["open_drawer",], outcomes["open_drawer", "close_drawer"])
    adapters.activate(policy, "open_drawer", "open_drawer")  # naming one twice does not double it
    assert np.array_equal(policy.act(FRAMES, INSTRUCTIONS), outcomes["open_drawer",])
    store = adapters.AdapterStore(tmp_path)
    store.save(policy, "open_drawer", "open_drawer", "lab", "open_drawer", {"success_after": 0.5})
    adapters.deactivate(policy)
    assert np.array_equal(policy.act(FRAMES, INSTRUCTIONS), base)
    adapters.detach(policy, "open_drawer")
    adapters.detach(policy, "close_drawer")
    after = policy.model.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[name], weights[name]) for name in weights)

    running = load_policy(policy.checkpoint.folder, device="cpu")
    began = time.process_time()  # not the clock: other work on the machine is not its fault
    record = store.load(running, "open_drawer")
    adapters.activate(running, "open_drawer")
    assert (time.process_time() - began) / slower() < 1.0
    assert (record.station, record.task, record.metrics) == ("lab", "open_drawer", {"success_after": 0.5})
    assert np.array_equal(running.act(FRAMES, INSTRUCTIONS), outcomes["open_drawer",])
    assert [r.name for r in store.list(running.checkpoint.fingerprint)] == ["open_drawer"]
    assert list_adapters(ListAdaptersConfig(str(tmp_path))) == 0
    assert capsys.readouterr().out.startswith("open_drawer  imagined, ungated  (lab / open_drawer, ")
    assert remove_adapter(RemoveAdapterConfig("open_drawer", str(tmp_path))) == 0
    assert store.list() == []
    with pytest.raises(CheckpointError, match="present: none"):
        store.load(running, "open_drawer")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit_json(f / "adapter.json", rank=4), "rank is 4, adapter_config.json beside it says 2"),
        (
            lambda f: edit_json(f / "adapter_config.json", r=4),
            r"found torch.float32 of shape \(2, 32\), needed floats of",
        ),
        (lambda f: edit_json(f / "adapter_config.json", r=0), "r is 0, needed a whole number from 1"),
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda f: edit_json(f / "adapter.json", rank=True), "rank is True"),
        (lambda f: edit_json(f / "adapter.json", alpha="5"), "alpha is '5'"),
        (lambda f: edit_json(f / "adapter.json", alpha=math.inf), "alpha is inf"),
        (lambda f: edit_json(f / "adapter.json", created=3), "created is 3"),
        (lambda f: edit_json(f / "adapter.json", metrics={"a": "b"}), "metrics.a is 'b'"),
        (lambda f: edit_json(f / "adapter.json", modules="abc"), "modules is 'abc'"),
        (lambda f: edit_json(f / "adapter.json", modules=["language_model.x"]), "modules is \\['language_model.x'"),
        (lambda f: edit_json(f / "adapter_config.json", target_modules=[LAYER]), "which adapter_config.json does not"),
        (lambda f: edit_json(f / "adapter_config.json", target_modules=["x"]), "names no layer that this policy has"),
        (lambda f: (f / "adapter.json").write_text("{}"), "it lacks base, rank, alpha, modules"),
        (lambda f: (f / "adapter.json").write_text(DEEP), "not readable adapter record"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"{"), "needed a safetensors file"),
        (lambda f: change_factors(f, lambda factor: factor.to(torch.int8)), "found torch.int8"),
        (lambda f: change_factors(f, lambda factor: factor * math.nan), "holds a value that is not finite"),
    ],
)
def test_a_broken_adapter_is_refused_listed_and_removed(
    policy: OpenVLAPolicy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage,  # type: ignore[no-untyped-def]
    message: str,
) -> None:
    store = adapters.AdapterStore(tmp_path)
    adapters.attach(policy, "mine", rank=2)
    for name in ("bad", "good"):
        store.save(policy, "mine", name)
    adapters.detach(policy, "mine")
    damage(tmp_path / "bad")
    with pytest.raises(CheckpointError, match=message) as caught:
        store.load(policy, "bad")
    assert "\n" not in str(caught.value) and adapters.attached(policy) == []
    assert list_adapters(ListAdaptersConfig(str(tmp_path))) == 0
    assert [line.split()[0] for line in sorted(capsys.readouterr().out.splitlines())] == ["bad", "good"]
    assert remove_adapter(RemoveAdapterConfig("bad", str(tmp_path))) == 0
    assert store.names() == ("good",)


LAYER = "language_model.model.layers.0.self_attn.q_proj"


def change_factors(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: change(factor) for name, factor in load_file(str(path)).items()}, str(path))


def test_an_adapter_is_replaced_whole_or_not_at_all(
    policy: OpenVLAPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = adapters.AdapterStore(tmp_path)
    adapters.attach(policy, "mine", rank=2)
    store.save(policy, "mine", "kept", task="first")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gymnast_core.policy.adapters.put_in_place", stop)
        with pytest.raises(KeyboardInterrupt):
            store.save(policy, "mine", "kept", task="second")
    assert store.read("kept").task == "first" and [path.name for path in tmp_path.iterdir()] == ["kept"]
    store.save(policy, "mine", "kept", task="second")
    assert store.read("kept").task == "second" and [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_an_adapter_of_another_base_is_refused(policy: OpenVLAPolicy, tmp_path: Path) -> None:
    adapters.attach(policy, "mine", rank=2)
    store = adapters.AdapterStore(tmp_path / "adapters")
    store.save(policy, "mine", "mine")
    policy.model.projector.fc1.weight.data.add_(0.1)
    other = load_policy(policy.save(tmp_path / "other"), device="cpu")
    with pytest.raises(CheckpointError, match="belongs to base"):
        store.load(other, "mine")
    with pytest.raises(ConfigError, match="not attached"):
        adapters.activate(other, "mine")
    for name in ("../x", "", "a b", "keys"):
        for ask in (lambda n=name: adapters.attach(policy, n), lambda n=name: store.load(policy, n)):
            with pytest.raises(ConfigError, match="adapter name"):
                ask()


def test_a_merged_adapter_acts_as_it_did(policy: OpenVLAPolicy, tmp_path: Path) -> None:
    adapters.attach(policy, "mine", rank=4, alpha=4.0, vision=True)
    scramble(policy, "mine", 5)
    adapters.activate(policy, "mine")
    pixels, prompts = policy.inputs(policy.images.prepare(FRAMES), INSTRUCTIONS)
    with torch.no_grad():
        before = policy.model.action_logits(pixels, prompts)
        adapters.merge(policy, "mine")
        after = load_policy(policy.save(tmp_path / "merged"), device="cpu").model.action_logits(pixels, prompts)
    assert float((before - after).abs().max()) < 1e-3


# --- other implementations of the protocol ------------------------------------------------------------------------


def test_a_script_is_a_policy(tmp_path: Path) -> None:
    actions = RANDOM.normal(0, 0.01, (7, 7)).astype(np.float32)
    actions[:, 6] = 1.0
    np.savez(tmp_path / "script.npz", actions=actions)
    script = load_script(tmp_path / "script.npz")
    assert isinstance(script, Policy) and not isinstance(script, TrainablePolicy)
    first, second = script.act(FRAMES[:2], INSTRUCTIONS[:2]), script.act(FRAMES[:2], INSTRUCTIONS[:2])
    assert np.array_equal(first[0], actions[:5]) and np.array_equal(second[1, :2], actions[5:])
    assert script.finished and (second[:, 2:, :6] == 0).all() and (second[:, 2:, 6] == 1).all()
    script.restart()
    assert np.array_equal(script.act(FRAMES[:1], ["x"])[0], actions[:5])
    np.savez(tmp_path / "wrong.npz", motion=actions)
    with pytest.raises(DataError, match=r"wrong\.npz"):
        load_script(tmp_path / "wrong.npz")
    assert isinstance(open_policy(tmp_path / "script.npz"), EpisodicPolicy)


@pytest.fixture
def server(policy: OpenVLAPolicy) -> Iterator[PolicyServer]:
    running = PolicyServer(policy)
    yield running
    running.end()


def test_a_policy_behind_a_server_acts_like_the_policy(policy: OpenVLAPolicy, server: PolicyServer) -> None:
    remote = open_policy(server.address)
    assert isinstance(remote, EpisodicPolicy) and not isinstance(remote, TrainablePolicy)
    assert remote.chunk_length == 5
    assert np.array_equal(remote.act(FRAMES, INSTRUCTIONS), policy.act(FRAMES, INSTRUCTIONS))
    remote.restart()
    assert server.paths == ["/act", "/reset", *["/act"] * 6, "/reset"]
    server.spoil = lambda actions: json.dumps(json.dumps(actions.tolist())).encode()  # a list, encoded twice
    assert remote.act(FRAMES[:1], ["open"]) == pytest.approx(policy.act(FRAMES[:1], ["open"]))
    for spoil, message in (
        (lambda actions: b"<html>", "no JSON"),
        (lambda actions: json.dumps(actions[0].tolist()).encode(), "1 actions, needed 5"),
        (lambda actions: json.dumps([[0.0] * 7] * 100).encode(), "100 actions, needed 5"),
        (lambda actions: json.dumps((actions * math.nan).tolist()).encode(), "finite"),
        (lambda actions: b'{"__numpy__": "AAAA", "dtype": "|O", "shape": [1]}', "not an array"),
        (lambda actions: b'{"__numpy__": "AAAA", "dtype": "(,)f4", "shape": [1]}', "not an array"),
        (lambda actions: b"[" * 100_000, "no JSON"),
        (lambda actions: json.dumps([[10**400] * 7] * 5).encode(), "not an array"),
        (lambda actions: json.dumps([[1e300] * 7] * 5).encode(), "inf"),
        (lambda actions: b" " * (1 << 21), "more than 1048576 bytes"),
    ):
        server.spoil = spoil
        with pytest.raises(DataError, match=message):
            remote.act(FRAMES[:1], ["open"])
    with pytest.raises(CheckpointError, match="takes no adapter"):
        open_policy(remote.address, adapter="mine")  # type: ignore[attr-defined]
    remote.close()  # type: ignore[attr-defined]
    for bad in ("http://", "http://localhost:99999", "http://a?b", "http://name:word@a"):
        with pytest.raises(ConfigError, match="needed http"):
            open_policy(bad)


@pytest.mark.parametrize("forever", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X: a\r\n", b" "])
def test_a_server_that_never_comes_to_an_end_is_left(forever: bytes) -> None:
    """Every byte begins a socket's own time limit anew."""
    head = b"" if forever.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"
    head += b"Content-Length: 99999\r\n\r\n" if forever == b" " else b""

    def answer(listening: socket.socket) -> None:
        with listening.accept()[0] as connection, contextlib.suppress(OSError):
            connection.sendall(head)
            while True:
                connection.sendall(forever)
                time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        began = time.monotonic()
        with pytest.raises(DataError, match=r"no policy server answers \(timed out\)"):
            RemotePolicy(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.3)
        assert in_time(5.0, began)
