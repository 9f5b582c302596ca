"""What a practice trains: the parameters by name, their optimiser, and both in one piece for a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy.lora import names_of_today
from gymnast_core.policy.sharding import divided_like, forget_gathered, is_sharded, whole
from gymnast_core.ranks import Ranks
from gymnast_core.rl.config import GRPOConfig


class TrainedWeights:
    """The parameters of `module` that require gradients; it may be sharded over processes.

    place: where they lie, for errors. Raises: ConfigError where nothing can be trained.
    """

    def __init__(self, module: nn.Module, config: GRPOConfig, processes: Ranks, place: str) -> None:
        self.module = module
        self.processes = processes
        self.sharded = is_sharded(module)
        self._place = place
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self.named:
            raise ConfigError("the policy has no trainable parameter: attach an adapter or train it in full")
        if not self.sharded:
            processes.broadcast(list(self.named.values()))
        self.optimizer = torch.optim.AdamW(
            list(self.named.values()),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def collect(self) -> dict[str, torch.Tensor]:
        """A copy of the parameters, whole, on the CPU of the first process; every process calls this."""
        return self._collect({name: parameter.detach() for name, parameter in self.named.items()})

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put whole weights in place, on every process. Raises: CheckpointError when they are another policy's."""
        weights = names_of_today(weights)
        if set(weights) != set(self.named):
            odd = sorted(set(weights) ^ set(self.named))[0]
            raise CheckpointError(f"{self._place}: the checkpoint trains other parameters (for one: {odd})")
        for name, value in weights.items():
            parameter = self.named[name]
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"{self._place}: '{name}' has shape {tuple(value.shape)}, this policy needs "
                    f"{tuple(parameter.shape)}"
                )
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"{self._place}: '{name}' of the checkpoint holds a value that is not finite")
            with torch.no_grad():
                parameter.copy_(divided_like(value, parameter))

    @contextlib.contextmanager
    def exchanged(self, others: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Other values of the parameters, divided as they are, for as long as the block runs."""
        own = self.copy()
        self.put(others)
        try:
            yield
        finally:
            self.put(own)

    def copy(self) -> dict[str, torch.Tensor]:
        """The parameters as this process has them."""
        return {name: parameter.detach().clone() for name, parameter in self.named.items()}

    def put(self, values: Mapping[str, torch.Tensor]) -> None:
        """Values of `copy` in their place."""
        with torch.no_grad():
            for name, value in values.items():
                self.named[name].copy_(value)
        forget_gathered(self.module)

    def optimizer_state(self) -> dict[str, dict[str, torch.Tensor]]:
        """By parameter's name, whole, so that any number of processes can go on from it."""
        states = {name: self.optimizer.state.get(parameter, {}) for name, parameter in self.named.items()}
        return {name: self._collect(state) for name, state in states.items()}

    def load_optimizer_state(self, states: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Raises: CheckpointError when it is another policy's."""
        states = names_of_today(states)
        if set(states) != set(self.named):
            raise CheckpointError(f"{self._place}: the checkpoint's optimiser is of another kind; use another folder")
        for name, state in states.items():
            parameter = self.named[name]
            if state:
                self.optimizer.state[parameter] = {
                    key: divided_like(value, parameter) if value.shape == parameter.shape else value.clone()
                    for key, value in state.items()
                }

    def _collect(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        collected = {}
        for name, tensor in tensors.items():
            one = whole(tensor)
            if self.processes.first:
                collected[name] = one.cpu().clone()
        return collected
