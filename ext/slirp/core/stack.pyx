# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The whole stack: see stack.pxd for the theory."""
from libc.errno cimport ENOSPC
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from .arp cimport arp_input
from .blocks cimport pool_destroy, pool_init
from .conn cimport CUTTING_UNSAID, FLOW_DNS, FLOW_FREE, FLOW_PING, FLOW_TCP, Flow
from .ctx cimport FORWARDS_MAX, Forward
from .dns cimport dns_input, dns_is_for, dns_on_host_event, dns_on_timer
from .flow cimport SLAB_FLOWS, flow_at, flow_by_handle, flows_destroy, flows_init
from .frag cimport frag_clear, frag_done, frag_input, frag_pop_expired
from .fwd cimport fwd_at, fwd_in_subnet, fwd_is_ours
from .hostops cimport REF_FORWARD, ref_make
from .icmp cimport icmp_beyond_scope, icmp_error, icmp_problem
from .icmp6 cimport (
    ICMP6_PACKET_TOO_BIG, ICMP_FRAG_NEEDED, ICMP_PROTO_UNREACHABLE, ICMP_REASSEMBLY_TIMEOUT,
    ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE,
)
from .ip cimport neigh_learn
from .ip4 cimport ip4_is_source, ip4_parse
from .ip6 cimport ip6_parse, ip6_walk
from .linux cimport getrandom
from .ndp cimport ndp_ask_for_guests, ndp_input, ndp_is_ours
from .ping cimport ping_close, ping_input, ping_is_for_group, ping_on_host_event, ping_on_timer
from .punt cimport punt_dhcp, punt_is_dhcp4, punt_is_dhcp6
from .siphash cimport SipKey
from .stats cimport (
    CTR_BYTES_FROM_GUEST, CTR_FRAMES_FROM_GUEST, CTR_HOST_STALE_EVENTS, DROP_ETH_NOT_FOR_US,
    DROP_ETH_TRUNCATED, DROP_ETH_TYPE_UNKNOWN, DROP_FRAG_MALFORMED, DROP_ICMP_TYPE_UNKNOWN,
    DROP_IP4_BAD_DESTINATION, DROP_IP4_BAD_SOURCE, DROP_IP4_PROTO_UNKNOWN, DROP_IP4_TTL_EXPIRED,
    DROP_IP6_BAD_DESTINATION, DROP_IP6_BAD_SOURCE, DROP_IP6_DISABLED, DROP_IP6_HOP_LIMIT_EXPIRED,
    DROP_IP6_PROTO_UNKNOWN, DROP_IP6_SCOPE, DROP_NONE, DROP_VNET_MALFORMED, Drop, stats_add,
    stats_count,
)
from .tcp cimport tcp_end
from .tcp_host cimport tcp_accept_again, tcp_on_accept, tcp_on_host_event, tcp_serve
from .tcp_in cimport tcp_input, tcp_packet_too_big
from .tcp_timer cimport tcp_on_timer
from .timers cimport TimerNode, timers_init, timers_pop
from .train cimport train_departed, train_join
from .udp cimport (
    udp_close, udp_forget_forward, udp_input, udp_on_forward_event, udp_on_host_event, udp_on_timer,
)
from .wire cimport (
    ETH_ALEN, ETH_HLEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IP_PROTO_ICMP, IP_PROTO_ICMP6,
    IP_PROTO_TCP, IP_PROTO_UDP, VNET_GSO_NONE, VNET_GSO_ECN, VNET_HLEN, Addr, IpHdr, VnetHdr,
    addr_is_link_local6, addr_is_multicast6, addr_is_zero, load_be16, vnet_parse,
)


# ---- frames ------------------------------------------------------------------------------------

cdef bint for_us(Ctx *c, const uint8_t *eth) noexcept nogil:
    """Our address, broadcast or multicast."""
    return eth[0] & 1 or memcmp(eth, c.conf.gateway_mac, ETH_ALEN) == 0


