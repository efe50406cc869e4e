# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""UDP: see udp.pxd for the theory."""
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from .conn cimport CUTTING_FORBIDDEN, FLOW_DNS, FLOW_UDP, FLOW_UDP_FORWARD, FLOW_UDP_PEER
from .ctx cimport Forward
from .flow cimport (
    LRU_UDP, flow_alloc, flow_free, flow_handle, flow_lookup, flow_set_class, flow_unhash, flow_use,
)
from .fwd cimport (
    ROUTE_DNS_CLOSED, ROUTE_LOOPBACK_CLOSED, ROUTE_NOWHERE, ROUTE_REFUSED, ROUTE_WORLD, Target,
    fwd_at, fwd_for_guest, fwd_guest_view, fwd_nowhere, fwd_route,
)
from .hostops cimport EVENT_ERROR, OPTION_DONT_FRAGMENT, REF_FLOW, Datagram, HostError, ref_make
from .icmp cimport icmp_cutting, icmp_error, icmp_error_for_udp, icmp_take_errors
from .icmp6 cimport ICMP_HOST_UNREACHABLE, ICMP_PORT_UNREACHABLE, ICMP_UNREACHABLE
from .ip cimport ip_csum_ok, neigh_lookup
from .linux cimport EAGAIN, EMSGSIZE
from .stats cimport (
    CTR_HOST_RX_DROPPED, CTR_UDP_EVICTED, CTR_UDP_FLOWS, DROP_FLOWS_FULL,
    DROP_NONE, DROP_UDP_BAD_CHECKSUM, DROP_UDP_FORBIDDEN, DROP_UDP_MALFORMED,
    DROP_UDP_TOO_BIG, stats_count,
)
from .timers cimport timer_cancel, timer_set
from .train cimport (
    Arrivals, train_arrive, train_arrived, train_depart, train_departed, train_receive,
    train_refuse,
)
from .wire cimport (
    ETH_ALEN, IP_PROTO_UDP, IP_TTL_DEFAULT, UDP_HLEN, VNET_GSO_UDP_L4, Addr, addr_eq, addr_is4,
    addr_is_link_local6, load_be16,
)

cdef enum:
    UDP_BATCH = 44                  # datagrams read from one socket before others have their turn:
                                    # a train of the largest that Ethernet carries


# ---- life of a mapping -------------------------------------------------------------------------

cdef usec_t udp_timeout(Ctx *c, const Flow *flow) noexcept nogil:
    if flow.kind == FLOW_DNS:
        return c.conf.udp_dns_us
    return c.conf.udp_replied_us if flow.body.udp.replied else c.conf.udp_unreplied_us


cdef void udp_close(Ctx *c, Flow *flow) noexcept nogil:
    cdef int i
    if c.train.flow == flow:
        train_departed(c)
    if flow.fd >= 0 and flow.kind != FLOW_UDP_FORWARD:
        c.host.close(c.host.impl, flow.fd)
    if flow.kind == FLOW_DNS:
        for i in range(flow.body.dns.n_asked):
            if flow.body.dns.fds[i] >= 0:
                c.host.close(c.host.impl, flow.body.dns.fds[i])
        c.dns_kept_bytes -= flow.body.dns.query_bytes
        free(flow.body.dns.query)
    timer_cancel(&c.timers, &flow.timer)
    flow_unhash(&c.flows, flow)
    flow_free(&c.flows, flow)


cdef void udp_on_timer(Ctx *c, Flow *flow) noexcept nogil:
    """Armed lazily: look whether it was idle for long enough."""
    cdef usec_t due = flow.last_us + udp_timeout(c, flow)
    if due > c.now_us:
        timer_set(&c.timers, &flow.timer, due)
    else:
        udp_close(c, flow)


