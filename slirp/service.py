"""The asyncio half of the daemon: everything that happens after "ready".

Imported only then, since asyncio and uvloop take longer to import than all that precedes them. No
packet passes here: they are the driver's thread's.
"""

from __future__ import annotations

import _thread
import asyncio
import functools
import os
import socket

from slirp import api, apisocket, report
from slirp.core import oscalls
from slirp.services import ra

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slirp.daemon import Daemon


# How long what is on its way may take to arrive after the end.
LINGER_S = 10.0
_LINGER_PERIOD_S = 0.01


def run(daemon: Daemon) -> int:
    """Serve until something ends us: an exit status, or minus the signal to die by."""
    loop = _new_loop()
    try:
        return loop.run_until_complete(_Service(daemon, loop).run())
    finally:
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except Exception:  # missing, or built for another libc or kernel: asyncio's own loop will do
        return asyncio.new_event_loop()
    return loop


class _Service:
    def __init__(self, daemon: Daemon, loop: asyncio.AbstractEventLoop) -> None:
        self._daemon = daemon
        self._loop = loop
        self._ended: asyncio.Future[int] = loop.create_future()
        self._hurried = False
        self._counters: dict[str, int] = {}  # the API's
        self._resolv_fd: int | None = None  # tells of changes of resolv.conf
        self._reporting = _thread.allocate_lock()

    async def run(self) -> int:
        daemon = self._daemon
        self._watch(daemon.driver.ended_fd, self._on_driver_ended)
        if daemon.bess is not None:
            self._watch(daemon.bess.sock.fileno(), self._on_guest)
        self._watch(daemon.signals.fd, self._on_signals)
        for fd, on_readable in daemon.watches.items():
            self._watch(fd, functools.partial(self._on_watched, on_readable))
        if daemon.config.network6 is not None:
            self._loop.call_later(ra.PERIOD_S, self._advertise)
        self._follow_resolvers()
        if daemon.outbound is not None and daemon.outbound.fd is not None:
            self._watch(daemon.outbound.fd, daemon.outbound.on_change)
        server = await self._serve_api()
        daemon.sandbox.tighten()
        try:
            outcome = await self._ended
            await self._linger()
            return outcome
        finally:
            if server is not None:
                server.close()
            self._loop.remove_reader(daemon.signals.fd)
            self._loop.remove_reader(daemon.driver.ended_fd)
            self._stop_following()

    async def _linger(self) -> None:
        deadline = self._loop.time() + LINGER_S
        while self._daemon.is_busy() and self._loop.time() < deadline and not self._hurried:
            await asyncio.sleep(_LINGER_PERIOD_S)

    async def _serve_api(self) -> asyncio.Server | None:
        api_socket = self._daemon.api_socket
        if api_socket is None:
            return None
        listener = socket.socket(fileno=api_socket.sock.detach())
        server = api.Server(self._daemon.forwards, api_socket.refusal)
        self._counters = server.counters
        return await asyncio.start_unix_server(
            server.serve, sock=listener, limit=api.MAX_REQUEST_BYTES, backlog=apisocket.BACKLOG
        )

    def _follow_resolvers(self) -> None:
        """Look at resolv.conf, and wait for its next change."""
        daemon = self._daemon
        resolvers = daemon.resolvers
        self._stop_following()
        if resolvers is None:
            return
        self._resolv_fd = resolvers.watch()
        if self._resolv_fd is not None:
            self._loop.add_reader(self._resolv_fd, self._follow_resolvers)
            if resolvers.look():
                daemon.driver.call(daemon.engine.set_dns, resolvers.servers)

    def _stop_following(self) -> None:
        if self._resolv_fd is not None:
            self._loop.remove_reader(self._resolv_fd)
            os.close(self._resolv_fd)
            self._resolv_fd = None

    def _watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        try:
            self._loop.add_reader(fd, on_readable)
        except PermissionError:  # epoll cannot wait for files, which are always readable
            self._loop.call_soon(on_readable)

    def _on_watched(self, on_readable: Callable[[], int | None]) -> None:
        self._end(on_readable())

    def _on_driver_ended(self) -> None:
        self._loop.remove_reader(self._daemon.driver.ended_fd)
        try:
            self._daemon.driver.stop()
        except Exception as error:
            if not self._ended.done():
                self._ended.set_exception(error)
        else:
            outcome = self._daemon.on_link_down()
            if outcome is None:
                self._await_guest()
            self._end(outcome)

    def _await_guest(self) -> None:
        """Turn the Engine, and give it the next guest at the target socket."""
        bess = self._daemon.bess
        if bess is None:
            return
        self._daemon.driver.start()
        self._watch(self._daemon.driver.ended_fd, self._on_driver_ended)
        self._watch(bess.sock.fileno(), self._on_guest)

    def _on_guest(self) -> None:
        daemon = self._daemon
        fd = daemon.bess.accept() if daemon.bess is not None else None
        if daemon.bess is not None and fd is not None:
            self._loop.remove_reader(daemon.bess.sock.fileno())
            daemon.driver.call(daemon.engine.set_link, fd)

    def _advertise(self) -> None:
        """Tell the guest from time to time that its router is still here (RFC 4861 6.2.4)."""
        daemon = self._daemon
        domains = [] if daemon.resolvers is None else daemon.resolvers.domains
        frame = ra.advertisement(daemon.config, domains, None)
        daemon.driver.call(daemon.engine.send_frame, frame)
        self._loop.call_later(ra.PERIOD_S, self._advertise)

    def _on_signals(self) -> None:
        for signum, by_process in self._daemon.signals.read():
            if signum == oscalls.SIGUSR1:
                self._report()
            else:
                self._end(self._daemon.on_signal(signum, by_process))

    def _end(self, outcome: int | None) -> None:
        if outcome is None:
            return
        if self._ended.done():
            self._hurried = True  # told to end while we linger
            return
        self._ended.set_result(outcome)
        for fd in self._daemon.watches:  # what has ended us stays readable
            self._loop.remove_reader(fd)

    def _report(self) -> None:
        # Whoever reads our stderr may be slow or stuck, so a thread writes, one report at a time.
        if self._reporting.acquire(blocking=False):
            text = self._daemon.driver.call(report.collect, self._daemon.engine, self._counters)
            _thread.start_new_thread(self._write_report, (text,))

    def _write_report(self, text: str) -> None:
        report.write(text)
        self._reporting.release()
