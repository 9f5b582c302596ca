"""LoRA through `peft`: the numbers of before, every folder that `peft` writes for this base, and the base untouched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy import adapters
from gymnast_core.policy.adapter_state import Evidence, write_evidence
from gymnast_core.policy.lora import adapter_of
from gymnast_core.policy.lora_files import HEAD
from gymnast_core.policy.openvla import OpenVLAPolicy, load_policy
from gymnast_core.ranks import Ranks
from gymnast_core.rl.config import GRPOConfig
from gymnast_core.rl.trainable import ADAPTER, prepare_training
from gymnast_core.rl.weights import TrainedWeights
from tests.machine import HANG_S

GOLDEN = Path(__file__).parent / "goldens" / "adapters"
TOLD = ["open the drawer", "close the drawer", "open it"]
VALUES = np.load(GOLDEN / "values.npz", allow_pickle=False)


@pytest.fixture
def policy() -> OpenVLAPolicy:
    return load_policy(GOLDEN / "base", device="cpu", dtype=torch.float32)


def logits(policy: OpenVLAPolicy) -> np.ndarray:
    with torch.no_grad():
        found: torch.Tensor = policy.model(*policy.inputs(policy.images.prepare(VALUES["frames"]), TOLD))
    return found.numpy()


def flat(policy: OpenVLAPolicy, name: str) -> np.ndarray:
    return torch.cat([value.flatten() for _, value in sorted(adapters.adapter_state(policy, name).items())]).numpy()


# --- the numbers of before -----------------------------------------------------------------------------------------


def test_a_fresh_adapter_trains_as_it_did_before_peft(policy: OpenVLAPolicy) -> None:
    state = torch.get_rng_state()
    adapters.attach(policy, "one", rank=4, alpha=6.0, vision=True, projector=True, seed=7)
    adapters.attach(policy, "two", rank=2, alpha=2.0, seed=8, deviation=0.5)
    assert torch.equal(torch.get_rng_state(), state), "no random number of anybody else's is used up"
    for name in ("one", "two"):
        np.testing.assert_allclose(flat(policy, name), VALUES[f"fresh.{name}"], rtol=0, atol=1e-7)
    adapters.activate(policy, "one")
    optimizer = torch.optim.AdamW(adapters.train_only(policy, "one"), lr=0.01)
    losses = []
    for step in range(4):
        loss = -policy.log_probs(VALUES["frames"], TOLD, VALUES["tokens"], 1.3)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 1:
            found = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
            wanted = {key.removeprefix("gradient."): VALUES[key] for key in VALUES if key.startswith("gradient.")}
            assert {name.removesuffix(".one.weight") for name in found} == set(wanted)
            for name, gradient in found.items():
                np.testing.assert_allclose(gradient, wanted[name.removesuffix(".one.weight")], rtol=1e-4, atol=1e-6)
        optimizer.step()
        losses.append(float(loss.detach()))
    np.testing.assert_allclose(losses, VALUES["losses"], rtol=1e-5)


def test_adapters_written_before_peft_act_as_they_did(policy: OpenVLAPolicy) -> None:
    names = set(policy.model.state_dict())
    store = adapters.AdapterStore(GOLDEN / "adapters")
    assert [record.name for record in store.list(policy.checkpoint.fingerprint)] == ["one", "two"]
    assert store.load(policy, "one").metrics == {"success_after": 0.5}
    store.load(policy, "two")
    assert adapters.active(policy) == ()
    for active in ((), ("one",), ("two",), ("one", "two")):
        adapters.activate(policy, *active)
        np.testing.assert_allclose(logits(policy), VALUES[f"logits.{'+'.join(active)}"], rtol=1e-5, atol=1e-5)
    adapters.detach(policy, "one")
    assert adapters.active(policy) == ("two",)
    adapters.detach(policy, "two")
    assert set(policy.model.state_dict()) == names and all(p.requires_grad for p in policy.model.parameters())
    np.testing.assert_allclose(logits(policy), VALUES["logits."], rtol=1e-5, atol=1e-5)


def test_a_run_of_before_peft_goes_on(policy: OpenVLAPolicy) -> None:
    prepare_training(policy, GRPOConfig(trainable="lora", lora_rank=2))
    trained = TrainedWeights(policy.model, GRPOConfig(), Ranks(), "run")
    assert {adapter_of(name) for name in trained.named} == {ADAPTER}

    def as_before(named: dict[str, Any]) -> dict[str, Any]:
        turned = {}
        for name, value in named.items():
            layer, _, factor = name.removesuffix(f".{ADAPTER}.weight").rpartition(".")
            turned[f"{layer}.adapters.{ADAPTER}.{factor}"] = value
        return turned

    sum((p**2).sum() + p.sum() for p in trained.named.values()).backward()  # type: ignore[union-attr]
    trained.optimizer.step()
    weights, moments = trained.collect(), trained.optimizer_state()
    with torch.no_grad():
        for parameter in trained.named.values():
            parameter.zero_()
    trained.optimizer.state.clear()
    trained.load(as_before(weights))
    trained.load_optimizer_state(as_before(moments))
    assert all(torch.equal(value, weights[name]) for name, value in trained.collect().items())
    assert all(torch.equal(s["exp_avg"], moments[name]["exp_avg"]) for name, s in trained.optimizer_state().items())


# --- folders of other code ------------------------------------------------------------------------------------------


def written_by_peft(folder: Path, **options: Any) -> np.ndarray:
    """A folder as `peft` saves it, with random factors; returns the logits that `peft`'s own model gives."""
    from peft import LoraConfig, get_peft_model

    policy = load_policy(GOLDEN / "base", device="cpu", dtype=torch.float32)
    model = get_peft_model(
        policy.model, LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": ["q_proj"], **options})
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                change = torch.randn(parameter.shape, generator=generator) * 0.2
                parameter.copy_(parameter + change if "magnitude" in name or "lora_" not in name else change)
        inputs = policy.inputs(policy.images.prepare(VALUES["frames"]), TOLD)
        found: torch.Tensor = model.base_model.model(*inputs)
    model.save_pretrained(folder)
    return found.numpy()


BLOCKS = r"vision_backbone\.featurizer\.blocks\.0\..*(qkv|fc1)|projector\.fc[12]"
FOLDERS: dict[str, dict[str, Any]] = {
    "list": {"target_modules": ["q_proj", "v_proj", "fc1"]},
    "expression": {"target_modules": BLOCKS},
    "all-linear": {"target_modules": "all-linear"},
    "excluded": {"target_modules": ["q_proj", "up_proj"], "exclude_modules": [r"layers.0.self_attn.q_proj"]},
    "some layers": {"target_modules": ["down_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "rank-stabilised": {"use_rslora": True, "r": 4},
    "patterns": {
        "target_modules": ["q_proj", "o_proj"],
        "rank_pattern": {"o_proj": 5, r".*layers\.1\.self_attn\.q_proj": 3},
        "alpha_pattern": {"o_proj": 7},
        "use_rslora": True,
    },
    "DoRA": {"target_modules": ["q_proj", "fc1"], "use_dora": True},
    "lora_bias": {"target_modules": ["q_proj", "fc1"], "lora_bias": True},
    "bias": {"target_modules": ["fc1", "q_proj"], "bias": "lora_only"},
    "gaussian, dropout": {"init_lora_weights": "gaussian", "lora_dropout": 0.1},
}


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.filterwarnings("ignore")
def test_a_lora_folder_of_peft_s_acts_here_as_there(kind: str, policy: OpenVLAPolicy, tmp_path: Path) -> None:
    wanted = written_by_peft(tmp_path / "theirs", **FOLDERS[kind])
    if kind == "gaussian, dropout":  # dropped out there, where the model is in training
        wanted = None  # type: ignore[assignment]
    base, store = logits(policy), adapters.AdapterStore(tmp_path)
    record = store.load(policy, "theirs")
    assert record.base == "" and np.array_equal(logits(policy), base), "loaded is not active"
    adapters.activate(policy, "theirs")
    acting = logits(policy)
    assert np.abs(acting - base).max() > 1e-3
    if wanted is not None:
        np.testing.assert_allclose(acting, wanted, rtol=1e-4, atol=1e-4)
    store.save(policy, "theirs", "ours")  # and again, as one of this base
    adapters.detach(policy, "theirs")
    assert np.array_equal(logits(policy), base), "the base is what it was"
    assert store.load(policy, "ours").base == policy.checkpoint.fingerprint
    adapters.activate(policy, "ours")
    np.testing.assert_allclose(logits(policy), acting, rtol=0, atol=1e-6)
    if any("bias" in key and "q_proj" in key for key in adapters.adapter_state(policy, "ours")):
        with pytest.raises(ConfigError, match="cannot be merged"):
            adapters.merge(policy, "ours")
        return
    adapters.merge(policy, "ours")
    np.testing.assert_allclose(logits(policy), acting, rtol=1e-3, atol=1e-3)
    assert adapters.attached(policy) == []


def test_all_linear_by_that_word_is_all_layers_but_the_head(policy: OpenVLAPolicy, tmp_path: Path) -> None:
    linear = [n for n, m in policy.model.named_modules() if isinstance(m, torch.nn.Linear) and n != HEAD]
    wanted = written_by_peft(tmp_path / "all", target_modules=linear)
    edit(tmp_path / "all", target_modules="all-linear")
    adapters.AdapterStore(tmp_path).load(policy, "all")
    adapters.activate(policy, "all")
    np.testing.assert_allclose(logits(policy), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["plain", "DoRA"])
def test_in_bfloat16_factors_stay_float32_and_outputs_are_those_of_float32(tmp_path: Path, options: Any) -> None:
    written_by_peft(tmp_path / "theirs", target_modules=["q_proj", "fc1"], **options)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        policy = load_policy(GOLDEN / "base", device="cpu", dtype=dtype)
        base = logits(policy)
        adapters.AdapterStore(tmp_path).load(policy, "theirs")
        adapters.activate(policy, "theirs")
        assert all(p.dtype == torch.float32 for p in adapters.train_only(policy, "theirs"))
        found.append(logits(policy) - base)
    assert np.abs(found[0] - found[1]).mean() < 0.1 * np.abs(found[0]).mean()


def edit(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def bias_of_another_layer(folder: Path) -> None:
    edit(folder, bias="all")
    path = folder / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.projector.fc1.bias": torch.ones(128)}, path)


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f, modules_to_save=["lm_head"]), "modules_to_save is "),
        (lambda f: edit(f, trainable_token_indices=[1]), "trainable_token_indices is "),
        (lambda f: edit(f, target_parameters=["weight"]), "target_parameters is "),
        (lambda f: edit(f, fan_in_fan_out=True), "fan_in_fan_out is True"),
        (lambda f: edit(f, something_new={"a": 1}), "something_new is "),
        (lambda f: edit(f, init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4'"),
        (lambda f: edit(f, peft_type="IA3"), "peft_type is 'IA3', needed 'LORA'"),
        (lambda f: edit(f, target_modules=["embed_tokens"]), "no linear layer but Embedding"),
        (lambda f: edit(f, target_modules="("), "target_modules is '\\('"),
        (lambda f: edit(f, target_modules=None), "target_modules is None"),
        (lambda f: edit(f, rank_pattern={"q_proj": 0}), "rank_pattern.q_proj is 0"),
        (lambda f: edit(f, alpha_pattern={"q_proj": "7"}), "alpha_pattern.q_proj is '7'"),
        (lambda f: edit(f, lora_alpha=float("inf")), "lora_alpha is inf"),
        (lambda f: edit(f, use_dora="yes"), "use_dora is 'yes', needed true or false"),
        (lambda f: edit(f, use_dora=True), "lora_magnitude_vector of '.*': found nothing"),
        (lambda f: edit(f, bias="some"), "bias is 'some'"),
        (bias_of_another_layer, "projector.fc1.bias"),
        (pickled, "adapter_model.bin, which is not read"),
    ],
)
def test_what_would_change_the_base_is_refused_by_name(
    damage: Callable[[Path], None], message: str, policy: OpenVLAPolicy, tmp_path: Path
) -> None:
    adapters.attach(policy, "theirs", rank=3)
    for parameter in adapters.train_only(policy, "theirs"):
        parameter.data.fill_(0.1)
    adapters.activate(policy, "theirs")
    before = logits(policy)
    written_by_peft(tmp_path / "theirs")
    damage(tmp_path / "theirs")
    store = adapters.AdapterStore(tmp_path)
    assert store.names() == ("theirs",)
    with pytest.raises(CheckpointError, match=message) as caught:
        store.load(policy, "theirs")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert adapters.active(policy) == ("theirs",) and np.array_equal(logits(policy), before), (
        "the one before still acts"
    )
    store.remove("theirs")


@pytest.mark.parametrize("whose", ["theirs", "ours"])
def test_what_was_rolled_back_drives_no_arm_whoever_wrote_it(whose: str, policy: OpenVLAPolicy, tmp_path: Path) -> None:
    written_by_peft(tmp_path / "theirs")
    store = adapters.AdapterStore(tmp_path)
    store.load(policy, "theirs")
    store.save(policy, "theirs", "ours")
    write_evidence(tmp_path / whose, Evidence("rolled back", reason="worse on the robot"))
    with pytest.raises(CheckpointError, match="was rolled back: worse on the robot"):
        store.load(policy, whose)
    store.load(policy, whose, for_study=True)


# --- import -----------------------------------------------------------------------------------------------------------


def test_what_needs_no_adapter_imports_no_peft() -> None:
    program = f"""
import sys
import numpy as np
import gymnast_core.cli, gymnast_core.rl.adapt, gymnast_core.policy.sft, gymnast_core.policy.manage
from gymnast_core.policy.adapters import AdapterStore, deactivate
from gymnast_core.policy.openvla import load_policy
policy = load_policy({str(GOLDEN / "base")!r}, device="cpu")
policy.act(np.zeros((1, 16, 16, 3), np.uint8), ["open the drawer"])
deactivate(policy)
assert AdapterStore({str(GOLDEN / "adapters")!r}).list()
names = ("peft", "transformers", "accelerate", "bitsandbytes", "sympy")
print([name for name in names if name in sys.modules])
import gymnast_core.policy.lora_layer
print([name for name in ("peft", "bitsandbytes") if name in sys.modules])
import bitsandbytes
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S)
    assert done.stdout.strip().splitlines()[-2:] == ["[]", "['peft']"], done.stdout + done.stderr[-2000:]
    assert done.returncode == 0, "what needs bitsandbytes can still import it"
