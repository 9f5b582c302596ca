"""The world model computes what WorldGym computes, and its cache changes nothing but the time taken."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gymnast_core.data.worldgym import scale_actions, unscale_actions
from gymnast_core.errors import CheckpointError
from gymnast_core.world_model.actions import null_action, to_worldgym
from gymnast_core.world_model.checkpoint import load_worldgym_checkpoint
from gymnast_core.world_model.compiled import CompiledPasses
from gymnast_core.world_model.config import CACHE_MODES, CacheMode, SolverKind, WorldModelConfig
from gymnast_core.world_model.diffusion import Schedule, Solver, teacher_forcing_loss, teacher_forcing_mask
from gymnast_core.world_model.model import WorldModel, attend_reading_once, parameter_count
from gymnast_core.world_model.sampler import LatentRollout
from tests.golden_values import GOLDENS, label, world_model_goldens
from tests.parity.world_model import TOLERANCE, errors, load, main, rollout

FILES = world_model_goldens()
TINY = WorldModelConfig(in_channels=3, patch_size=2, dim=32, num_layers=2, num_heads=2, max_frames=4)


def tiny(seed: int = 0, config: WorldModelConfig = TINY) -> WorldModel:
    """Random weights everywhere, the zero-initialised gates and output included, so that every path matters."""
    model = WorldModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


@pytest.mark.parametrize("path", FILES, ids=label)
def test_every_golden_tensor_is_matched(path: Path) -> None:
    found = errors(path)
    assert set(found) == {"alphas_cumprod", "forward_v", "loss", "rollout_latents"}
    assert max(found.values()) <= TOLERANCE, found


def test_the_parity_command_fails_on_a_wrong_or_missing_tensor(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors, config = load(FILES[0])
    metadata = {"config": json.dumps(config)}
    wrong = {**tensors, "forward_v": tensors["forward_v"] + 1e-3}
    save_file(wrong, str(tmp_path / "wrong.safetensors"), metadata)
    save_file({k: v for k, v in tensors.items() if k != "loss_noise"}, str(tmp_path / "less.safetensors"), metadata)
    assert main([str(FILES[0])]) == 0
    assert main([str(tmp_path / "wrong.safetensors")]) == 1
    assert main([str(tmp_path / "less.safetensors")]) == 1


@pytest.mark.parametrize("path", FILES, ids=label)
def test_cache_modes_agree_until_the_window_slides_and_exact_agrees_after(path: Path) -> None:
    tensors, config = load(path)
    window = config["max_frames"]
    plain = rollout(tensors, config, "no_cache")
    assert plain.shape[1] > window
    for mode in ("frame_cache", "exact"):
        torch.testing.assert_close(rollout(tensors, config, mode), plain, atol=1e-5, rtol=0)
    streaming = rollout(tensors, config, "streaming")
    torch.testing.assert_close(streaming[:, :window], plain[:, :window], atol=1e-5, rtol=0)
    # Old keys remember frames that have left the window, so the two modes are different computations from here on.
    assert (streaming[:, window:] - plain[:, window:]).abs().max() > 1e-5


@pytest.mark.parametrize(("mode", "at_full_window"), [("no_cache", 200), ("frame_cache", 29), ("streaming", 11)])
def test_frames_pushed_through_the_network(mode: CacheMode, at_full_window: int) -> None:
    """Per new frame at a full window of 20 with 10 steps: 10 x 20, 20 + 9 and 10 + 1."""
    config = WorldModelConfig(in_channels=1, patch_size=2, dim=8, num_layers=1, num_heads=2, max_frames=20)
    model = tiny(config=config)
    play = LatentRollout(model, Schedule(), sampling_steps=10, mode=mode)
    play.start(torch.zeros(1, 2, 2, 1))
    for _ in range(19):
        play.extend(torch.zeros(1, 10), torch.zeros(1, 2, 2, 1))
    before = play.frame_forwards
    play.extend(torch.zeros(1, 10), torch.zeros(1, 2, 2, 1))
    assert play.frame_forwards - before == at_full_window


def solve_gaussian(kind: SolverKind, levels: list[int], spread: float) -> float:
    """Error at the last level of the exact probability flow of data N(0, spread^2), from x = 1 at the first level.

    There the velocity is known, v = alpha eps - sigma x0 of the posterior means, and the exact x is proportional to the
    standard deviation of the noisy data.
    """
    schedule = Schedule()
    deviation = [math.sqrt(float(a) * spread**2 + 1 - float(a)) for a in schedule.abar]
    solver = Solver(schedule, levels, kind)
    solver.begin()
    x = torch.ones((), dtype=torch.float64)
    for i, level in enumerate(levels[:-1]):
        abar = float(schedule.abar[level])
        clean = math.sqrt(abar) * spread**2 / deviation[level] ** 2 * x
        noise = (x - math.sqrt(abar) * clean) / math.sqrt(1 - abar)
        x = solver.step(x, math.sqrt(abar) * noise - math.sqrt(1 - abar) * clean, i)
    return abs(float(x) - deviation[levels[-1]] / deviation[levels[0]])


def test_dpm_solver_converges_with_second_order_and_ddim_with_first() -> None:
    counts = (10, 20, 40, 80)
    for kind, order in (("ddim", 1), ("dpm++", 2)):
        errors = [solve_gaussian(kind, list(range(960, 159, -800 // n)), 0.3) for n in counts]  # type: ignore[arg-type]
        slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
        assert all(abs(slope - order) < 0.35 for slope in slopes), (kind, errors)
    few = list(range(960, 159, -160))
    assert solve_gaussian("dpm++", few, 0.3) < 0.5 * solve_gaussian("ddim", few, 0.3)


@pytest.mark.parametrize("path", FILES, ids=label)
def test_the_fused_attention_of_gpus_and_large_frames_gives_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gymnast_core.world_model.model.PLAIN_ATTENTION_KEYS", 0)
    assert max(errors(path).values()) <= TOLERANCE


@pytest.mark.parametrize("queries", [1, 2])
def test_attention_that_reads_once_is_attention(queries: int) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 2, length, 8, generator=g) for length in (queries, 5, 5))
    mask = torch.tensor([[True, False, True, True, False], [True, True, True, True, False]])[:queries]
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend_reading_once(q, k, v, mask), plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mode", CACHE_MODES)
def test_solvers_are_the_same_up_to_two_steps_and_cost_the_same(mode: CacheMode) -> None:
    g = torch.Generator().manual_seed(1)
    model = tiny()
    first, actions = torch.randn(2, 4, 4, 3, generator=g), torch.randn(7, 2, 10, generator=g)
    noise = torch.randn(7, 2, 4, 4, 3, generator=g)

    def play(solver: SolverKind, steps: int, mode: CacheMode = mode) -> tuple[torch.Tensor, int]:
        run = LatentRollout(model, Schedule(), sampling_steps=steps, solver=solver, mode=mode)
        run.start(first)
        return torch.stack([run.extend(actions[k], noise[k]) for k in range(7)], dim=1), run.frame_forwards

    for steps in (1, 2, 5):
        (ddim, spent), (dpm, spent_too) = play("ddim", steps), play("dpm++", steps)
        assert spent == spent_too
        assert ((ddim - dpm).abs().max() < 1e-5) == (steps < 3)
    if mode in ("exact", "frame_cache"):
        torch.testing.assert_close(play("dpm++", 5)[0], play("dpm++", 5, "no_cache")[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mode", "guidance"), [("streaming", 1.0), ("streaming", 3.0), ("exact", 1.0)])
def test_compiled_passes_equal_plain_ones_and_are_compiled_once_a_shape(mode: CacheMode, guidance: float) -> None:
    torch._dynamo.reset()
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        compiled.append(1)
        return graph.forward

    g = torch.Generator().manual_seed(2)
    model = tiny()
    first, actions = torch.randn(2, 4, 4, 3, generator=g), torch.randn(9, 3, 10, generator=g)
    noise, rows = torch.randn(9, 3, 4, 4, 3, generator=g), torch.tensor([0, 1, 0])

    def play(run: LatentRollout) -> torch.Tensor:
        run.start(first, rows)
        return torch.stack([run.extend(actions[k], noise[k]) for k in range(9)], dim=1)

    def rollout(compile: bool) -> LatentRollout:
        return LatentRollout(
            model, Schedule(), sampling_steps=3, guidance=guidance, mode=mode, compile=compile, backend=backend
        )

    fast = rollout(True)
    plain, once, again = play(rollout(False)), play(fast), play(fast)
    torch.testing.assert_close(once, plain, atol=1e-5, rtol=0)
    assert torch.equal(once, again)
    # The frame drawn alone, with the finished one before it, and in exact mode with its whole window.
    assert len(compiled) == (2 if mode == "streaming" else 3)


class Recording(TorchDispatchMode):
    """Records and replays as a CUDA graph does: every operation again, on the very memory it had the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., object], tuple[object, ...], dict[str, object], object]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        assert func is not torch.ops.aten._local_scalar_dense.default, "a GPU cannot wait for a number in a recording"
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, before in self.calls:
            for old, new in zip(tree_leaves(before), tree_leaves(func(*args, **kwargs))):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def __call__(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        once = Recording()
        with once:
            result = work()
        return once.replay, result


@pytest.mark.parametrize(("mode", "guidance"), [("streaming", 1.0), ("streaming", 3.0), ("exact", 3.0)])
def test_recorded_passes_equal_plain_ones_whatever_ran_before(mode: CacheMode, guidance: float) -> None:
    """Replayed from fixed memory past the window, from new starts, with more rollouts, in and out of inference mode."""
    g = torch.Generator().manual_seed(2)
    model = tiny()
    first, actions = torch.randn(3, 4, 4, 3, generator=g), torch.randn(9, 3, 10, generator=g)
    noise = torch.randn(9, 3, 4, 4, 3, generator=g)

    def rollout() -> LatentRollout:
        return LatentRollout(model, Schedule(), sampling_steps=3, guidance=guidance, mode=mode)

    def play(run: LatentRollout, rows: list[int], shared: bool) -> torch.Tensor:
        run.start(first if shared else first[rows], torch.tensor(rows) if shared else None)
        return torch.stack([run.extend(actions[k, : len(rows)], noise[k, : len(rows)]) for k in range(9)], dim=1)

    fast = rollout()
    fast._compiled = CompiledPasses(model, None, Recording)
    for rows, shared, inference in (
        ([0, 1], False, True), ([1, 2], False, False), ([2, 0, 2], True, False), ([0, 1], False, True)
    ):  # fmt: skip
        plain = play(rollout(), rows, shared)
        with torch.inference_mode(inference):
            found = play(fast, rows, shared)
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)
    # Nothing was recorded for a cache that is gone, and nothing twice.
    assert len(fast._compiled._recorded) == (2 if mode == "streaming" else 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("mode", "guidance"), [("streaming", 1.0), ("exact", 3.0)])