cdef Flow *udp_open(Ctx *c, const FlowKey *key, FlowKind kind) noexcept nogil:
    """A flow without a socket; at the bound the one longest unused gives way."""
    cdef Flow *flow
    if c.flows.lru[<int>LRU_UDP].count >= c.conf.max_udp_flows:
        stats_count(&c.stats, CTR_UDP_EVICTED)
        udp_close(c, c.flows.lru[<int>LRU_UDP].oldest)
    flow = flow_alloc(&c.flows, key, kind)
    if flow == NULL:
        return NULL
    stats_count(&c.stats, CTR_UDP_FLOWS)
    flow_set_class(&c.flows, flow, LRU_UDP)
    flow.last_us = c.now_us
    timer_set(&c.timers, &flow.timer, c.now_us + udp_timeout(c, flow))
    return flow


cdef void udp_forget_forward(Ctx *c, uint32_t forward_index) noexcept nogil:
    """The forward is closing: the flows of its clients end, since the socket was its."""
    cdef Flow *flow = c.flows.lru[<int>LRU_UDP].oldest
    cdef Flow *following
    while flow != NULL:
        following = flow.lru_next
        if flow.kind == FLOW_UDP_FORWARD and flow.body.udp.forward_id == forward_index:
            udp_close(c, flow)
        flow = following


# ---- guest to host -----------------------------------------------------------------------------

cdef Drop open_for_guest(Ctx *c, const IpHdr *ip, FlowKey *key, const Target *target,
                         Flow **out) noexcept nogil:
    """The flow for a first datagram of the guest's."""
    cdef bint world = target.route == ROUTE_WORLD
    cdef FlowKind kind = FLOW_UDP if world else FLOW_UDP_PEER
    cdef Forward *forward = NULL
    cdef Flow *flow
    cdef int fd
    if world:
        # A forwarded port speaks from the host's port also when it speaks first
        forward = fwd_for_guest(c, IP_PROTO_UDP, &key.guest_addr, key.guest_port)
        if forward != NULL:
            kind = FLOW_UDP_FORWARD
        else:
            memset(&key.dest_addr, 0, sizeof(Addr))
            key.dest_port = 0
    flow = udp_open(c, key, kind)
    if flow == NULL:
        return DROP_FLOWS_FULL
    flow.body.udp.peer_addr = target.addr
    flow.body.udp.peer_port = target.port
    if forward != NULL:
        fd = forward.fd
        flow.body.udp.forward_id = <uint32_t>(forward - c.forwards)
    elif world:
        fd = c.host.udp_open(c.host.impl, ref_make(REF_FLOW, flow_handle(flow)),
                             addr_is4(&ip.dst), NULL, 0)
    else:
        fd = c.host.udp_open(c.host.impl, ref_make(REF_FLOW, flow_handle(flow)),
                             addr_is4(&target.addr), &target.addr, target.port)
    if fd < 0:
        udp_close(c, flow)
        return train_refuse(c, ip, -fd)
    flow.fd = fd
    out[0] = flow
    return DROP_NONE


cdef Drop udp_find(Ctx *c, const IpHdr *ip, FlowKey *key, Flow **out) noexcept nogil:
    """The flow of a datagram of the guest's, made if need be and if policy allows."""
    cdef Target target
    cdef FlowKey wide
    cdef Flow *flow = flow_lookup(&c.flows, key)
    if flow == NULL:
        fwd_route(c, &ip.dst, key.dest_port, &target)
        if target.route in (ROUTE_REFUSED, ROUTE_LOOPBACK_CLOSED, ROUTE_DNS_CLOSED):
            icmp_error(c, ip, ICMP_UNREACHABLE, ICMP_PORT_UNREACHABLE)
            return DROP_UDP_FORBIDDEN
        if target.route == ROUTE_NOWHERE:
            icmp_error(c, ip, ICMP_UNREACHABLE, ICMP_HOST_UNREACHABLE)
            return fwd_nowhere(ip)
        if target.route == ROUTE_WORLD:
            wide = key[0]
            memset(&wide.dest_addr, 0, sizeof(Addr))
            wide.dest_port = 0
            flow = flow_lookup(&c.flows, &wide)
        if flow == NULL:
            return open_for_guest(c, ip, key, &target, out)
    flow_use(&c.flows, flow)
    out[0] = flow
    return DROP_NONE


