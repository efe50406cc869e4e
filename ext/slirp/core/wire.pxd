# cython: language_level=3
"""What stands on the wire, and how to read and write it: no state, headers only.

Bytes in wire order exist only behind a `uint8_t *`; every integer variable is in host order. Loads
and stores are built from shifts, which compilers turn into one instruction, so that no header needs
an alignment or a packed struct.

Addresses of both families are one type, `Addr`: 16 bytes in wire order, IPv4 in its mapped form
::ffff:a.b.c.d (RFC 4291 2.5.5.2), so that flows, hashes and policy are written once.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

ctypedef uint64_t usec_t        # a time or a span in microseconds; the clock is always an argument

cdef enum:
    ETH_HLEN = 14               # destination, source, type
    ETH_ALEN = 6
    ETH_P_IP = 0x0800
    ETH_P_ARP = 0x0806
    ETH_P_IPV6 = 0x86DD

    IP4_HLEN = 20               # without options (RFC 791 3.1)
    IP4_DF = 0x4000
    IP4_MF = 0x2000
    IP4_OFFSET_MASK = 0x1FFF    # fragment offset, in units of 8 bytes
    IP_PROTO_HOP_BY_HOP = 0     # RFC 8200 4.1: the extension headers that we know
    IP_PROTO_ICMP = 1
    IP_PROTO_TCP = 6
    IP_PROTO_UDP = 17
    IP_PROTO_ROUTING = 43
    IP_PROTO_FRAGMENT = 44
    IP_PROTO_ICMP6 = 58
    IP_PROTO_NONE = 59
    IP_PROTO_DESTINATION = 60
    IP_TTL_DEFAULT = 64         # RFC 1700
    TOS_DSCP = 0xFC             # RFC 2474 3; the rest is ECN's (RFC 3168)
    IP4_MTU_MIN = 68            # RFC 791 3.2: every network takes this

    IP6_HLEN = 40               # RFC 8200 3
    IP6_MTU_MIN = 1280          # RFC 8200 5: every link takes this
    FRAGMENT_HLEN = 8           # RFC 8200 4.5
    NDP_HOP_LIMIT = 255         # RFC 4861: proof that no router passed it on

    UDP_HLEN = 8                # RFC 768
    ICMP_HLEN = 8               # RFC 792
    TCP_HLEN = 20               # without options (RFC 9293 3.1)
    TCP_OPTIONS_MAX = 40

    # struct virtio_net_hdr_mrg_rxbuf, as TUNSETVNETHDRSZ 12 has it: flags, gso_type, then five
    # little-endian words
    VNET_HLEN = 12
    VNET_F_NEEDS_CSUM = 1       # the checksum field holds the pseudo-header's sum; finish it from
                                # csum_start
    VNET_F_DATA_VALID = 2       # the checksum has been verified
    VNET_GSO_NONE = 0
    VNET_GSO_TCPV4 = 1
    VNET_GSO_TCPV6 = 4
    VNET_GSO_UDP_L4 = 5
    VNET_GSO_ECN = 0x80

    FRAME_MAX_BYTES = 65535 + 14    # the largest IP datagram behind an Ethernet header
    HEADROOM_BYTES = 12 + 14 + 40 + 60   # room for the headers of any frame that we build


# IPv4 as ::ffff:a.b.c.d. The host's link-local addresses of IPv6 have the number of their interface
# in bytes 4 to 7, which are zero on the wire (RFC 4291 2.5.6): one link's are not another's.
cdef union Addr:
    uint8_t b[16]
    uint64_t w[2]


cdef struct VnetHdr:            # parsed form of the virtio-net header
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset


cdef struct IpHdr:              # either family, parsed: what the layers above need of an IP header
    Addr src
    Addr dst
    bint v6
    uint8_t proto               # upper-layer protocol
    uint8_t ttl
    uint8_t tos
    bint csum_trusted           # the checksums of what follows are known to be right or are left to
                                # offload
    uint16_t gso_size           # nonzero: an unsegmented train of segments of this size
    uint8_t gso_type
    const uint8_t *header       # the IP header itself, for ICMP errors that quote it
    uint32_t header_bytes       # with IPv6's extension headers
    bint fragment               # payload is a piece of a datagram
    bint more_fragments
    bint reassembled            # it was in pieces
    uint32_t fragment_id
    uint32_t fragment_offset    # bytes
    uint32_t next_header_at     # IPv6: where in the header `proto` was named
    int problem_code            # IPv6, with a Drop that says so: the parameter problem to report;
                                # -1: none
    uint32_t problem_at         # and where in the header it is
    const uint8_t *payload
    uint32_t payload_bytes      # exact: what the IP header promises, already checked against the
                                # frame


cdef inline uint16_t load_be16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((p[0] << 8) | p[1])

cdef inline uint32_t load_be32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]

cdef inline void store_be16(uint8_t *p, uint16_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>value

cdef inline void store_be32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value

cdef inline uint16_t load_le16(const uint8_t *p) noexcept nogil:
    return <uint16_t>(p[0] | (p[1] << 8))

cdef inline void store_le16(uint8_t *p, uint16_t value) noexcept nogil:
    p[0] = <uint8_t>value
    p[1] = <uint8_t>(value >> 8)

cdef inline bint addr_eq(const Addr *a, const Addr *b) noexcept nogil:
    return a.w[0] == b.w[0] and a.w[1] == b.w[1]

cdef inline void addr_set4(Addr *addr, const uint8_t *wire4) noexcept nogil:
    memset(addr, 0, 10)
    addr.b[10] = 0xFF
    addr.b[11] = 0xFF
    memcpy(&addr.b[12], wire4, 4)

cdef inline bint addr_is4(const Addr *addr) noexcept nogil:
    return addr.w[0] == 0 and load_be32(&addr.b[8]) == 0xFFFF

cdef inline uint32_t addr_get4(const Addr *addr) noexcept nogil:
    """The IPv4 address in host order; only for an address of that family."""
    return load_be32(&addr.b[12])

cdef inline bint addr_is_multicast6(const Addr *addr) noexcept nogil:
    return addr.b[0] == 0xFF

cdef inline bint addr_is_link_local6(const Addr *addr) noexcept nogil:
    return addr.b[0] == 0xFE and addr.b[1] & 0xC0 == 0x80       # fe80::/10

cdef inline bint addr_is_loopback6(const Addr *addr) noexcept nogil:
    return addr.w[0] == 0 and load_be32(&addr.b[8]) == 0 and load_be32(&addr.b[12]) == 1

cdef inline bint addr_is_zero(const Addr *addr) noexcept nogil:
    """Unset; or IPv6's unspecified address (RFC 4291 2.5.2)."""
    return addr.w[0] == 0 and addr.w[1] == 0

cdef inline uint32_t ip_hlen(const Addr *addr) noexcept nogil:
    """Bytes of the IP header, without options, of that address's family."""
    return IP4_HLEN if addr_is4(addr) else IP6_HLEN

cdef inline void vnet_parse(VnetHdr *hdr, const uint8_t *p) noexcept nogil:
    hdr.flags = p[0]
    hdr.gso_type = p[1]
    hdr.hdr_len = load_le16(p + 2)
    hdr.gso_size = load_le16(p + 4)
    hdr.csum_start = load_le16(p + 6)
    hdr.csum_offset = load_le16(p + 8)

cdef inline void vnet_build(uint8_t *p, const VnetHdr *hdr) noexcept nogil:
    p[0] = hdr.flags
    p[1] = hdr.gso_type
    store_le16(p + 2, hdr.hdr_len)
    store_le16(p + 4, hdr.gso_size)
    store_le16(p + 6, hdr.csum_start)
    store_le16(p + 8, hdr.csum_offset)
    store_le16(p + 10, 0)       # num_buffers: only a host with VIRTIO_NET_F_MRG_RXBUF writes it
