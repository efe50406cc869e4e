# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The whole stack: see stack.pxd for the theory. `Stack` is its face for tests: frames and a clock
in, frames out, no I/O.
"""
cimport cython
from libc.errno cimport ENOSPC
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strerror

from .arp cimport arp_input
from .blocks cimport pool_destroy, pool_init
from .conn cimport CUTTING_UNSAID, FLOW_DNS, FLOW_FREE, FLOW_PING, FLOW_TCP, Flow
from .ctx cimport DNS_MAX, FORWARDS_MAX, Forward
from .dns cimport dns_input, dns_is_for, dns_on_host_event, dns_on_timer
from .flow cimport SLAB_FLOWS, flow_at, flow_by_handle, flows_destroy, flows_init
from .frag cimport frag_clear, frag_count, frag_done, frag_input, frag_pop_expired
from .fwd cimport fwd_at, fwd_in_subnet, fwd_is_ours
from .hostops cimport REF_FORWARD, Host, ref_make
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
from .punt cimport punt_dhcp, punt_is_dhcp4, punt_is_dhcp6, punt_reply, punt_take
from .siphash cimport SipKey
from .stats cimport (
    CTR_BYTES_FROM_GUEST, CTR_FRAMES_FROM_GUEST, CTR_HOST_STALE_EVENTS, DROP_ETH_NOT_FOR_US,
    DROP_ETH_TRUNCATED, DROP_ETH_TYPE_UNKNOWN, DROP_FRAG_MALFORMED, DROP_ICMP_TYPE_UNKNOWN,
    DROP_IP4_BAD_DESTINATION, DROP_IP4_BAD_SOURCE, DROP_IP4_PROTO_UNKNOWN, DROP_IP4_TTL_EXPIRED,
    DROP_IP6_BAD_DESTINATION, DROP_IP6_BAD_SOURCE, DROP_IP6_DISABLED, DROP_IP6_HOP_LIMIT_EXPIRED,
    DROP_IP6_PROTO_UNKNOWN, DROP_IP6_SCOPE, DROP_NONE, DROP_VNET_MALFORMED, Drop, stats_add,
    stats_as_dict, stats_count,
)
from .tcp cimport tcp_end
from .tcp_host cimport tcp_accept_again, tcp_on_accept, tcp_on_host_event, tcp_serve
from .tcp_in cimport tcp_input, tcp_packet_too_big
from .tcp_timer cimport tcp_on_timer
from .timers cimport TimerNode, timers_init, timers_next, timers_pop
from .train cimport train_departed, train_join
from .udp cimport (
    udp_close, udp_forget_forward, udp_input, udp_on_forward_event, udp_on_host_event, udp_on_timer,
)
from .wire cimport (
    ETH_ALEN, ETH_HLEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IP6_MTU_MIN, IP_PROTO_ICMP, IP_PROTO_ICMP6,
    IP_PROTO_TCP, IP_PROTO_UDP, VNET_GSO_NONE, VNET_GSO_ECN, VNET_HLEN, Addr, IpHdr, VnetHdr,
    addr_is4, addr_is_link_local6, addr_is_multicast6, addr_is_zero, addr_set4, load_be16,
    load_be32, vnet_parse,
)

# By the values of FlowKind (conn.pxd), TcpState and HostState (tcp.pxd).
FLOW_KINDS = ("free", "tcp", "udp", "udp-peer", "udp-forward", "ping", "dns")
TCP_STATES = ("CLOSED", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2",
              "CLOSE-WAIT", "CLOSING",
              "LAST-ACK", "TIME-WAIT")
HOST_STATES = ("CONNECTING", "OPEN", "CLOSED")
# fe80::2, as slirp4netns's: from where the gateway advertises itself (RFC 4861 4.2).
GATEWAY_LINK_LOCAL = bytes.fromhex("fe800000000000000000000000000002")


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


cdef void take_addr4(Addr *addr, bytes wire) except *:
    if len(wire) != 4:
        raise ValueError("an IPv4 address has 4 bytes")
    addr_set4(addr, <const uint8_t *><const char *>wire)


cdef void stack_configure(Ctx *c, dict settings) except *:
    """Fill `Ctx.conf`; the names are those of Engine's arguments. Raises KeyError or ValueError."""
    cdef bytes gateway_mac = settings["gateway_mac"]
    cdef bytes guest_mac = settings["guest_mac"]
    cdef bytes network = settings["network4"]
    cdef int prefix = settings["prefix_len4"]
    if (len(gateway_mac) != ETH_ALEN or len(guest_mac) != ETH_ALEN or not 1 <= prefix <= 32
            or len(network) != 4):
        raise ValueError("hardware addresses have 6 bytes, networks 4, prefixes 1 to 32 bits")
    if not 576 <= settings["mtu"] <= 65535:
        raise ValueError("the MTU lies between 576 and 65535")
    memcpy(c.conf.gateway_mac, <const char *>gateway_mac, ETH_ALEN)
    memcpy(c.conf.guest_mac, <const char *>guest_mac, ETH_ALEN)
    take_addr4(&c.conf.gateway4, settings["gateway4"])
    take_addr4(&c.conf.dns4, settings["dns4"])
    take_addr4(&c.conf.guest4, settings["guest4"])
    c.conf.mask4 = <uint32_t>(0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF)
    c.conf.network4 = load_be32(<const uint8_t *><const char *>network) & c.conf.mask4
    if settings.get("network6") is not None:
        configure6(c, settings)
    c.conf.mtu = settings["mtu"]
    c.conf.offload = settings["offload"]
    c.conf.host_loopback = settings["host_loopback"]
    c.conf.dns_enabled = settings["dns_enabled"]
    c.conf.tcp_buffer_bytes = settings["tcp_buffer_bytes"]
    c.conf.max_half_open = c.conf.max_udp_flows = max(1, settings["max_flows"] // 4)
    c.conf.max_ping_flows = min(1024, c.conf.max_udp_flows)
    replied_s, unreplied_s, dns_s = settings.get("udp_timeouts_s", (180, 30, 10))
    c.conf.udp_replied_us = replied_s * 1000000
    c.conf.udp_unreplied_us = unreplied_s * 1000000
    c.conf.udp_dns_us = dns_s * 1000000


cdef void take_addr6(Addr *addr, bytes wire) except *:
    """An IPv6 address; none in IPv4's mapped form, which means IPv4 here."""
    if len(wire) != 16:
        raise ValueError("an IPv6 address has 16 bytes")
    memcpy(addr.b, <const char *>wire, 16)
    if addr_is4(addr):
        raise ValueError("an IPv6 address, not one of IPv4")


cdef void configure6(Ctx *c, dict settings) except *:
    """The IPv6 half, where `network6` is given."""
    cdef int prefix = settings["prefix_len6"]
    cdef int i
    if not 1 <= prefix <= 126:
        raise ValueError("an IPv6 prefix has 1 to 126 bits")
    take_addr6(&c.conf.network6, settings["network6"])
    take_addr6(&c.conf.gateway6, settings["gateway6"])
    take_addr6(&c.conf.dns6, settings["dns6"])
    take_addr6(&c.conf.guest6, settings["guest6"])
    take_addr6(&c.conf.link_local6, GATEWAY_LINK_LOCAL)
    if settings["mtu"] < IP6_MTU_MIN:
        raise ValueError("IPv6 needs an MTU of 1280 bytes")
    for i in range(16):
        c.conf.mask6.b[i] = <uint8_t>(0xFF00 >> min(max(prefix - 8 * i, 0), 8))
    for i in range(2):
        c.conf.network6.w[i] &= c.conf.mask6.w[i]
    c.conf.ip6 = True


cdef void stack_take_addr(Addr *addr, bytes wire) except *:
    """An address of either family; IPv4's mapped form is IPv4."""
    if len(wire) == 4:
        addr_set4(addr, <const uint8_t *><const char *>wire)
    elif len(wire) == 16:
        memcpy(addr.b, <const char *>wire, 16)
    else:
        raise ValueError("an address has 4 or 16 bytes")


cdef void stack_set_dns(Ctx *c, list servers) except *:
    """The host's name servers, 4 or 16 bytes each, in order."""
    cdef bytes server
    cdef int n = 0
    for server in servers[:DNS_MAX]:
        stack_take_addr(&c.dns_servers[n].addr, server)
        c.dns_servers[n].dead_until_us = 0
        n += 1
    c.dns_generation += 1
    c.n_dns = n


# ---- Python's view -----------------------------------------------------------------------------

cdef bytes addr_bytes(const Addr *addr):
    """4 bytes, or 16."""
    if addr_is4(addr):
        return (<const char *>&addr.b[12])[:4]
    return (<const char *>addr.b)[:16]


cdef list stack_flows(Ctx *c):
    """A copy of what each flow is doing."""
    cdef list out = []
    cdef uint32_t i
    cdef Flow *flow
    for i in range(c.flows.n_slabs * SLAB_FLOWS):
        flow = flow_at(&c.flows, i)
        if flow.kind == FLOW_FREE:
            continue
        entry = {
            "kind": FLOW_KINDS[flow.kind],
            "guest_addr": addr_bytes(&flow.key.guest_addr), "guest_port": flow.key.guest_port,
            "dest_addr": addr_bytes(&flow.key.dest_addr), "dest_port": flow.key.dest_port,
            "fd": flow.fd, "idle_us": c.now_us - flow.last_us,
        }
        if flow.kind == FLOW_TCP:
            entry["state"] = TCP_STATES[flow.body.tcp.state]
            entry["host_state"] = HOST_STATES[flow.body.tcp.host_state]
            entry["to_guest_bytes"] = flow.body.tcp.sq.length
            entry["to_host_bytes"] = flow.body.tcp.rq.length
            entry["srtt_us"] = flow.body.tcp.srtt_us
        out.append(entry)
    return out


@cython.final
@cython.no_gc_clear         # the host has to outlive the sockets that __dealloc__ closes
cdef class Stack:
    """The stack over a Host, without I/O of its own (tests, simulations).

    Settings are Engine's keyword arguments; times are microseconds of any clock that does not go
    back.
    """
    cdef Ctx *c
    cdef Host host

    def __cinit__(self, Host host not None, usec_t now_us=0, **settings):
        self.c = <Ctx *>calloc(1, sizeof(Ctx))
        if self.c == NULL or not stack_init(self.c, settings["max_flows"], settings["memory_bytes"],
                                            now_us):
            raise MemoryError
        self.host = host
        self.c.host = host.ops
        self.c.link = host.link
        stack_configure(self.c, settings)

    def __dealloc__(self):
        if self.c != NULL:
            stack_destroy(self.c)
            free(self.c)

    def input(self, bytes frame not None, usec_t now_us):
        """A frame of the guest's, behind its 12 bytes of virtio-net header; then all that follows
        from it.
        """
        cdef uint8_t *exact = <uint8_t *>malloc(max(len(frame), 1))     # so that a sanitizer sees
                                                                        # each byte too far
        if exact == NULL:
            raise MemoryError
        memcpy(exact, <const char *>frame, len(frame))
        self.c.now_us = now_us
        stack_input(self.c, exact, <uint32_t>len(frame))
        free(exact)
        self._settle()

    def host_event(self, uint64_t ref, uint32_t events, usec_t now_us):
        """A socket of the host has news; `ref` as it was handed to the Host."""
        self.c.now_us = now_us
        stack_host_event(self.c, ref, events)
        self._settle()

    def run_timers(self, usec_t now_us):
        self.c.now_us = now_us
        stack_run_timers(self.c)
        self._settle()

    cdef void _settle(self) noexcept:
        while stack_serve(self.c):
            pass

    def next_deadline(self):
        """When run_timers has to be called, in microseconds; None: no timer is set."""
        cdef usec_t at = timers_next(&self.c.timers)
        return None if at == ~<usec_t>0 else at

    def set_dns(self, list servers not None):
        stack_set_dns(self.c, servers)

    def add_forward(self, str proto, int fd, bytes guest_addr, uint16_t guest_port):
        """As Engine.add_forward. Raises OSError."""
        return stack_forward(self.c, proto, fd, guest_addr, guest_port)

    def remove_forward(self, int forward_id):
        return stack_remove_forward(self.c, <uint32_t>forward_id - 1)

    def punted(self):
        return punt_take(self.c)

    def send_frame(self, bytes frame not None):
        punt_reply(self.c, frame)

    def stats(self):
        """Counters by name, and what is in use now."""
        return stack_stats(self.c)

    def flows(self):
        return stack_flows(self.c)


cdef int stack_forward(Ctx *c, str proto, int fd, bytes guest_addr, uint16_t guest_port) except 0:
    """The id of a new forward. Raises ValueError for arguments, OSError when the host or the table
    refuses.
    """
    cdef int index
    cdef Addr guest
    if proto not in ("tcp", "udp") or guest_port == 0:
        raise ValueError("proto is tcp or udp, and the guest's port is not 0")
    stack_take_addr(&guest, guest_addr)
    index = stack_add_forward(c, IP_PROTO_TCP if proto == "tcp" else IP_PROTO_UDP, fd, &guest,
                              guest_port)
    if index < 0:
        raise OSError(-index, strerror(-index).decode())
    return index + 1


cdef dict stack_stats(Ctx *c):
    """Counters by name, and gauges: flows, timers, blocks of memory in use, bytes of a flow,
    datagrams in pieces.
    """
    cdef dict out = stats_as_dict(&c.stats)
    out["flows"] = c.flows.n_flows
    out["timers"] = c.timers.armed
    out["buffer_blocks"] = c.pool.used_blocks
    out["flow_bytes"] = sizeof(Flow)
    out["reassemblies"] = frag_count(c)
    return out