cdef Drop udp_parse(const IpHdr *ip, FlowKey *key, uint32_t *n) noexcept nogil:
    """Check a datagram, and fill its key and the length of its payload."""
    cdef const uint8_t *p = ip.payload
    cdef uint32_t length
    if ip.payload_bytes < UDP_HLEN:
        return DROP_UDP_MALFORMED
    length = load_be16(p + 4)
    if length < UDP_HLEN or length > ip.payload_bytes or load_be16(p + 2) == 0:
        return DROP_UDP_MALFORMED
    # RFC 768: zero means that there is none; in IPv6 there always is one (RFC 8200 8.1)
    if (load_be16(p + 6) or ip.v6 and not ip.csum_trusted) and not ip_csum_ok(ip, length):
        return DROP_UDP_BAD_CHECKSUM
    n[0] = length - UDP_HLEN
    memset(key, 0, sizeof(FlowKey))
    key.guest_addr = ip.src
    key.dest_addr = ip.dst
    key.guest_port = load_be16(p)
    key.dest_port = load_be16(p + 2)
    key.proto = IP_PROTO_UDP
    return DROP_NONE


cdef Drop send_by_forward(Ctx *c, const Flow *flow, const IpHdr *ip,
                          const Datagram *datagram) noexcept nogil:
    """An answer to a forwarded port's client. The socket is all clients': what it was told last
    stands with the forward, and an error that waits may be another's. What is too big comes back by
    the error queue too, from which the guest is told.
    """
    cdef Forward *forward = fwd_at(c, flow.body.udp.forward_id)
    cdef uint8_t wish = icmp_cutting(ip)
    cdef ssize_t result
    if forward != NULL and forward.cutting != wish:
        forward.cutting = wish
        c.host.set_option(c.host.impl, flow.fd, OPTION_DONT_FRAGMENT, wish == CUTTING_FORBIDDEN)
    result = c.host.dgram_send(c.host.impl, flow.fd, datagram)
    if result < 0 and result != -EAGAIN:
        result = c.host.dgram_send(c.host.impl, flow.fd, datagram)
    if result == -EMSGSIZE:
        return DROP_UDP_TOO_BIG
    return DROP_NONE if result >= 0 else train_refuse(c, ip, <int>-result)


cdef Drop udp_input(Ctx *c, const IpHdr *ip) noexcept nogil:
    """A datagram, or a train of them, from the guest."""
    cdef FlowKey key
    cdef Flow *flow = NULL
    cdef Datagram datagram
    cdef uint32_t n
    cdef Drop d = udp_parse(ip, &key, &n)
    if d == DROP_NONE:
        d = udp_find(c, ip, &key, &flow)
    if d != DROP_NONE:
        return d
    flow.last_us = c.now_us
    memcpy(flow.guest_mac, c.frame_mac, ETH_ALEN)
    memset(&datagram, 0, sizeof(Datagram))
    if flow.kind == FLOW_UDP:
        datagram.peer_addr = ip.dst
        datagram.peer_port = load_be16(ip.payload + 2)
    else:
        datagram.peer_addr = flow.body.udp.peer_addr
        datagram.peer_port = flow.body.udp.peer_port
        datagram.local_addr = flow.body.udp.local_addr
    datagram.data = <uint8_t *>ip.payload + UDP_HLEN
    datagram.length = n
    datagram.ttl = ip.ttl - 1 if ip.ttl != IP_TTL_DEFAULT else 0    # another life is meant
    datagram.tos = ip.tos
    if ip.gso_type == VNET_GSO_UDP_L4 and datagram.length > ip.gso_size:
        datagram.segment_bytes = ip.gso_size
    else:
        c.singles += 1
    if flow.kind == FLOW_UDP_FORWARD:
        return send_by_forward(c, flow, ip, &datagram)
    return train_depart(c, flow, ip, &datagram)


# ---- host to guest -----------------------------------------------------------------------------

