# cython: language_level=3
"""UDP (RFC 768) by RFC 4787: endpoint-independent mapping.

A port of the guest towards the world is one unconnected socket of the host, whatever the
destinations; a reply carries the address and port it really came from. Three kinds of flow have a
peer of their own, since what the guest writes is not where the datagram goes: the host's loopback
behind the gateway's address, DNS (dns.pxd), and the clients of a forwarded port, whose socket is
the forward's. A datagram from the guest belongs to the most specific flow.

Trains of equal datagrams stay together: USO frames of the guest leave by UDP_SEGMENT, UDP_GRO
batches of the host enter as USO frames; and single ones are put together to trains (train.pxd). A
mapping ends 30 s after its last datagram while nobody has answered, 180 s after it once somebody
has (RFC 4787 4.3), 10 s for DNS, or as configured.

Life (TTL) and class (TOS) go both ways: less the one hop that we are in a datagram of another life
than the usual, so that a guest's traceroute sees the host's first router as its second hop; what
ICMP says of a datagram is passed on.
"""
from libc.stdint cimport uint32_t

from .conn cimport Flow, FlowKey, FlowKind
from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport IpHdr, usec_t


cdef Drop udp_parse(const IpHdr *ip, FlowKey *key, uint32_t *n) noexcept nogil
cdef Drop udp_input(Ctx *c, const IpHdr *ip) noexcept nogil
cdef Flow *udp_open(Ctx *c, const FlowKey *key, FlowKind kind) noexcept nogil
cdef void udp_close(Ctx *c, Flow *flow) noexcept nogil
cdef usec_t udp_timeout(Ctx *c, const Flow *flow) noexcept nogil
cdef void udp_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil
cdef void udp_on_forward_event(Ctx *c, uint32_t forward_index) noexcept nogil
cdef void udp_on_timer(Ctx *c, Flow *flow) noexcept nogil
cdef void udp_forget_forward(Ctx *c, uint32_t forward_index) noexcept nogil
