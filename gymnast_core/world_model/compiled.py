"""The sampler's passes of unchanging shape, made fast: layers through torch.compile, on a GPU replayed as CUDA graphs.

All layers of a network share one compiled function a shape, so that compiling takes seconds and not minutes. A CUDA
graph holds a whole pass with the memory it reads and writes: inputs are copied in, keys and values written in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gymnast_core.world_model.model import CacheStep, Layer, WorldModel

KEPT_SHAPES = 64
"""Compiled shapes that are kept before torch falls back to plain layers: a few for each number of rollouts."""


def _call_layer(layer: Layer, *arguments: Any) -> Tensor:
    result: Tensor = layer(*arguments)
    return result


@dataclass(frozen=True)
class _Recorded:
    """A CUDA graph with the tensors it reads (given anew at every replay) and the one it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class CompiledPasses:
    """Calls like the network's own forward pass; what it returns is overwritten by the next call."""

    def __init__(self, model: WorldModel, backend: str | Callable[..., Any] = "inductor") -> None:
        """backend: of torch.compile."""
        dynamo = torch._dynamo.config
        dynamo.cache_size_limit = max(dynamo.cache_size_limit, KEPT_SHAPES)
        self._model = model
        self._run_layer = torch.compile(_call_layer, backend=backend, dynamic=False)
        self._recorded: dict[tuple[torch.Size, int | None], _Recorded] = {}

    def forget(self) -> None:
        """Drop what was recorded: the cache it writes to is gone."""
        self._recorded.clear()

    def __call__(self, x: Tensor, t: Tensor, action: Tensor, positions: Tensor, step: CacheStep | None) -> Tensor:
        if not x.is_cuda:
            return self._plain(x, t, action, positions, step)
        key = (x.shape, None if step is None else id(step.cache))
        inputs = (x, t, action, positions, *(() if step is None else (step.slots, step.mask)))
        found = self._recorded.get(key)
        if found is None:
            found = self._recorded[key] = self._record(inputs, step)
        for ours, given in zip(found.inputs, inputs, strict=True):
            ours.copy_(given)
        found.graph.replay()
        return found.output

    def _plain(self, x: Tensor, t: Tensor, action: Tensor, positions: Tensor, step: CacheStep | None) -> Tensor:
        result: Tensor = self._model(x, t, action, positions=positions, step=step, run_layer=self._run_layer)
        return result

    def _record(self, inputs: tuple[Tensor, ...], step: CacheStep | None) -> _Recorded:
        inputs = tuple(tensor.clone() for tensor in inputs)
        x, t, action, positions = inputs[:4]
        own = None if step is None else CacheStep(step.cache, *inputs[4:])
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiles and warms up; writing a frame's keys twice changes nothing
            for _ in range(3):
                self._plain(x, t, action, positions, own)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._plain(x, t, action, positions, own)
        return _Recorded(graph, inputs, output)
