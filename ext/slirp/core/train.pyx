# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Trains of datagrams: see train.pxd for the theory."""
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy, memset

from .csum cimport csum_add, csum_fold
from .ctx cimport LINK_USO4, LINK_USO6, TRAIN_BYTES, Train
from .icmp cimport icmp_refuse, icmp_tracked_send
from .ip cimport OutFrame, ip_output
from .linux cimport EMFILE, EMSGSIZE, ENFILE
from .stats cimport (
    CTR_HOST_RX_DROPPED, DROP_FLOWS_FULL, DROP_NONE, DROP_UDP_HOST_REFUSED, DROP_UDP_TOO_BIG,
    stats_count,
)
from .wire cimport (
    ETH_ALEN, FRAME_MAX_BYTES, HEADROOM_BYTES, IP4_HLEN, IP6_HLEN, IP_PROTO_UDP, UDP_HLEN,
    VNET_F_DATA_VALID, VNET_F_NEEDS_CSUM, VNET_GSO_UDP_L4, VNET_HLEN, addr_eq, addr_is4, ip_hlen,
    load_be16, load_be32, store_be16,
)

cdef enum:
    TRAIN_MAX = 64                  # datagrams: UDP_MAX_SEGMENTS of Linux before 6.8
    TRAIN_DATAGRAM_BYTES = 1472     # larger ones would have to be cut on most paths, and trains are
                                    # not
    ARRIVALS_BYTES = 256 << 10      # read from one socket before others have their turn
    UDP_CSUM_OFFSET = 6


# ---- guest to host -----------------------------------------------------------------------------

cdef Drop train_refuse(Ctx *c, const IpHdr *ip, int error) noexcept nogil:
    """The host's socket would not open, or not take a datagram."""
    icmp_refuse(c, ip, error)
    return DROP_FLOWS_FULL if error == EMFILE or error == ENFILE else DROP_UDP_HOST_REFUSED


cdef Drop send(Ctx *c, Flow *flow, const IpHdr *ip, const Datagram *datagram) noexcept nogil:
    cdef ssize_t result = icmp_tracked_send(c, flow, ip, datagram)
    if result == -EMSGSIZE:
        return DROP_UDP_TOO_BIG
    return DROP_NONE if result >= 0 else train_refuse(c, ip, <int>-result)


cdef bint follows(const Ctx *c, const Flow *flow, const IpHdr *ip,
                  const Datagram *datagram) noexcept nogil:
    """It may be coupled to what is held."""
    cdef const Datagram *first = &c.train.datagram
    return (c.train.flow == flow and datagram.length <= first.segment_bytes
            and first.length + datagram.length <= TRAIN_BYTES
            and datagram.peer_port == first.peer_port
            and addr_eq(&datagram.peer_addr, &first.peer_addr)
            and datagram.ttl == first.ttl and datagram.tos == first.tos
            and (ip.header[6] ^ c.train.header[6]) & 0xE0 == 0)         # flags, or IPv6's protocol


cdef void hold(Ctx *c, Flow *flow, const IpHdr *ip, const Datagram *datagram) noexcept nogil:
    """Begin a train. The first one's headers are kept: an error quotes them."""
    cdef uint32_t headers = ip.header_bytes + UDP_HLEN
    c.train.flow = flow
    c.train.count = 0
    memcpy(c.train.link, c.frame - VNET_HLEN, sizeof(c.train.link))
    c.train.ip = ip[0]
    memcpy(c.train.header, ip.header, headers)
    c.train.ip.header = c.train.header
    c.train.ip.payload = c.train.header + ip.header_bytes
    # With both flags the checksum may be an inner one, which is finished in each
    c.train.joinable = (ip.csum_trusted and ip.header_bytes == ip_hlen(&ip.src)
                        and c.train.link[0] != VNET_F_NEEDS_CSUM | VNET_F_DATA_VALID)
    c.train.datagram = datagram[0]
    c.train.datagram.data = c.train.header + headers
    c.train.datagram.length = 0
    c.train.datagram.segment_bytes = <uint16_t>datagram.length


cdef void couple(Ctx *c, const uint8_t *data, uint32_t n) noexcept nogil:
    """A datagram joins what is held; a shorter one is the last."""
    cdef Datagram *held = &c.train.datagram
    memcpy(held.data + held.length, data, n)
    held.length += n
    c.train.count += 1
    if n < held.segment_bytes or c.train.count == TRAIN_MAX:
        train_departed(c)


