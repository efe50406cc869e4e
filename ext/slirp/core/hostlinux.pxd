# cython: language_level=3
"""HostOps by system calls: the host's sockets, all non-blocking, in one epoll set.

TCP sockets are watched by edges, for everything, once: what is ready is remembered by the flow, so
that no epoll_ctl follows; so are listeners (tcp_on_accept). Datagram sockets are watched by level:
after a budget of reads the rest is reported again. SO_SNDBUF and SO_RCVBUF of TCP are left alone:
setting them would turn the kernel's auto-tuning off. A UDP socket's SO_RCVBUF is widened: nothing
else holds what comes while we do something else.

Sockets are bound to the outbound address of their family, if there is one (--outbound-addr), also
those to the host's loopback, as slirp4netns has it; not those to a name server there, since stub
resolvers heed nobody from elsewhere. Their port is left to connect() (IP_BIND_ADDRESS_NO_PORT), so
that a port serves many destinations still.
"""
from libc.stdint cimport uint32_t

from .hostops cimport HostOps
from .wire cimport Addr


cdef struct LinuxHost:
    int epoll_fd
    Addr outbound4                  # what our sockets are bound to; zero: the kernel chooses
    Addr outbound6


cdef void linux_host_init(LinuxHost *host, HostOps *ops, int epoll_fd) noexcept nogil
cdef void linux_host_bind(LinuxHost *host, const Addr *addr) noexcept nogil
cdef uint32_t linux_events(uint32_t epoll_events) noexcept nogil