@pytest.mark.parametrize("backend", [None, "inductor"])
def test_recorded_passes_on_a_gpu_equal_plain_ones(mode: CacheMode, guidance: float, backend: str | None) -> None:
    """Beside a thread that uses the GPU, as a judge does."""
    g = torch.Generator().manual_seed(2)
    model = tiny().cuda()
    first, actions = torch.randn(2, 4, 4, 3, generator=g).cuda(), torch.randn(9, 2, 10, generator=g).cuda()
    noise = torch.randn(9, 2, 4, 4, 3, generator=g)

    def play(run: LatentRollout) -> torch.Tensor:
        run.start(first)
        return torch.stack([run.extend(actions[k], noise[k]) for k in range(9)], dim=1)

    schedule = Schedule(device="cuda")
    plain = play(LatentRollout(model, schedule, sampling_steps=3, guidance=guidance, mode=mode))
    fast = LatentRollout(model, schedule, sampling_steps=3, guidance=guidance, mode=mode, compile=True, backend=backend)
    over = threading.Event()

    def judge() -> None:
        while not over.is_set():
            (torch.randn(64, 64).cuda() @ torch.empty(64, 64 + int(torch.randint(9, ())), device="cuda")).cpu()

    other = threading.Thread(target=judge)
    other.start()
    try:
        for _ in range(2):  # recorded, then replayed from a new start
            torch.testing.assert_close(play(fast), plain, atol=2e-3, rtol=1e-3)
    finally:
        over.set()
        other.join()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), changed=st.integers(1, 3), what=st.sampled_from(("latent", "action", "level")))
