# cython: language_level=3
"""Text from the guest: into the host's socket at once where it can be, else into the receive queue;
in order or ahead of a gap.

What is inside the advertised window is never dropped, since the window never exceeds the room in
the queue; unless memory is out altogether, or the guest makes more holes than TCP_HOLES_MAX. In
both cases it has not been acknowledged and comes again.
"""
from .conn cimport Flow, TcpConn
from .ctx cimport Ctx
from .stats cimport Drop
from .tcp_wire cimport Segment


cdef Drop tcp_receive_text(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil
cdef void tcp_note_duplicate(TcpConn *t, const Segment *seg) noexcept nogil
cdef void tcp_flush_to_host(Ctx *c, Flow *flow) noexcept nogil
