"""`gymnast serve`: a policy that other programs ask for actions."""

from __future__ import annotations

import contextlib
from functools import partial

from gymnast_core.config import SCRIPTED_POLICIES
from gymnast_core.errors import ConfigError
from gymnast_core.policy.load import check_policy, open_policy
from gymnast_core.progress import say
from gymnast_core.serve.policy_server import PolicyServer
from gymnast_core.serve.practice import Practices
from gymnast_core.serve.serve_config import ServeConfig
from gymnast_core.station_file import open_station


def serve(config: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; returns 0 when every accepted request was answered, 1 when time ran out.

    Raises: ConfigError (station, policy, a network without a token, certificates), CheckpointError, DataError (the
        port, an adapter, a policy server that does not answer).
    """
    if config.policy in SCRIPTED_POLICIES:
        raise ConfigError(
            f"--policy: found {config.policy}, which acts on the simulated station's own state; no client has it"
        )
    station = open_station(config.config, policy=config.policy, device=config.device)
    name = station.config.models.policy
    check_policy(name, station.path)
    opener = partial(
        open_policy,
        name,
        station.config.models.unnorm_key,
        station.device,
        config.adapter,
        config.adapters,
        station.path,
    )
    about = {"server": "gymnast", "policy": name, "adapter": config.adapter, "station": station.config.name}
    practices = None
    if config.practise:
        runs, grace = config.practice_runs, config.practice_grace
        practices = Practices(station, config.policy, config.adapter, config.adapters, runs, grace)
    server = PolicyServer(config, opener, about, practices)
    if config.host != "127.0.0.1" and not config.tls_cert:
        say("without --tls-cert whoever is on the way reads pictures and token; --tls-cert encrypts them", "yellow")
    with contextlib.suppress(KeyboardInterrupt):
        return server.run()
    return 130
