"""Every HTTP request of a server here has an answer: what was asked for, or in one line why not."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable

from fastapi.responses import JSONResponse, Response

from gymnast_core.progress import say
from gymnast_core.serve.gate import Gate
from gymnast_core.serve.http_body import Gone
from gymnast_core.serve.refusal import Refusal


async def answered(gate: Gate, work: Callable[[], Awaitable[Response]]) -> Response:
    """What `work` answers, or {"detail": words} with the status of its Refusal; 500 where it fails."""
    try:
        with gate.request():
            return await work()
    except Refusal as refusal:
        return JSONResponse({"detail": str(refusal)}, refusal.status, refusal.headers)
    except Gone:
        return Response(status_code=400)
    except Exception:
        say(traceback.format_exc(), "red")
        return JSONResponse({"detail": "the server failed; its own output says why"}, 500)