def test_a_later_frame_never_changes_an_earlier_one(seed: int, changed: int, what: str) -> None:
    g = torch.Generator().manual_seed(seed)
    model = tiny(seed)
    x, a = torch.randn(2, 4, 4, 4, 3, generator=g), torch.randn(2, 4, 10, generator=g)
    t = torch.randint(0, 1000, (2, 4), generator=g)
    with torch.no_grad():
        before = model(x, t, a)
        if what == "latent":
            x[:, changed] += 1
        elif what == "action":
            a[:, changed] += 1
        else:
            t[:, changed] = (t[:, changed] + 400) % 1000
        after = model(x, t, a)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.allclose(before[:, changed], after[:, changed], atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), mode=st.sampled_from(("exact", "streaming")), guidance=st.sampled_from((1.0, 2.0)))
def test_a_rollout_does_not_depend_on_its_batch_or_on_sharing_its_first_frame(
    seed: int, mode: CacheMode, guidance: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    model, schedule = tiny(seed), Schedule()
    first = torch.randn(2, 4, 4, 3, generator=g)
    actions, noise = torch.randn(6, 3, 10, generator=g), torch.randn(6, 3, 4, 4, 3, generator=g)
    rows = torch.tensor([1, 0, 1])

    def play(start: torch.Tensor, picked: list[int], shared: torch.Tensor | None) -> torch.Tensor:
        run = LatentRollout(model, schedule, sampling_steps=2, guidance=guidance, mode=mode)
        run.start(start, shared)
        return torch.stack([run.extend(actions[k, picked], noise[k, picked]) for k in range(6)], dim=1)

    together = play(first, [0, 1, 2], rows)
    for i in range(3):
        alone = play(first[rows[i] : rows[i] + 1], [i], None)
        torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=1e-4)