cdef Drop train_depart(Ctx *c, Flow *flow, const IpHdr *ip,
                       const Datagram *datagram) noexcept nogil:
    """Send a datagram of the guest's by its flow's own socket: at once, or before the batch is over
    with others of its kind. DROP_NONE for what is held; a refusal comes to be counted later.
    """
    if (datagram.segment_bytes or ip.reassembled or datagram.length == 0
            or datagram.length > TRAIN_DATAGRAM_BYTES
            or ip.header_bytes > sizeof(c.train.header) - TRAIN_BYTES - UDP_HLEN):
        train_departed(c)
        return send(c, flow, ip, datagram)
    if not follows(c, flow, ip, datagram):
        train_departed(c)
        hold(c, flow, ip, datagram)
    couple(c, datagram.data, datagram.length)
    return DROP_NONE


cdef bint same_ip4(const uint8_t *a, const uint8_t *b) noexcept nogil:
    """`b` differs from a header that is good in length, identification and checksum at most, and
    is good too.
    """
    return (load_be16(a) == load_be16(b) and memcmp(a + 6, b + 6, 4) == 0
            and memcmp(a + 12, b + 12, 8) == 0 and csum_fold(csum_add(0, b, IP4_HLEN)) == 0)


cdef bint same_ip6(const uint8_t *a, const uint8_t *b) noexcept nogil:
    """They differ in length at most."""
    return load_be32(a) == load_be32(b) and memcmp(a + 6, b + 6, IP6_HLEN - 6) == 0


cdef bint train_join(Ctx *c, const uint8_t *frame, uint32_t n) noexcept nogil:
    """Hold a frame, virtio header first, that continues the train; False if it does not, or has to
    be looked at more closely.
    """
    cdef const Train *train = &c.train
    cdef uint32_t headers = train.ip.header_bytes + UDP_HLEN
    cdef const uint8_t *ip = frame + sizeof(train.link)
    cdef const uint8_t *udp = ip + train.ip.header_bytes
    cdef uint32_t length
    if (train.flow == NULL or not train.joinable or n <= sizeof(train.link) + headers
            or memcmp(frame, train.link, sizeof(train.link)) != 0
            or memcmp(udp, train.ip.payload, 4) != 0):                      # ports
        return False
    length = load_be16(udp + 4)
    if train.ip.v6:
        if load_be16(ip + 4) != length or not same_ip6(train.header, ip):
            return False
    elif load_be16(ip + 2) != IP4_HLEN + length or not same_ip4(train.header, ip):
        return False
    if (length <= UDP_HLEN or sizeof(train.link) + train.ip.header_bytes + length > n
            or length - UDP_HLEN > train.datagram.segment_bytes
            or train.datagram.length + length - UDP_HLEN > TRAIN_BYTES):
        return False
    couple(c, udp + UDP_HLEN, length - UDP_HLEN)
    c.singles += 1
    return True


cdef void train_departed(Ctx *c) noexcept nogil:
    """What is held leaves now. An error about it goes where it came from, not where the frame did
    that is looked at meanwhile.
    """
    cdef Flow *flow = c.train.flow
    cdef uint8_t frame_mac[6]
    cdef Drop d
    if flow == NULL:
        return
    c.train.flow = NULL
    memcpy(frame_mac, c.frame_mac, ETH_ALEN)
    memcpy(c.frame_mac, c.train.link + VNET_HLEN + ETH_ALEN, ETH_ALEN)
    if c.train.count == 1:
        c.train.datagram.segment_bytes = 0
    d = send(c, flow, &c.train.ip, &c.train.datagram)
    memcpy(c.frame_mac, frame_mac, ETH_ALEN)
    if d != DROP_NONE:                                  # each was counted as taken
        c.stats.drops[<int>DROP_NONE] -= c.train.count
        c.stats.drops[<int>d] += c.train.count


# ---- host to guest -----------------------------------------------------------------------------

cdef void send_to_guest(Ctx *c, const Arrivals *a, uint8_t *data, uint32_t n,
                        uint16_t segment_bytes) noexcept nogil:
    """One frame with a part of the train; `data` has HEADROOM_BYTES of room before it."""
    cdef OutFrame out
    memset(&out, 0, sizeof(OutFrame))
    out.src = a.src
    out.dst = a.flow.key.guest_addr
    out.proto = IP_PROTO_UDP
    out.ttl = a.datagram.ttl
    out.tos = a.datagram.tos
    out.guest_mac = a.flow.guest_mac
    out.csum_offset = UDP_CSUM_OFFSET
    out.l4 = data - UDP_HLEN
    out.l4_bytes = UDP_HLEN
    store_be16(out.l4, a.src_port)
    store_be16(out.l4 + 2, a.flow.key.guest_port)
    store_be16(out.l4 + 4, <uint16_t>(UDP_HLEN + n))
    store_be16(out.l4 + 6, 0)
    out.payload[0].iov_base = data
    out.payload[0].iov_len = n
    out.n_payload = 1 if n else 0
    out.payload_bytes = n
    if segment_bytes:
        out.gso_type = VNET_GSO_UDP_L4
        out.gso_size = segment_bytes
    ip_output(c, &out)


