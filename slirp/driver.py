"""Who turns the Engine's crank: a thread, from before "ready" to the end.

The Engine does its own waiting on one epoll descriptor, without the GIL, so a thread of its own
costs nothing while it sleeps and a single system call when it wakes. Under the event loop each
wake-up would go through the loop's own epoll set and a Python callback: a seventh of the request
rate on one CPU, nearly half of it on two.

The Engine may be inside one thread at a time. Whoever wants something of it, which is rare, has the
thread stop for the length of one call.
"""

from __future__ import annotations

import _thread
import os
import time

from slirp import log
from slirp.core.engine import RUN_LINK_DOWN, RUN_MORE, RUN_PUNTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from slirp.config import Config
    from slirp.core.engine import Engine
    from slirp.resolver import Resolvers
    from slirp.services import Services

    T = TypeVar("T")

# How long the Engine may go on before a look at resolv.conf, should frames come.
_VISIT_US = 1_000_000
_PING_FORBIDDEN = (
    "ping reaches the gateway only: the host forbids ping sockets "
    '(sysctl -w net.ipv4.ping_group_range="0 2147483647" allows them)'
)


class Driver:
    """Runs the Engine between start() and stop(), answers what it punts, and has it follow the
    host's name servers.

    resolvers: None when the guest has no DNS of ours.
    ended_fd:  readable when the thread has ended by itself: stop() says why.
    """

    def __init__(self, engine: Engine, config: Config, resolvers: Resolvers | None = None) -> None:
        self._engine = engine
        self._config = config
        self._resolvers = resolvers
        self._services: Services | None = None
        self.ended_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._running = _thread.allocate_lock()
        self._started = False
        self._flags = 0
        self._ping_told = False
        self._error: BaseException | None = None

    def start(self) -> None:
        """From here on the Engine is the thread's: use call()."""
        if self._has_ended():  # and has another link now
            os.eventfd_read(self.ended_fd)
            self._flags = 0
        self._running.acquire()
        self._started = True
        _thread.start_new_thread(self._main, ())

    def stop(self) -> bool:
        """Take the Engine back; whether its link is still up. Raises what ended the thread."""
        self._join()
        if self._error is not None:
            raise self._error
        return not self._flags & RUN_LINK_DOWN

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """What `function` returns, called while nobody is inside the Engine."""
        interrupted = self._join()
        try:
            return function(*arguments)
        finally:
            if interrupted:
                self.start()

    def add_forward(self, proto: str, listen_fd: int, guest_addr: bytes, guest_port: int) -> int:
        """Engine.add_forward at any time."""
        return self.call(self._engine.add_forward, proto, listen_fd, guest_addr, guest_port)

    def remove_forward(self, forward_id: int) -> bool:
        """Engine.remove_forward at any time."""
        return self.call(self._engine.remove_forward, forward_id)

    def close(self) -> None:
        """Stop, for good."""
        self._join()
        os.close(self.ended_fd)
        os.close(self._stop_fd)

    def _join(self) -> bool:
        """Wait until the thread has left the Engine; whether it would have gone on."""
        if not self._started:
            return False
        self._started = False
        os.eventfd_write(self._stop_fd, 1)
        self._running.acquire()
        self._running.release()
        os.eventfd_read(self._stop_fd)
        return not self._has_ended()

    def _has_ended(self) -> bool:
        return self._error is not None or bool(self._flags & RUN_LINK_DOWN)

    def _main(self) -> None:
        try:
            self._flags = self._run()
        except BaseException as error:  # it belongs to whoever stops us
            self._error = error
        finally:
            if self._has_ended():
                os.eventfd_write(self.ended_fd, 1)
            self._running.release()

    def _run(self) -> int:
        flags = RUN_MORE
        while flags and not flags & RUN_LINK_DOWN:
            if self._resolvers is not None and self._resolvers.refresh(time.monotonic()):
                self._engine.set_dns(self._resolvers.servers)
            flags = self._engine.run_until(self._stop_fd, _VISIT_US)
            if flags & RUN_PUNTED:
                self._answer_punted()
            if not self._ping_told and self._engine.ping_forbidden():
                self._ping_told = True
                # Whoever reads our output may be slow or stuck.
                _thread.start_new_thread(log.complain, (_PING_FORBIDDEN,))
        return flags

    def _answer_punted(self) -> None:
        if self._services is None:
            from slirp.services import Services  # nobody may ever ask; and not on the way to ready

            self._services = Services(self._config, self._resolvers)
        for frame in self._engine.punted():
            answer = self._services.answer(frame, time.monotonic())
            if answer is not None:
                self._engine.send_frame(answer)