def test_teacher_forcing_trains_exactly_what_the_sampler_asks_for() -> None:
    """The noisy copy of frame k gets the velocity that a plain pass over the clean past and frame k gives."""
    g = torch.Generator().manual_seed(3)
    model, schedule = tiny(), Schedule()
    x, a = torch.randn(2, 4, 4, 4, 3, generator=g), torch.randn(2, 4, 10, generator=g)
    noise, t = torch.randn(2, 3, 4, 4, 3, generator=g), torch.randint(0, 1000, (2, 3), generator=g)
    losses = []
    with torch.no_grad():
        for k in (1, 2, 3):
            noisy = schedule.add_noise(x[:, k : k + 1], noise[:, k - 1 : k], t[:, k - 1 : k])
            frames = torch.cat((schedule.present_context(x[:, :k]), noisy), dim=1)
            levels = torch.cat((torch.full((2, k), 14), t[:, k - 1 : k]), dim=1)
            v = model(frames, levels, a[:, : k + 1])[:, -1:]
            target = schedule.velocity(x[:, k : k + 1], noise[:, k - 1 : k], t[:, k - 1 : k])
            losses.append((v - target).square().mean())
        together = teacher_forcing_loss(model, schedule, x, a, t, noise)
    torch.testing.assert_close(together, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)
    mask = teacher_forcing_mask(4, 2, torch.device("cpu"))
    assert mask.shape == (10, 10) and not mask[4:, 4:].triu(1).any() and not mask[:4, 4:].any()


def test_padding_of_a_short_episode_adds_nothing_to_the_loss() -> None:
    g = torch.Generator().manual_seed(0)
    model, schedule = tiny(), Schedule()
    x, a = torch.randn(1, 4, 4, 4, 3, generator=g), torch.randn(1, 4, 10, generator=g)
    noise, t = torch.randn(1, 3, 4, 4, 3, generator=g), torch.randint(0, 1000, (1, 3), generator=g)
    valid = torch.tensor([[True, True, True, False]])
    with torch.no_grad():
        padded = teacher_forcing_loss(model, schedule, x, a, t, noise, valid=valid)
        short = teacher_forcing_loss(model, schedule, x[:, :3], a[:, :3], t[:, :2], noise[:, :2])
    torch.testing.assert_close(padded, short, atol=1e-6, rtol=1e-5)


def test_actions_are_scaled_as_worldgym_scales_them() -> None:
    action = np.array([[0.01, -0.1, 0.02, 0.1, -1.0, 0.0, 1.0], [0, 0, 0, 0, 0, 0, 0.8]], np.float32)
    expected = [[0.35, -1.75, 0.7, 0.56, -1.4, 0, -1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]]
    np.testing.assert_allclose(to_worldgym(action), expected, atol=1e-6)
    np.testing.assert_allclose(scale_actions(unscale_actions(to_worldgym(action))), expected, atol=1e-6)
    assert null_action().tolist() == [0] * 9 + [1]


def test_the_public_checkpoint_layout_fits_the_full_size_network(tmp_path: Path) -> None:
    shapes = json.loads((GOLDENS / "worldgym" / "full_size_keys.json").read_text())
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    path = tmp_path / "worldgym.pt"
    torch.save({"model": weights, "ema": weights, "optimizer": {}, "step": 580_000}, path)
    model = load_worldgym_checkpoint(path, WorldModelConfig(), device="meta")
    assert {n: list(t.shape) for n, t in model.state_dict().items()} == shapes
    assert round(parameter_count(model) / 1e6) == 608

    broken = dict(weights)
    broken["x_proj.bias"] = torch.empty(7, device="meta")
    del broken["action_embedder.bias"]
    broken["extra"] = torch.empty(1, device="meta")
    torch.save({"ema": broken}, path)
    with pytest.raises(
        CheckpointError, match=r"missing: action_embedder\.bias.*unexpected: extra.*x_proj\.bias \(7,\)"
    ):
        load_worldgym_checkpoint(path, WorldModelConfig(), device="meta")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_worldgym_checkpoint(path, WorldModelConfig(), device="meta")
