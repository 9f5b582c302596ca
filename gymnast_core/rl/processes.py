"""One run of practice in one process or in many: its folder, its interruption, its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gymnast_core.errors import DataError, GymnastError
from gymnast_core.policy.parallel import PeerLost, Ranks
from gymnast_core.progress import console, interrupts
from gymnast_core.run_folder import RunFolder


def run_practice(kind: str, config: Any, body: Callable[[RunFolder, Ranks], int]) -> int:
    """What `body` returns, or 130 when this process was interrupted or another one ended; that run can be resumed.

    kind: names new run folders. config: the run's options, with `run`, its folder; the first process alone writes.
    """
    ranks = Ranks()
    console.quiet = not ranks.first
    name = ranks.gather(config.run or f"runs/{kind}/{datetime.now():%Y%m%d_%H%M%S}")[0]
    run = RunFolder(name, config if ranks.first else None)
    try:
        with interrupts(), ranks.together():
            code = body(run, ranks)
        ranks.finish()
        return code
    except (KeyboardInterrupt, PeerLost) as end:
        if ranks.first:
            what = str(end) or "interrupted"
            run.report_progress("interrupted", message=f"{what}; start again with the same run folder to resume")
            console.print(f"{what}; resume with --run {run.path}", markup=False, highlight=False, soft_wrap=True)
        return 130
    except GymnastError as error:
        with contextlib.suppress(DataError):  # where even that cannot be written, the error itself is what counts
            run.report_progress("failed", message=" ".join(str(error).split()))
        raise
    finally:
        run.close()
