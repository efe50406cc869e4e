# cython: language_level=3
"""IP of both families: what the link said of a frame, what goes back (RFC 791, 8200, 1122 3.2).

ip4.pyx and ip6.pyx parse. Frames to the guest are built behind HEADROOM_BYTES of room: `ip_output`
writes the virtio, Ethernet and IP headers into one buffer whose upper-layer header the caller has
filled, and hands the pieces to the link; the family is that of the addresses. What is larger than
the MTU, and no train for the link to cut, leaves in fragments.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .ctx cimport Ctx
from .linux cimport iovec
from .stats cimport Drop
from .wire cimport Addr, IpHdr, VnetHdr


cdef struct OutFrame:
    Addr src
    Addr dst
    uint8_t proto
    uint8_t tos
    uint8_t ttl
    const uint8_t *guest_mac
    uint8_t *l4                     # upper-layer header; HEADROOM_BYTES - 60 bytes before it are
                                    # ours to fill
    uint32_t l4_bytes
    iovec payload[8]                # what follows it
    int n_payload
    uint32_t payload_bytes
    uint16_t csum_offset            # of the checksum field in the upper-layer header
    uint8_t gso_type                # VNET_GSO_*: payload is to be cut into gso_size
    uint16_t gso_size
    bint no_csum                    # the checksum is in place already (ICMP)


cdef Drop ip_check_vnet(const VnetHdr *vnet, IpHdr *ip) noexcept nogil
cdef int ip_output(Ctx *c, OutFrame *out) noexcept nogil
cdef bint ip_csum_ok(const IpHdr *ip, uint32_t n) noexcept nogil
cdef const uint8_t *neigh_lookup(Ctx *c, const Addr *addr) noexcept nogil
cdef void neigh_learn(Ctx *c, const Addr *addr, const uint8_t *mac) noexcept nogil
