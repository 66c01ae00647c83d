"""The ASGI lifespan protocol (2.0): the application's startup before the first request, its shutdown last."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import Any

from outrider.runtime import ASGIApp, Log, Message


class LifespanError(RuntimeError):
    """The application can't start; the message is the application's own where it gave one."""


class Phase(Enum):
    """How far the application is. In ASKED and STOPPING it has been given a message and owes the answer."""

    NEW = "before lifespan.startup"
    ASKED = "during startup"
    SERVING = "after startup"
    STOPPING = "during shutdown"
    ENDED = "after its end"


_PHASES_OF_ANSWER = {
    # An application may be ready without having asked.
    "lifespan.startup.complete": (Phase.NEW, Phase.ASKED),
    "lifespan.startup.failed": (Phase.NEW, Phase.ASKED),
    "lifespan.shutdown.complete": (Phase.STOPPING,),
    "lifespan.shutdown.failed": (Phase.STOPPING,),
}


class Lifespan:
    """One lifespan of one application.

    With mode "on" the application must support the protocol. With "auto" it need not: one that raises or
    returns before it asks for the first message, or that answers it as if it were a request, is served
    without. Any other failure is one. With "off" nothing is called.
    """

    def __init__(self, app: ASGIApp, mode: str, log: Log, state: dict[str, Any]) -> None:
        """Prepare the lifespan; nothing is called yet.

        Args:
            app: the ASGI application.
            mode: gunicorn's `asgi_lifespan`: auto, on or off.
            log: gunicorn's logger.
            state: `scope["state"]`, which the application fills.
        """
        self._app = app
        self._mode = mode
        self._log = log
        self._state = state
        self._phase = Phase.NEW
        self._is_startup_delivered = False
        self._was_taken_for_a_request = False
        self._has_reported_failure = False
        self._failure: LifespanError | None = None
        self._started = asyncio.Event()
        self._shutdown_requested = asyncio.Event()
        self._finished = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Start the application and wait, without a limit, until it is ready.

        Raises:
            LifespanError: it failed, or does not support the protocol though mode is "on".
        """
        if self._mode == "off":
            return
        self._task = asyncio.get_running_loop().create_task(self._call(), name="lifespan")
        self._task.add_done_callback(self._note_end)
        try:
            await self._started.wait()
        except asyncio.CancelledError:
            self._phase = Phase.ENDED
            self._task.cancel()
            await asyncio.wait({self._task})  # it may have begun something that it now undoes
            raise
        if self._failure is not None:
            self._task.cancel()
            raise self._failure

    async def shutdown(self, timeout: float | None) -> None:  # noqa: ASYNC109  # an overrun is logged, not raised
        """Have the application clean up, and cancel it where it takes longer than `timeout` seconds."""
        if self._task is None or self._phase is not Phase.SERVING:
            return
        self._shutdown_requested.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._finished.wait()
        if not self._has_ended():
            self._phase = Phase.ENDED
            self._log.error("The application's shutdown did not complete in %.1f s: cancelled", timeout)
        self._task.cancel()

    # -- the application's side

    async def _call(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._is_startup_delivered:
            self._is_startup_delivered = True
            if self._phase is Phase.NEW:
                self._phase = Phase.ASKED
            return {"type": "lifespan.startup"}
        await self._shutdown_requested.wait()
        if self._phase is Phase.SERVING:
            self._phase = Phase.STOPPING
            return {"type": "lifespan.shutdown"}
        if self._has_ended():
            self._finished.set()  # the application has answered, and only waits for more
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        allowed = _PHASES_OF_ANSWER.get(kind)
        if allowed is None:
            self._was_taken_for_a_request = self._phase is Phase.ASKED
            raise RuntimeError(f"{kind!r} was sent on the lifespan scope")
        if self._phase not in allowed:
            raise RuntimeError(f"{kind!r} was sent {self._phase.value}")
        reason = message.get("message", "") or "the application gave no reason"
        if kind == "lifespan.startup.complete":
            self._phase = Phase.SERVING
            self._started.set()
            return
        self._phase = Phase.ENDED
        self._has_reported_failure = kind.endswith(".failed")
        if kind == "lifespan.startup.failed":
            self._fail_startup(reason)
        elif kind == "lifespan.shutdown.failed":
            self._log.error("Application shutdown failed: %s", reason)

    # -- its end

    def _has_ended(self) -> bool:
        return self._phase is Phase.ENDED

    def _note_end(self, task: asyncio.Task[None]) -> None:
        phase, self._phase = self._phase, Phase.ENDED
        self._finished.set()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if phase is Phase.NEW or phase is Phase.ASKED:
            self._judge_startup(phase, error)
        elif task.cancelled():
            self._log.debug("The application's lifespan was cancelled %s", phase.value)
        elif error is not None:
            # Frameworks send a failure as a message and then raise it.
            if not self._has_reported_failure:
                self._log.error("Exception in the application's lifespan %s", phase.value, exc_info=error)
        elif phase is Phase.SERVING:
            self._log.warning("The application left its lifespan before the shutdown")
        elif phase is Phase.STOPPING:
            self._log.warning("The application left its lifespan without lifespan.shutdown.complete")

    def _judge_startup(self, phase: Phase, error: BaseException | None) -> None:
        what = "returned" if error is None else f"raised {error!r}"
        if self._mode == "auto" and (phase is Phase.NEW or self._was_taken_for_a_request):
            self._log.info("The application has no lifespan: it %s on the lifespan scope", what)
            self._started.set()
            return
        if error is not None:
            self._log.error("Exception in the application's lifespan %s", phase.value, exc_info=error)
        advice = "" if self._mode == "on" else "; if it has no lifespan, set asgi_lifespan to 'off'"
        self._fail_startup(f"it {what} {phase.value} and sent no lifespan.startup.complete{advice}")

    def _fail_startup(self, reason: str) -> None:
        self._failure = LifespanError(f"Application startup failed: {reason}")
        self._started.set()