cdef void udp_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil:
    """Datagrams, or errors, wait at a flow's own socket."""
    cdef Arrivals arrivals
    cdef Datagram datagram
    cdef int _
    memset(&arrivals, 0, sizeof(Arrivals))
    if events & EVENT_ERROR:
        icmp_take_errors(c, flow, NULL)
    for _ in range(UDP_BATCH):
        if not train_receive(c, flow.fd, &arrivals, &datagram):
            break
        if flow.kind == FLOW_UDP_PEER:
            train_arrive(c, &arrivals, flow, &flow.key.dest_addr, flow.key.dest_port, &datagram)
        elif (addr_is4(&datagram.peer_addr) == addr_is4(&flow.key.guest_addr)
              and not addr_is_link_local6(&datagram.peer_addr)):     # RFC 4007 9: of another zone
            train_arrive(c, &arrivals, flow, &datagram.peer_addr, datagram.peer_port, &datagram)
        else:
            stats_count(&c.stats, CTR_HOST_RX_DROPPED)
    train_arrived(c, &arrivals)


cdef Flow *find_client(Ctx *c, const Forward *forward, const Addr *addr, uint16_t port,
                       FlowKey *key) noexcept nogil:
    """The flow under the key of a forwarded port's client, or NULL; fills `key`."""
    memset(key, 0, sizeof(FlowKey))
    key.guest_addr = forward.guest_addr
    key.guest_port = forward.guest_port
    fwd_guest_view(c, &key.guest_addr, addr, &key.dest_addr)
    key.dest_port = port
    key.proto = IP_PROTO_UDP
    return flow_lookup(&c.flows, key)


cdef Flow *flow_of_client(Ctx *c, uint32_t forward_index, const Datagram *datagram) noexcept nogil:
    """The flow of a forwarded port's client, made if need be; NULL at the bound."""
    cdef Forward *forward = fwd_at(c, forward_index)
    cdef FlowKey key
    cdef Flow *flow = find_client(c, forward, &datagram.peer_addr, datagram.peer_port, &key)
    if flow != NULL and (flow.kind != FLOW_UDP_FORWARD
                         or flow.body.udp.forward_id != forward_index):
        udp_close(c, flow)
        flow = NULL
    if flow == NULL:
        flow = udp_open(c, &key, FLOW_UDP_FORWARD)
        if flow == NULL:
            return NULL
        flow.fd = forward.fd
        flow.body.udp.forward_id = forward_index
        memcpy(flow.guest_mac, neigh_lookup(c, &key.guest_addr), ETH_ALEN)
    flow.body.udp.peer_addr = datagram.peer_addr
    flow.body.udp.peer_port = datagram.peer_port
    flow.body.udp.local_addr = datagram.local_addr
    flow_use(&c.flows, flow)
    return flow


cdef void udp_on_forward_event(Ctx *c, uint32_t forward_index) noexcept nogil:
    """Clients have written to a forwarded port."""
    cdef Forward *forward = fwd_at(c, forward_index)
    cdef Arrivals arrivals
    cdef Datagram datagram
    cdef HostError error
    cdef FlowKey key
    cdef Flow *flow
    cdef int _
    if forward == NULL:
        return
    memset(&arrivals, 0, sizeof(Arrivals))
    for _ in range(UDP_BATCH):
        if c.host.next_error(c.host.impl, forward.fd, &error) <= 0:
            break
        flow = find_client(c, forward, &error.peer_addr, error.peer_port, &key)
        if flow != NULL and flow.kind == FLOW_UDP_FORWARD:
            icmp_error_for_udp(c, flow, &key.dest_addr, key.dest_port, &error)
    for _ in range(UDP_BATCH):
        if not train_receive(c, forward.fd, &arrivals, &datagram):
            break
        if (datagram.peer_port != arrivals.datagram.peer_port
                or not addr_eq(&datagram.peer_addr, &arrivals.datagram.peer_addr)):
            train_arrived(c, &arrivals)         # a flow that is made may take the place of its own
        flow = flow_of_client(c, forward_index, &datagram)
        if flow == NULL:
            stats_count(&c.stats, CTR_HOST_RX_DROPPED)
            continue
        train_arrive(c, &arrivals, flow, &flow.key.dest_addr, flow.key.dest_port, &datagram)
    train_arrived(c, &arrivals)
