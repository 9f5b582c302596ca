"""The sampler's passes of unchanging shape, made fast: layers through torch.compile, on a GPU replayed as CUDA graphs.

All layers of a network share one compiled function a shape, so that compiling takes seconds and not minutes. A CUDA
graph holds a whole pass with the memory it reads and writes: inputs are copied in, keys and values written in place.
Recording is safe beside other threads that use the GPU, such as a judge's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gymnast_core.world_model.model import CacheStep, Layer, TemporalCache, WorldModel

KEPT_SHAPES = 64
"""Compiled shapes that are kept before torch falls back to plain layers: a few for each number of rollouts."""


def _call_layer(layer: Layer, *arguments: Any) -> Tensor:
    result: Tensor = layer(*arguments)
    return result


Replay = Callable[[], None]


class CudaGraphs:
    """Records work on a GPU as CUDA graphs: what it launches can be launched again, on the same memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        """Memory of all recorded passes: one is over when the next begins, so they may share it."""

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """(what does the work again, the tensor that its result is written to)."""
        with torch.cuda.device(self._device):  # streams and recordings are the current GPU's
            return self._recorded(work)

    def _recorded(self, work: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiles and warms up; writing a frame's keys twice changes nothing
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are held to what a recording allows: a judge, or NCCL's watchdog, may go on.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()
        self._pool = graph.pool()
        return graph.replay, result


@dataclass(frozen=True)
class _Recorded:
    """A recorded pass with the tensors it reads (given anew at every replay) and the one it writes."""

    replay: Replay
    inputs: tuple[Tensor, ...]
    output: Tensor


class CompiledPasses:
    """Calls like the network's own forward pass; what it returns is overwritten by the next call."""

    def __init__(
        self,
        model: WorldModel,
        backend: str | Callable[..., Any] | None = "inductor",
        recorder: Callable[[], Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]] | None = None,
    ) -> None:
        """backend: of torch.compile; None leaves layers as they are.

        recorder: makes what records passes; default CUDA graphs on a GPU, else none.
        """
        dynamo = torch._dynamo.config
        dynamo.cache_size_limit = max(dynamo.cache_size_limit, KEPT_SHAPES)
        self._model = model
        compiled = None if backend is None else torch.compile(_call_layer, backend=backend, dynamic=False)
        self._run_layer: Callable[..., Tensor] = compiled or _call_layer
        if recorder is None and model.x_proj.weight.is_cuda:
            recorder = partial(CudaGraphs, model.x_proj.weight.device)
        self._recorder = recorder
        self._record = None if recorder is None else recorder()
        self._recorded: dict[tuple[torch.Size, int | None], _Recorded] = {}

    def forget(self) -> None:
        """Drop what was recorded: the cache it writes to is gone."""
        self._recorded.clear()
        self._record = None if self._recorder is None else self._recorder()

    def __call__(self, x: Tensor, t: Tensor, action: Tensor, positions: Tensor, step: CacheStep | None) -> Tensor:
        if self._record is None:
            return self._plain(x, t, action, positions, step)
        key = (x.shape, None if step is None else id(step.cache))
        given = (x, t, action, positions, *(() if step is None else (step.slots, step.mask)))
        found = self._recorded.get(key)
        if found is None:
            found = self._recorded[key] = self._make(given, None if step is None else step.cache)
        for ours, new in zip(found.inputs, given, strict=True):
            ours.copy_(new)
        found.replay()
        return found.output

    def _plain(self, x: Tensor, t: Tensor, action: Tensor, positions: Tensor, step: CacheStep | None) -> Tensor:
        result: Tensor = self._model(x, t, action, positions=positions, step=step, run_layer=self._run_layer)
        return result

    @torch.inference_mode(False)  # what is written at every replay must not belong to whoever asked first
    @torch.no_grad()
    def _make(self, given: tuple[Tensor, ...], cache: TemporalCache | None) -> _Recorded:
        assert self._record is not None
        inputs = tuple(tensor.clone() for tensor in given)
        x, t, action, positions = inputs[:4]
        step = None if cache is None else CacheStep(cache, *inputs[4:])
        replay, output = self._record(lambda: self._plain(x, t, action, positions, step))
        return _Recorded(replay, inputs, output)
