# cython: language_level=3
"""The fuzzer's host: HostOps over the sockets of a World.

A call on a descriptor that is not open is a broken rule, as is one that no kernel would be asked:
recv() of nothing, shutdown() twice. Calls fail as the script has armed them.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .fuzz cimport Socket, World
from .wire cimport Addr


cdef void fuzz_address(Addr *addr, uint8_t which) noexcept nogil
cdef void world_host_init(World *w) noexcept nogil
cdef Socket *socket_of(World *w, int fd) noexcept nogil
cdef Socket *socket_open(World *w, uint8_t kind, uint64_t ref) noexcept nogil
cdef Socket *socket_pick(World *w, uint8_t which) noexcept nogil
cdef uint32_t sockets_count(const World *w) noexcept nogil
