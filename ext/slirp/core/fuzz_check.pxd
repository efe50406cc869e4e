# cython: language_level=3
"""What every frame of the stack's has to keep to, whatever has come before.

Nothing here is shared with what it judges: lengths and checksums are read and summed anew (RFC
1071). Of a connection that the guest knows, numbers and text are held against what was sent.
"""
from .fuzz cimport World
from .linux cimport iovec


cdef int world_link_send(void *impl, const iovec *iov, int n) noexcept nogil
cdef void check_accounts(World *w) noexcept nogil
