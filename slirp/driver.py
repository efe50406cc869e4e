"""Who turns the Engine's crank: a thread until the event loop exists, the event loop from then on.

The Engine does its own waiting on one epoll descriptor and does not care who calls it. Importing
asyncio and uvloop takes longer than all the rest of the start, so packets flow on a thread
meanwhile; when the loop is there the thread is joined (the Engine may be inside one thread at a
time) and the loop watches that one descriptor.
"""

from __future__ import annotations

import _thread
import os

from slirp.core.engine import RUN_LINK_DOWN, RUN_MORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from slirp.core.engine import Engine
    from slirp.resolver import Resolvers


class ThreadDriver:
    """Runs the Engine on a thread of its own between start() and stop()."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._running = _thread.allocate_lock()
        self._inside = False  # start() was called, and stop() not yet
        self._flags = 0
        self._error: BaseException | None = None

    def start(self) -> None:
        """From here on the Engine is the thread's: call nothing of it until stop()."""
        self._running.acquire()
        self._inside = True
        _thread.start_new_thread(self._main, ())

    def stop(self) -> bool:
        """Take the Engine back; whether its link is still up. Nothing happens the second time."""
        if self._inside:
            self._inside = False
            os.eventfd_write(self._stop_fd, 1)
            self._running.acquire()
            os.close(self._stop_fd)
        if self._error is not None:
            raise self._error
        return not self._flags & RUN_LINK_DOWN

    def _main(self) -> None:
        try:
            self._flags = self._engine.run_until(self._stop_fd)
        except BaseException as error:  # it belongs to whoever stops us
            self._error = error
        finally:
            self._running.release()


class LoopDriver:
    """Runs the Engine whenever its descriptor is readable, and follows the host's name servers.

    resolvers:    None when the guest has no DNS of ours.
    on_link_down: called once, when the TAP is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: Engine,
        resolvers: Resolvers | None,
        on_link_down: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._engine = engine
        self._resolvers = resolvers
        self._on_link_down = on_link_down
        self._again: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin; the Engine is the loop's from here on."""
        self._loop.add_reader(self._engine.fileno(), self._run)
        self._run()

    def stop(self) -> None:
        """Give the Engine back."""
        self._loop.remove_reader(self._engine.fileno())
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _run(self) -> None:
        if self._resolvers is not None and self._resolvers.refresh(self._loop.time()):
            self._engine.set_dns(self._resolvers.servers)
        flags = self._engine.run()
        if flags & RUN_LINK_DOWN:
            self.stop()
            self._on_link_down()
        elif flags & RUN_MORE and self._again is None:
            # Its budget is spent: let the API have a turn.
            self._again = self._loop.call_soon(self._run_again)

    def _run_again(self) -> None:
        self._again = None
        self._run()
