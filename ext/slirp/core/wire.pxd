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
    IP_PROTO_ICMP = 1
    IP_PROTO_TCP = 6
    IP_PROTO_UDP = 17
    IP_TTL_DEFAULT = 64         # RFC 1700
    TOS_DSCP = 0xFC             # RFC 2474 3; the rest is ECN's (RFC 3168)
    IP4_MTU_MIN = 68            # RFC 791 3.2: every network takes this

    IP6_HLEN = 40               # RFC 8200 3

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
    uint8_t proto               # upper-layer protocol
    uint8_t ttl
    uint8_t tos
    bint csum_trusted           # the checksums of what follows are known to be right or are left to
                                # offload
    uint16_t gso_size           # nonzero: an unsegmented train of segments of this size
    uint8_t gso_type
    const uint8_t *header       # the IP header itself, for ICMP errors that quote it
    uint32_t header_bytes
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
