"""A base in 4 bits: smaller, close to the full one, frozen; its adapters are adapters like any other."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gymnast_core.config import load_config
from gymnast_core.errors import ConfigError
from gymnast_core.policy import adapters
from gymnast_core.policy.lora import adapter_of
from gymnast_core.policy.openvla import OpenVLAPolicy
from gymnast_core.ranks import Ranks
from gymnast_core.rl.adapt import AdaptConfig, adapt
from gymnast_core.rl.config import GRPOConfig, load_recipe
from gymnast_core.rl.four_bit import BLOCK, FourBitLinear, quantise_base
from gymnast_core.rl.trainable import ADAPTER, open_recipe, open_trainable_policy, prepare_training
from gymnast_core.station_file import open_station
from tests.tiny_station import INSTRUCTION, build_tiny_station, picture

pytest.importorskip("bitsandbytes")
RECIPE = GRPOConfig(trainable="lora", base_precision="nf4", lora_rank=4)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_station(tmp_path_factory.mktemp("tiny"))


def open_both(station: Path) -> tuple[OpenVLAPolicy, OpenVLAPolicy]:
    opened = open_station(str(station))
    return open_trainable_policy(opened), open_trainable_policy(opened, RECIPE)


def logits(policy: OpenVLAPolicy) -> torch.Tensor:
    frames = np.stack([picture(i) for i in range(4)])
    with torch.no_grad():
        return policy.model(*policy.inputs(policy.images.prepare(frames), [INSTRUCTION] * 4))


def distance(one: OpenVLAPolicy, other: OpenVLAPolicy) -> float:
    """Of the logits, relative to their spread over an action's bins."""
    a, b = logits(one), logits(other)
    centred = a - a.mean(-1, keepdim=True)
    return float(((a - a.mean(-1, keepdim=True)) - (b - b.mean(-1, keepdim=True))).norm() / centred.norm())


def test_four_bits_a_weight_and_logits_close_to_the_full_base_s(station: Path) -> None:
    full, small = open_both(station)
    layers = {name: module for name, module in small.model.named_modules() if isinstance(module, FourBitLinear)}
    assert len(layers) == 7 * full.config.language.depth
    weights = dict(full.model.named_parameters())
    for name, layer in layers.items():
        n_bytes = sum(buffer.numel() * buffer.element_size() for buffer in (layer.codes, layer.scales))
        assert n_bytes == layer.in_features * layer.out_features * (4 + 32 / BLOCK) / 8
        error = (layer.weight - weights[f"{name}.weight"]).norm() / weights[f"{name}.weight"].norm()
        assert 0.05 < error < 0.11, "NF4's error on normal weights is 9 %"
    kept = [name for name, _ in full.model.named_parameters() if f"{name.rpartition('.')[0]}" not in layers]
    assert set(kept) == {name for name, _ in small.model.named_parameters()}
    assert 0 < distance(full, small) < 0.2


def test_only_the_adapter_learns_and_likelihoods_are_the_quantised_base_s(station: Path) -> None:
    full, small = open_both(station)
    prepare_training(small, RECIPE)
    frames, told = np.stack([picture(i) for i in range(4)]), [INSTRUCTION] * 4
    drawn = small.sample(frames, told, 1.3, [1, 2, 3, 4])
    codes = {name: buffer.clone() for name, buffer in small.model.named_buffers()}
    optimizer = torch.optim.AdamW(small.parameters(), lr=0.03)
    for step in range(8):
        log_probs, _ = small.log_probs(frames, told, drawn.tokens, 1.3)
        if step == 0:
            np.testing.assert_allclose(log_probs.detach().numpy(), drawn.log_probs, atol=2e-6)
            theirs = full.log_probs(frames, told, drawn.tokens, 1.3)[0].detach().numpy()
            assert np.abs(theirs - drawn.log_probs).max() > 1e-3, "those of the full base are others"
            first = float(log_probs.sum().detach())
        optimizer.zero_grad()
        (-log_probs.sum()).backward()
        assert {name for name, p in small.model.named_parameters() if p.grad is not None} == {
            name for name, _ in small.model.named_parameters() if adapter_of(name) == "practice"
        }
        optimizer.step()
    assert float(log_probs.sum().detach()) > first + 1, "it learns"
    assert all(torch.equal(codes[name], buffer) for name, buffer in small.model.named_buffers())
    with pytest.raises(ConfigError, match="full base"):
        adapters.merge(small, "practice")


def test_the_gradient_is_that_of_the_dequantised_weights(station: Path) -> None:
    full, small = open_both(station)
    same = copy.deepcopy(full)  # a full policy whose weights are the 4-bit ones, computed once
    for name, layer in small.model.named_modules():
        if isinstance(layer, FourBitLinear):
            same.model.get_submodule(name).weight.data.copy_(layer.weight)  # type: ignore[operator]
    gradients = []
    for policy in (small, same):
        prepare_training(policy, dataclasses.replace(RECIPE, recompute_activations=policy is small))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.05)  # a fresh adapter's first factor has no gradient
        frames = np.stack([picture(i) for i in range(2)])
        tokens = np.arange(2 * policy.config.n_action_tokens).reshape(2, -1) % 8
        policy.log_probs(frames, [INSTRUCTION] * 2, tokens, 1.0)[0].sum().backward()
        gradients.append([parameter.grad for parameter in policy.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_an_adapter_of_a_4_bit_base_acts_on_the_full_one(station: Path, tmp_path: Path) -> None:
    recipe = station.with_name("four_bit.yaml")
    recipe.write_text(station.with_name("recipe.yaml").read_text() + "base_precision: nf4\n")
    config = AdaptConfig(
        (str(station.with_name("start.png")),),
        INSTRUCTION,
        config=str(station),
        recipe=str(recipe),
        run=str(tmp_path / "run"),
        validation_rollouts=0,
    )
    assert adapt(config) in (0, 1)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["iterations"] == 2

    full, small = open_both(station)
    prepare_training(small, RECIPE)
    with torch.no_grad():
        for index, parameter in enumerate(small.parameters()):
            parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(index))
    store = adapters.AdapterStore(tmp_path / "adapters")
    base = distance(full, small)
    store.save(small, ADAPTER, "mine")
    for policy in (full, small):
        store.load(policy, "mine")
        adapters.activate(policy, "mine")
    state = adapters.adapter_state(full, "mine")
    assert all(torch.equal(value, state[name]) for name, value in adapters.adapter_state(small, "mine").items())
    untouched = open_trainable_policy(open_station(str(station)))
    assert distance(untouched, full) > 0.3, "the adapter does something"
    assert distance(full, small) < max(0.2, 2 * base), "and nearly the same on either base"


def test_what_does_not_go_with_four_bits_is_refused(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full.yaml").write_text("trainable: full\nbase_precision: nf4\n")
    with pytest.raises(ConfigError, match="all weights need float32"):
        load_recipe(str(tmp_path / "full.yaml"))
    (tmp_path / "lora.yaml").write_text("trainable: lora\nbase_precision: nf4\n")
    several = Ranks()
    several.size = 2
    with pytest.raises(ConfigError, match="shard: false"):
        open_recipe(str(tmp_path / "lora.yaml"), several)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
    with pytest.raises(ConfigError, match="four-bit"):
        quantise_base(open_trainable_policy(open_station(str(station))).model, "cpu")
    assert load_config(GRPOConfig, tmp_path / "lora.yaml").base_precision == "nf4"
