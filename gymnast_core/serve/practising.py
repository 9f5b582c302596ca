"""Practice as clients meet it, whatever wire they speak: pictures are captured, practice runs, its adapter acts."""

from __future__ import annotations

import dataclasses
from typing import Any

from gymnast_core.data.frames import resize_frame
from gymnast_core.policy.practice_wire import NO_PRACTICE
from gymnast_core.protocols import Policy
from gymnast_core.serve.adapter_choice import AdapterChoice
from gymnast_core.serve.batching import PolicyThread
from gymnast_core.serve.observation import Command, Observation
from gymnast_core.serve.practice import Practices
from gymnast_core.serve.refusal import Refusal
from gymnast_core.serve.sessions import Session


class Practising:
    """The practices of a server, and the adapters of its policy. Raises: ConfigError for a policy that takes none."""

    def __init__(self, practices: Practices, policy: Policy, thread: PolicyThread) -> None:
        self._practices, self._thread = practices, thread
        self._choice = AdapterChoice(policy, practices.own_adapter, practices.adapters)
        self._own = self._choice.choose("")

    async def policy_of(self, adapter: str) -> Policy:
        """The policy by an adapter, "" for the server's own. Raises: Refusal 400."""
        if not adapter:
            return self._own
        chosen: Policy = await self._thread.call(lambda: self._choice.choose(adapter))
        return chosen

    def capture(self, session: Session, asked: Observation) -> None:
        """Keep the picture, where the client wants it kept."""
        if asked.capture:
            session.captured.append(resize_frame(asked.frame, self._practices.side))

    async def do(self, session: Session, command: Command) -> dict[str, Any]:
        """Begin or cancel this client's practice, or tell how it stands. Raises: Refusal 400, 404, 409, 500."""
        if command.what == "practise":
            session.practice = await self._practices.begin(dict(command.content), list(session.captured))
            session.captured.clear()
        elif session.practice is None:
            raise Refusal(404, NO_PRACTICE)
        elif command.what == "cancel":
            session.practice.cancel("its client cancelled it")
        return dataclasses.asdict(session.practice.now())

    def tend(self) -> None:
        """Called now and then."""
        self._practices.tend()

    def close(self) -> None:
        """End what is under way."""
        self._practices.close()