cdef Drop ip_dispatch(Ctx *c, IpHdr *ip) noexcept nogil:
    """A whole datagram for somebody: to whom its protocol belongs."""
    cdef Drop d
    if ip.ttl <= 1 and not fwd_is_ours(c, &ip.dst):     # to everybody else we are a router
        if ip.ttl == 1:
            icmp_error(c, ip, ICMP_TIME_EXCEEDED, 0)
        return DROP_IP6_HOP_LIMIT_EXPIRED if ip.v6 else DROP_IP4_TTL_EXPIRED
    if ip.proto == IP_PROTO_TCP:
        return tcp_input(c, ip)
    if ip.proto == IP_PROTO_UDP:
        return dns_input(c, ip) if dns_is_for(c, ip) else udp_input(c, ip)
    if ip.proto == (IP_PROTO_ICMP6 if ip.v6 else IP_PROTO_ICMP):
        d = ping_input(c, ip)               # has checked it
        if d == DROP_ICMP_TYPE_UNKNOWN and is_too_big(ip):
            return tcp_packet_too_big(c, ip)
        return d
    icmp_error(c, ip, ICMP_UNREACHABLE, ICMP_PROTO_UNREACHABLE)
    return DROP_IP6_PROTO_UNKNOWN if ip.v6 else DROP_IP4_PROTO_UNKNOWN


cdef bint is_too_big(const IpHdr *ip) noexcept nogil:
    """A router of the guest's could not pass a datagram of ours on."""
    if ip.v6:
        return ip.payload[0] == ICMP6_PACKET_TOO_BIG
    return ip.payload[0] == ICMP_UNREACHABLE and ip.payload[1] == ICMP_FRAG_NEEDED


cdef Drop ip4_input(Ctx *c, const VnetHdr *vnet, const uint8_t *p, uint32_t n,
                    bint to_group) noexcept nogil:
    """A datagram; `to_group`: its frame was for a group, where nothing of ours is to be found (RFC
    1122 3.3.6).
    """
    cdef IpHdr ip
    cdef Drop d = ip4_parse(c, vnet, p, n, &ip)
    if d != DROP_NONE:
        return d
    if punt_is_dhcp4(c, &ip, to_group):             # its sender may have no address yet
        return punt_dhcp(c, &ip)
    if not ip4_is_source(c, &ip.src):
        return DROP_IP4_BAD_SOURCE
    if to_group:
        return DROP_IP4_BAD_DESTINATION
    if fwd_in_subnet(c, &ip.src):
        neigh_learn(c, &ip.src, c.frame_mac)
    if not ip.fragment:
        return ip_dispatch(c, &ip)
    d = frag_input(c, &ip)
    if d == DROP_NONE and not ip.fragment:
        d = ip_dispatch(c, &ip)
        frag_done(c)
    return d


cdef Drop ip6_deliver(Ctx *c, IpHdr *ip, bint to_group) noexcept nogil:
    """A whole datagram: for a group, from the link, or for anybody."""
    if ndp_is_ours(ip):
        return ndp_input(c, ip)
    if addr_is_zero(&ip.src):
        return DROP_IP6_BAD_SOURCE
    if punt_is_dhcp6(ip):
        return punt_dhcp(c, ip)
    if ping_is_for_group(ip):
        return ping_input(c, ip)
    if to_group or addr_is_multicast6(&ip.dst):
        return DROP_IP6_BAD_DESTINATION
    if fwd_in_subnet(c, &ip.src) or addr_is_link_local6(&ip.src):
        neigh_learn(c, &ip.src, c.frame_mac)
    if addr_is_link_local6(&ip.src) and not addr_is_link_local6(&ip.dst) and not fwd_is_ours(
            c, &ip.dst):
        icmp_beyond_scope(c, ip)
        return DROP_IP6_SCOPE
    return ip_dispatch(c, ip)


cdef Drop ip6_input(Ctx *c, const VnetHdr *vnet, const uint8_t *p, uint32_t n,
                    bint to_group) noexcept nogil:
    """A datagram of IPv6; what is wrong with its headers is told where RFC 8200 wants it."""
    cdef IpHdr ip
    cdef Drop d
    if not c.conf.ip6:
        return DROP_IP6_DISABLED
    ip.problem_code = -1
    d = ip6_parse(c, vnet, p, n, &ip)
    if d == DROP_NONE and ip.fragment:
        d = frag_input(c, &ip)
        if d == DROP_NONE and ip.fragment:
            return DROP_NONE                        # the rest has still to come
        if d == DROP_NONE:
            d = ip6_walk(&ip)
            if d == DROP_NONE and ip.fragment:      # a piece within a whole
                d = DROP_FRAG_MALFORMED
    if d == DROP_NONE:
        d = ip6_deliver(c, &ip, to_group)
    elif ip.problem_code >= 0:
        icmp_problem(c, &ip)
    frag_done(c)
    return d


