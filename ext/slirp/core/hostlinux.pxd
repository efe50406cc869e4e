# cython: language_level=3
"""HostOps by system calls: the host's sockets, all non-blocking, in one epoll set.

TCP sockets are watched by edges, for everything, once: what is ready is remembered by the flow, so
that no epoll_ctl follows. Datagram sockets and listeners are watched by level: after a budget of
reads the rest is reported again. SO_SNDBUF and SO_RCVBUF are left alone: setting them would turn
the kernel's auto-tuning off.
"""
from libc.stdint cimport uint32_t

from .hostops cimport HostOps


cdef struct LinuxHost:
    int epoll_fd


cdef void linux_host_init(LinuxHost *host, HostOps *ops, int epoll_fd) noexcept nogil
cdef uint32_t linux_events(uint32_t epoll_events) noexcept nogil