cdef inline uint32_t train_limit(const Flow *flow) noexcept nogil:
    """The most that one frame can carry; IPv6's length counts from behind its header."""
    return 65535 - UDP_HLEN - (IP4_HLEN if addr_is4(&flow.key.guest_addr) else 0)


cdef bint guest_cuts(Ctx *c, const Flow *flow, uint32_t segment_bytes) noexcept nogil:
    """The guest's kernel takes a train of such datagrams. None is larger than the MTU: those go in
    fragments, as they would alone.
    """
    cdef bint v4 = addr_is4(&flow.key.guest_addr)
    return (c.conf.offload & (LINK_USO4 if v4 else LINK_USO6) != 0
            and segment_bytes + UDP_HLEN + (IP4_HLEN if v4 else IP6_HLEN) <= c.conf.mtu)


cdef void train_arrived(Ctx *c, Arrivals *a) noexcept nogil:
    """The train put together goes to the guest: whole if its kernel cuts trains, else one by one.
    """
    cdef uint8_t *data = a.datagram.data
    cdef uint32_t left = a.datagram.length
    cdef uint32_t n
    if a.flow == NULL:
        return
    a.flow.last_us = c.now_us
    a.flow.body.udp.replied = True
    if left <= a.datagram.segment_bytes:
        send_to_guest(c, a, data, left, 0)
    elif guest_cuts(c, a.flow, a.datagram.segment_bytes):
        send_to_guest(c, a, data, left, a.datagram.segment_bytes)
    else:
        # Each header is written over the end of the datagram before it, sent already
        while left:
            n = min(left, <uint32_t>a.datagram.segment_bytes)
            send_to_guest(c, a, data, n, 0)
            data += n
            left -= n
    a.flow = NULL


cdef bint train_receive(Ctx *c, int fd, Arrivals *a, Datagram *datagram) noexcept nogil:
    """The next datagram of a socket, behind those before it. False when none waits, or enough was
    taken.
    """
    while a.taken < ARRIVALS_BYTES:
        if a.used > FRAME_MAX_BYTES:
            train_arrived(c, a)
            a.used = 0
        memset(datagram, 0, sizeof(Datagram))
        datagram.data = c.scratch + HEADROOM_BYTES + a.used
        datagram.capacity = FRAME_MAX_BYTES
        if c.host.dgram_recv(c.host.impl, fd, datagram) < 0:
            return False
        a.taken += datagram.length
        if datagram.length <= 65535 - UDP_HLEN:
            return True
        stats_count(&c.stats, CTR_HOST_RX_DROPPED)
    return False


cdef void train_arrive(Ctx *c, Arrivals *a, Flow *flow, const Addr *src, uint16_t src_port,
                       const Datagram *datagram) noexcept nogil:
    """The datagram, or train, that train_receive gave is for `flow`: couple it to what is there, or
    begin anew.
    """
    cdef Datagram *train = &a.datagram
    cdef uint32_t segment_bytes = train.segment_bytes
    if datagram.segment_bytes == 0:
        c.singles += 1
    if datagram.length > train_limit(flow):
        stats_count(&c.stats, CTR_HOST_RX_DROPPED)
        return
    if (a.flow == flow and datagram.segment_bytes == 0
            and 0 < datagram.length <= segment_bytes and train.length % segment_bytes == 0
            and train.length < TRAIN_MAX * segment_bytes
            and train.length + datagram.length <= train_limit(flow)
            and train.data + train.length == datagram.data
            and src_port == a.src_port and addr_eq(src, &a.src)
            and datagram.ttl == train.ttl and datagram.tos == train.tos
            and guest_cuts(c, flow, segment_bytes)):
        train.length += datagram.length
    else:
        train_arrived(c, a)
        a.flow = flow
        a.src = src[0]
        a.src_port = src_port
        train[0] = datagram[0]
        if train.segment_bytes == 0:
            train.segment_bytes = <uint16_t>train.length
    a.used += datagram.length