cdef Drop eth_input(Ctx *c, const uint8_t *frame, uint32_t n) noexcept nogil:
    """A frame behind its virtio header."""
    cdef VnetHdr vnet
    cdef const uint8_t *eth = frame + VNET_HLEN
    cdef uint8_t gso
    cdef uint16_t ethertype
    if n < VNET_HLEN + ETH_HLEN:
        return DROP_ETH_TRUNCATED
    vnet_parse(&vnet, frame)
    n -= VNET_HLEN
    gso = vnet.gso_type & ~<uint8_t>VNET_GSO_ECN
    if gso != VNET_GSO_NONE and vnet.gso_size == 0:
        return DROP_VNET_MALFORMED
    vnet.gso_type = gso
    if not for_us(c, eth):
        return DROP_ETH_NOT_FOR_US
    if eth[ETH_ALEN] & 1:                           # no frame comes from a group
        return DROP_ETH_NOT_FOR_US
    c.frame = eth
    c.frame_bytes = n
    memcpy(c.frame_mac, eth + ETH_ALEN, ETH_ALEN)
    ethertype = load_be16(eth + 12)
    if ethertype == ETH_P_IP:
        return ip4_input(c, &vnet, eth + ETH_HLEN, n - ETH_HLEN, eth[0] & 1)
    if ethertype == ETH_P_IPV6:
        return ip6_input(c, &vnet, eth + ETH_HLEN, n - ETH_HLEN, eth[0] & 1)
    if ethertype == ETH_P_ARP:
        return arp_input(c, eth + ETH_HLEN, n - ETH_HLEN)
    return DROP_ETH_TYPE_UNKNOWN


cdef void stack_input(Ctx *c, const uint8_t *frame, uint32_t n) noexcept nogil:
    """A frame from the guest, virtio header first. Every frame ends in one place of `drops`."""
    stats_count(&c.stats, CTR_FRAMES_FROM_GUEST)
    stats_add(&c.stats, CTR_BYTES_FROM_GUEST, n - VNET_HLEN if n > VNET_HLEN else 0)
    if train_join(c, frame, n):
        c.stats.drops[<int>DROP_NONE] += 1
    else:
        c.stats.drops[<int>eth_input(c, frame, n)] += 1


# ---- events, timers, service -------------------------------------------------------------------

cdef void stack_host_event(Ctx *c, uint64_t ref, uint32_t events) noexcept nogil:
    """A socket of the host has news for whom `ref` names."""
    cdef uint32_t number = <uint32_t>ref
    cdef Forward *forward
    cdef Flow *flow
    if ref >> 32 == REF_FORWARD:
        forward = fwd_at(c, number)
        if forward == NULL:
            stats_count(&c.stats, CTR_HOST_STALE_EVENTS)
        elif forward.proto == IP_PROTO_TCP:
            tcp_on_accept(c, number)
        else:
            udp_on_forward_event(c, number)
        return
    flow = flow_by_handle(&c.flows, number)
    if flow == NULL:
        stats_count(&c.stats, CTR_HOST_STALE_EVENTS)
    elif flow.kind == FLOW_TCP:
        tcp_on_host_event(c, flow, events)
    elif flow.kind == FLOW_PING:
        ping_on_host_event(c, flow, events)
    elif flow.kind == FLOW_DNS:
        dns_on_host_event(c, flow, events)
    else:
        udp_on_host_event(c, flow, events)


cdef void reassembly_expired(Ctx *c) noexcept nogil:
    """RFC 792, RFC 4443 3.3: whoever sent the first piece is told that the rest did not come."""
    cdef IpHdr ip
    while frag_pop_expired(c, &ip):
        icmp_error(c, &ip, ICMP_TIME_EXCEEDED, ICMP_REASSEMBLY_TIMEOUT)
        frag_done(c)


