# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames for the control plane: see punt.pxd for the theory."""
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from .ctx cimport PUNT_FRAME_BYTES, PUNT_FRAMES, PuntedFrame
from .ip cimport ip_csum_ok
from .ip4 cimport ip4_is_source
from .linux cimport iovec
from .rate cimport rate_allows
from .stats cimport (
    CTR_BYTES_TO_GUEST, CTR_FRAMES_TO_GUEST, CTR_LINK_SEND_FAILED, DROP_NONE, DROP_PUNT_FULL,
    DROP_PUNT_LIMITED, DROP_PUNT_TOO_LONG, DROP_UDP_BAD_CHECKSUM, DROP_UDP_MALFORMED, stats_add,
    stats_count,
)
from .wire cimport (
    ETH_HLEN, FRAME_MAX_BYTES, IP_PROTO_UDP, UDP_HLEN, VNET_HLEN, addr_eq, addr_get4, load_be16,
    load_be32,
)

cdef enum:
    PUNT_EVERY_US = 10000           # each frame costs the event loop some 100 us: 1 % of its time
    PUNT_BURST = 64
    DHCP4_SERVER_PORT = 67
    DHCP6_SERVER_PORT = 547


cdef Drop punt_frame(Ctx *c) noexcept nogil:
    """Keep the frame in hand for the control plane; what became of it."""
    cdef PuntedFrame *slot
    if c.frame_bytes > PUNT_FRAME_BYTES:
        return DROP_PUNT_TOO_LONG
    if c.n_punted == PUNT_FRAMES:
        return DROP_PUNT_FULL
    if not rate_allows(&c.punt_limit, c.now_us, PUNT_EVERY_US, PUNT_BURST):
        return DROP_PUNT_LIMITED
    slot = &c.punted[c.n_punted]
    memcpy(slot.data, c.frame, c.frame_bytes)
    slot.length = c.frame_bytes
    c.n_punted += 1
    return DROP_NONE


cdef bint is_udp_to(const IpHdr *ip, uint16_t port) noexcept nogil:
    return (ip.proto == IP_PROTO_UDP and ip.payload_bytes >= UDP_HLEN
            and not ip.fragment and not ip.reassembled and load_be16(ip.payload + 2) == port)


cdef bint punt_is_dhcp4(Ctx *c, const IpHdr *ip, bint to_group) noexcept nogil:
    """From a client, which may have no address yet, to any DHCP server or to us (RFC 2131 4.1).
    `to_group`: so is its frame.
    """
    cdef uint32_t dest = addr_get4(&ip.dst)
    if not is_udp_to(ip, DHCP4_SERVER_PORT):
        return False
    if addr_get4(&ip.src) != 0 and not ip4_is_source(c, &ip.src):
        return False
    if ~dest == 0 or ~(dest | c.conf.mask4) == 0 and (dest & c.conf.mask4) == c.conf.network4:
        return True
    return addr_eq(&ip.dst, &c.conf.gateway4) and not to_group


cdef bint punt_is_dhcp6(const IpHdr *ip) noexcept nogil:
    """To all DHCPv6 servers of the link, ff02::1:2 (RFC 8415 7.1)."""
    return (is_udp_to(ip, DHCP6_SERVER_PORT) and load_be16(ip.dst.b) == 0xFF02
            and load_be16(&ip.dst.b[2]) == 0 and load_be32(&ip.dst.b[4]) == 0
            and load_be32(&ip.dst.b[8]) == 0 and load_be32(&ip.dst.b[12]) == 0x00010002)


cdef Drop punt_dhcp(Ctx *c, const IpHdr *ip) noexcept nogil:
    """Check a DHCP message of either family as far as UDP, and punt it."""
    cdef uint32_t length = load_be16(ip.payload + 4)
    cdef bint summed = load_be16(ip.payload + 6) != 0
    if length < UDP_HLEN or length > ip.payload_bytes or ip.gso_size:
        return DROP_UDP_MALFORMED
    # RFC 768: zero says that there is none; RFC 8200 8.1: in IPv6 there is one
    if summed and not ip_csum_ok(ip, length) or not summed and ip.v6:
        return DROP_UDP_BAD_CHECKSUM
    return punt_frame(c)


cdef void send_whole_frame(Ctx *c, const uint8_t *eth, uint32_t n) noexcept nogil:
    """Send a frame that needs nothing of the link: no checksum to finish, nothing to cut."""
    cdef uint8_t vnet[VNET_HLEN]
    cdef iovec iov[2]
    memset(vnet, 0, VNET_HLEN)
    iov[0].iov_base = vnet
    iov[0].iov_len = VNET_HLEN
    iov[1].iov_base = <void *>eth
    iov[1].iov_len = n
    if c.link.send(c.link.impl, iov, 2) < 0:
        stats_count(&c.stats, CTR_LINK_SEND_FAILED)
        return
    stats_count(&c.stats, CTR_FRAMES_TO_GUEST)
    stats_add(&c.stats, CTR_BYTES_TO_GUEST, n)


cdef list punt_take(Ctx *c):
    """The frames that wait, oldest first; they wait no more."""
    cdef list out = []
    cdef uint32_t i
    for i in range(c.n_punted):
        out.append((<const char *>c.punted[i].data)[:c.punted[i].length])
    c.n_punted = 0
    return out


cdef int punt_reply(Ctx *c, bytes frame) except -1:
    """Send the control plane's frame. Raises ValueError when it is none."""
    if not ETH_HLEN <= len(frame) <= FRAME_MAX_BYTES:
        raise ValueError("a frame has an Ethernet header and at most 65535 bytes more")
    send_whole_frame(c, <const uint8_t *><const char *>frame, <uint32_t>len(frame))
    return 0