cdef void stack_run_timers(Ctx *c) noexcept nogil:
    """Whatever is due at now_us."""
    cdef TimerNode *node = timers_pop(&c.timers, c.now_us)
    cdef Flow *flow
    while node != NULL:
        flow = <Flow *>node
        if node == &c.frag_timer:
            reassembly_expired(c)
        elif node == &c.accept_timer:
            tcp_accept_again(c)
        elif flow.kind == FLOW_TCP:
            tcp_on_timer(c, flow)
        elif flow.kind == FLOW_PING:
            ping_on_timer(c, flow)
        elif flow.kind == FLOW_DNS:
            dns_on_timer(c, flow)
        else:
            udp_on_timer(c, flow)
        node = timers_pop(&c.timers, c.now_us)


cdef bint stack_serve(Ctx *c) noexcept nogil:
    """The batch is over: what was held leaves, and each touched connection is served once. True
    when some want another turn.
    """
    cdef bint more
    train_departed(c)
    more = tcp_serve(c)
    if c.wanted_due:
        ndp_ask_for_guests(c)
    return more


# ---- set-up ------------------------------------------------------------------------------------

cdef bint stack_init(Ctx *c, uint32_t max_flows, uint64_t memory_bytes,
                     usec_t now_us) noexcept nogil:
    """Everything but configuration, host and link. False without memory or randomness."""
    cdef SipKey secrets[2]
    cdef int i
    memset(c, 0, sizeof(Ctx))
    if getrandom(secrets, sizeof(secrets), 0) != sizeof(secrets):
        return False
    c.secret = secrets[0]
    c.now_us = now_us
    c.forwards = <Forward *>calloc(FORWARDS_MAX, sizeof(Forward))
    if c.forwards == NULL:
        return False
    for i in range(FORWARDS_MAX):
        c.forwards[i].fd = -1
    if not flows_init(&c.flows, max_flows, &secrets[1]):
        return False
    pool_init(&c.pool, memory_bytes)
    timers_init(&c.timers, now_us)
    return True


cdef void stack_destroy(Ctx *c) noexcept nogil:
    """End every flow and forward, and give all memory back."""
    cdef uint32_t i
    cdef Flow *flow
    if c.forwards != NULL:
        for i in range(FORWARDS_MAX):
            stack_remove_forward(c, i)
    for i in range(c.flows.n_slabs * SLAB_FLOWS):
        flow = flow_at(&c.flows, i)
        if flow.kind == FLOW_TCP:       # what is with the host's kernel, and all, it may deliver
            tcp_end(c, flow, not (flow.body.tcp.fin_received and flow.body.tcp.rq.length == 0))
        elif flow.kind == FLOW_PING:
            ping_close(c, flow)
        elif flow.kind != FLOW_FREE:
            udp_close(c, flow)
    frag_clear(c)
    flows_destroy(&c.flows)
    pool_destroy(&c.pool)
    free(c.forwards)
    c.forwards = NULL


cdef int stack_add_forward(Ctx *c, uint8_t proto, int fd, const Addr *guest_addr,
                           uint16_t guest_port) noexcept nogil:
    """Let a listening, or bound, socket lead to a port of the guest; the stack owns it then. An
    index, or -errno.
    """
    cdef Forward *forward
    cdef int i, result
    for i in range(FORWARDS_MAX):
        forward = &c.forwards[i]
        if forward.fd >= 0:
            continue
        result = c.host.watch(c.host.impl, fd, ref_make(REF_FORWARD, i))
        if result < 0:
            return result
        forward.fd = fd
        forward.proto = proto
        forward.guest_addr = guest_addr[0]
        forward.guest_port = guest_port
        forward.waiting = False
        forward.cutting = CUTTING_UNSAID
        return i
    return -ENOSPC


cdef bint stack_remove_forward(Ctx *c, uint32_t index) noexcept nogil:
    """Close a forward; TCP connections it has begun live on. False when there is none."""
    cdef Forward *forward = fwd_at(c, index)
    if forward == NULL:
        return False
    if forward.proto == IP_PROTO_UDP:
        udp_forget_forward(c, index)
    c.host.close(c.host.impl, forward.fd)
    forward.fd = -1
    return True
