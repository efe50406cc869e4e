# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""HostOps by system calls: see hostlinux.pxd for the theory."""
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from .hostops cimport (
    EVENT_ENDING, EVENT_ERROR, EVENT_READABLE, EVENT_WRITABLE, OPTION_DONT_FRAGMENT, REF_FORWARD,
    Datagram, HostError,
)
from .linux cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, EINPROGRESS,
    EINVAL, EIO, EMSGSIZE, ENOPROTOOPT, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI,
    EPOLLRDHUP, EPOLL_CTL_ADD, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP,
    IPPROTO_UDP,
    IPV6_HOPLIMIT, IPV6_PKTINFO, IPV6_RECVPKTINFO, IPV6_V6ONLY, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO,
    IPV6_PMTUDISC_DONT, IPV6_RECVERR, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS,
    IP_BIND_ADDRESS_NO_PORT, IP_MTU_DISCOVER, IP_PKTINFO, IP_PMTUDISC_DO, IP_PMTUDISC_DONT,
    IP_RECVERR, IP_RECVTOS, IP_RECVTTL, IP_TOS, IP_TTL, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_NOSIGNAL,
    MSG_TRUNC, SHUT_WR, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_DOMAIN,
    SO_EE_OFFENDER, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_ERROR, SO_LINGER, SO_RCVBUF,
    SO_TYPE,
    TCP_NODELAY, UDP_GRO, UDP_SEGMENT, accept4, bind, close, cmsghdr, connect, epoll_ctl,
    epoll_event, errno, getsockopt, htons, in6_pktinfo, in_pktinfo, iovec, linger, msghdr, ntohs,
    recvmsg, send, sendmsg, setsockopt, shutdown, sock_extended_err, sockaddr, sockaddr_in,
    sockaddr_in6, socket, socklen_t,
)
from .wire cimport (
    ICMP_HLEN, Addr, addr_is4, addr_is_link_local6, addr_is_zero, addr_set4, load_be16, load_be32,
    store_be32,
)

cdef enum:
    CONTROL_BYTES = 256             # room for every control message asked for
    TCP_EVENTS = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET
    DNS_PORT = 53
    UDP_RCVBUF_BYTES = 1 << 20      # the kernel's usual 208 KiB hold three trains; it doubles this,
                                    # and cuts it to net.core.rmem_max


cdef union SockAddr:
    sockaddr any
    sockaddr_in in4
    sockaddr_in6 in6


# ---- addresses ---------------------------------------------------------------------------------

cdef socklen_t sockaddr_out(SockAddr *sa, const Addr *addr, uint16_t port) noexcept nogil:
    memset(sa, 0, sizeof(SockAddr))
    if addr_is4(addr):
        sa.in4.sin_family = AF_INET
        sa.in4.sin_port = htons(port)
        memcpy(&sa.in4.sin_addr, &addr.b[12], 4)
        return sizeof(sockaddr_in)
    sa.in6.sin6_family = AF_INET6
    sa.in6.sin6_port = htons(port)
    memcpy(&sa.in6.sin6_addr, addr.b, 16)
    if addr_is_link_local6(addr):
        sa.in6.sin6_scope_id = load_be32(&addr.b[4])
        memset(&sa.in6.sin6_addr.s6_addr[4], 0, 4)
    return sizeof(sockaddr_in6)


cdef uint16_t sockaddr_in_(const SockAddr *sa, Addr *addr) noexcept nogil:
    """Fill `addr` (zero for a family of no interest); the port."""
    memset(addr, 0, sizeof(Addr))
    if sa.any.sa_family == AF_INET:
        addr_set4(addr, <const uint8_t *>&sa.in4.sin_addr)
        return ntohs(sa.in4.sin_port)
    if sa.any.sa_family == AF_INET6:
        memcpy(addr.b, &sa.in6.sin6_addr, 16)
        if addr_is_link_local6(addr):
            store_be32(&addr.b[4], sa.in6.sin6_scope_id)
        return ntohs(sa.in6.sin6_port)
    return 0


cdef inline void option(int fd, int level, int name, int value) noexcept nogil:
    """An option that older kernels may not have: it is done without, then."""
    setsockopt(fd, level, name, &value, sizeof(value))


cdef void set_class(int fd, int family, int tos) noexcept nogil:
    if family == AF_INET:
        option(fd, IPPROTO_IP, IP_TOS, tos)
    else:
        option(fd, IPPROTO_IPV6, IPV6_TCLASS, tos)


cdef bint is_loopback(const Addr *addr) noexcept nogil:
    if addr_is4(addr):
        return addr.b[12] == 127
    return addr.w[0] == 0 and load_be32(&addr.b[8]) == 0 and load_be32(&addr.b[12]) == 1


cdef void linux_host_bind(LinuxHost *host, const Addr *addr) noexcept nogil:
    """Bind what is opened from now on to that address, of its family."""
    if addr_is4(addr):
        host.outbound4 = addr[0]
    else:
        host.outbound6 = addr[0]


cdef int bind_outbound(const LinuxHost *host, int fd, bint v4, const Addr *peer_addr,
                       uint16_t peer_port) noexcept nogil:
    """Bind a socket for that peer (NULL: for every one) to the outbound address. 0 or -errno."""
    cdef const Addr *outbound = &host.outbound4 if v4 else &host.outbound6
    cdef SockAddr sa
    cdef socklen_t n
    if outbound.w[0] == 0 and outbound.w[1] == 0:
        return 0
    if peer_addr != NULL and peer_port == DNS_PORT and is_loopback(peer_addr):
        return 0
    if peer_addr != NULL:
        option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    n = sockaddr_out(&sa, outbound, 0)
    return -errno if bind(fd, &sa.any, n) < 0 else 0


# ---- the epoll set -----------------------------------------------------------------------------

cdef int add(LinuxHost *host, int fd, uint64_t ref, uint32_t events) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.u64 = ref
    return -errno if epoll_ctl(host.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 else 0


cdef uint32_t linux_events(uint32_t epoll_events) noexcept nogil:
    """EVENT_* of what epoll reports."""
    cdef uint32_t events = 0
    if epoll_events & (EPOLLIN | EPOLLRDHUP):
        events |= EVENT_READABLE
    if epoll_events & EPOLLOUT:
        events |= EVENT_WRITABLE
    if epoll_events & (EPOLLERR | EPOLLHUP):
        events |= EVENT_ERROR
    # recv() stops at the mark of urgent data
    if epoll_events & (EPOLLRDHUP | EPOLLPRI | EPOLLERR | EPOLLHUP):
        events |= EVENT_ENDING
    return events


cdef int linux_watch(void *impl, int fd, uint64_t ref) noexcept nogil:
    """An accepted connection, or a forward's socket; only one for datagrams is told of by level."""
    cdef int kind = 0
    cdef socklen_t n = sizeof(kind)
    if ref >> 32 != REF_FORWARD:
        return add(<LinuxHost *>impl, fd, ref, <uint32_t>TCP_EVENTS)
    if getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &n) < 0 or kind != SOCK_DGRAM:
        return add(<LinuxHost *>impl, fd, ref, <uint32_t>(EPOLLIN | EPOLLET))
    option(fd, IPPROTO_IP, IP_PKTINFO, 1)
    option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)               # each refused by the other family
    receive_options(fd, True)
    receive_options(fd, False)
    udp_options(fd)
    return add(<LinuxHost *>impl, fd, ref, EPOLLIN)


cdef void linux_close(void *impl, int fd) noexcept nogil:
    close(fd)


# ---- TCP ---------------------------------------------------------------------------------------

cdef int linux_tcp_connect(void *impl, uint64_t ref, const Addr *addr, uint16_t port,
                           uint8_t tos) noexcept nogil:
    cdef SockAddr sa
    cdef socklen_t n = sockaddr_out(&sa, addr, port)
    cdef int result
    cdef int fd = socket(sa.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -errno
    # The guest has waited for more already (Nagle)
    option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    if tos:
        set_class(fd, sa.any.sa_family, tos)
    result = bind_outbound(<LinuxHost *>impl, fd, addr_is4(addr), addr, port)
    if result == 0 and connect(fd, &sa.any, n) < 0 and errno != EINPROGRESS:
        result = -errno
    if result < 0:
        close(fd)
        return result
    result = add(<LinuxHost *>impl, fd, ref, <uint32_t>TCP_EVENTS)
    if result < 0:
        close(fd)
        return result
    return fd


cdef int linux_tcp_connect_result(void *impl, int fd) noexcept nogil:
    cdef int error = 0
    cdef socklen_t n = sizeof(error)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0:
        return -errno
    return -error


cdef ssize_t linux_tcp_send(void *impl, int fd, const iovec *iov, int n) noexcept nogil:
    cdef msghdr msg
    cdef ssize_t sent
    if n == 1:
        sent = send(fd, iov.iov_base, iov.iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
        return -errno if sent < 0 else sent
    memset(&msg, 0, sizeof(msg))
    msg.msg_iov = <iovec *>iov
    msg.msg_iovlen = n
    sent = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)
    return -errno if sent < 0 else sent


cdef ssize_t linux_tcp_recv(void *impl, int fd, const iovec *iov, int n) noexcept nogil:
    cdef msghdr msg
    cdef ssize_t got
    memset(&msg, 0, sizeof(msg))
    msg.msg_iov = <iovec *>iov
    msg.msg_iovlen = n
    got = recvmsg(fd, &msg, MSG_DONTWAIT)
    return -errno if got < 0 else got


cdef int linux_tcp_shutdown(void *impl, int fd) noexcept nogil:
    return -errno if shutdown(fd, SHUT_WR) < 0 else 0


cdef int linux_tcp_accept(void *impl, int listen_fd, Addr *peer_addr,
                          uint16_t *peer_port) noexcept nogil:
    cdef SockAddr sa
    cdef socklen_t n = sizeof(sa)
    cdef int fd = accept4(listen_fd, &sa.any, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        return -errno
    peer_port[0] = sockaddr_in_(&sa, peer_addr)
    option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    return fd


cdef void linux_reset(void *impl, int fd) noexcept nogil:
    cdef linger hard
    hard.l_onoff = 1
    hard.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard))
    close(fd)


# ---- datagrams ---------------------------------------------------------------------------------

cdef void receive_options(int fd, bint v4) noexcept nogil:
    """Have errors, the rest of the life (TTL) and the class (TOS) reported."""
    if v4:
        option(fd, IPPROTO_IP, IP_RECVERR, 1)
        option(fd, IPPROTO_IP, IP_RECVTTL, 1)
        option(fd, IPPROTO_IP, IP_RECVTOS, 1)
    else:
        option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1)
        option(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
        option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1)


cdef void udp_options(int fd) noexcept nogil:
    cdef int usual = 0
    cdef socklen_t n = sizeof(usual)
    option(fd, IPPROTO_UDP, UDP_GRO, 1)
    if getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &usual, &n) == 0 and usual < UDP_RCVBUF_BYTES:
        option(fd, SOL_SOCKET, SO_RCVBUF, UDP_RCVBUF_BYTES)


cdef int dgram_open(LinuxHost *host, uint64_t ref, bint v4, int protocol, const Addr *peer_addr,
                    uint16_t peer_port) noexcept nogil:
    cdef SockAddr sa
    cdef socklen_t n
    cdef int result
    cdef int fd = socket(AF_INET if v4 else AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                         protocol)
    if fd < 0:
        return -errno
    receive_options(fd, v4)
    if not v4:
        option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
    result = bind_outbound(host, fd, v4, peer_addr, peer_port)
    if result == 0 and peer_addr != NULL:   # the kernel takes datagrams of this peer only
        n = sockaddr_out(&sa, peer_addr, peer_port)
        if connect(fd, &sa.any, n) < 0:
            result = -errno
    if result == 0:
        result = add(host, fd, ref, EPOLLIN)
    if result < 0:
        close(fd)
        return result
    return fd


cdef int linux_udp_open(void *impl, uint64_t ref, bint v4, const Addr *peer_addr,
                        uint16_t peer_port) noexcept nogil:
    cdef int fd = dgram_open(<LinuxHost *>impl, ref, v4, IPPROTO_UDP, peer_addr, peer_port)
    if fd >= 0:
        udp_options(fd)
    return fd


cdef int linux_ping_open(void *impl, uint64_t ref, bint v4) noexcept nogil:
    return dgram_open(<LinuxHost *>impl, ref, v4, IPPROTO_ICMP if v4 else IPPROTO_ICMPV6, NULL, 0)


cdef void linux_set_option(void *impl, int fd, int which, int value) noexcept nogil:
    cdef int family = 0
    cdef socklen_t n = sizeof(family)
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &n)
    if which == OPTION_DONT_FRAGMENT and family == AF_INET:
        option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO if value else IP_PMTUDISC_DONT)
    elif which == OPTION_DONT_FRAGMENT:
        option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER,
               IPV6_PMTUDISC_DO if value else IPV6_PMTUDISC_DONT)
    else:
        set_class(fd, family, value)


cdef void put_control(msghdr *msg, int level, int kind, const void *data, size_t n) noexcept nogil:
    """Append a control message; msg_controllen is what is used so far."""
    cdef cmsghdr *cmsg = <cmsghdr *>(<uint8_t *>msg.msg_control + msg.msg_controllen)
    memset(cmsg, 0, CMSG_SPACE(n))
    cmsg.cmsg_level = level
    cmsg.cmsg_type = kind
    cmsg.cmsg_len = CMSG_LEN(n)
    memcpy(CMSG_DATA(cmsg), data, n)
    msg.msg_controllen += CMSG_SPACE(n)


cdef void put_addressing(msghdr *msg, const Datagram *datagram) noexcept nogil:
    """The life and class that the guest gave it, and the address that it is to come from."""
    cdef bint v4 = addr_is4(&datagram.peer_addr)
    cdef int value = datagram.ttl
    cdef in_pktinfo info
    cdef in6_pktinfo info6
    if value:
        put_control(msg, IPPROTO_IP if v4 else IPPROTO_IPV6, IP_TTL if v4 else IPV6_HOPLIMIT,
                    &value, sizeof(value))
    value = datagram.tos
    if value:
        put_control(msg, IPPROTO_IP if v4 else IPPROTO_IPV6, IP_TOS if v4 else IPV6_TCLASS,
                    &value, sizeof(value))
    if addr_is_zero(&datagram.local_addr) or addr_is4(&datagram.local_addr) != v4:
        return
    if v4:
        memset(&info, 0, sizeof(info))
        memcpy(&info.ipi_spec_dst, &datagram.local_addr.b[12], 4)
        put_control(msg, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info))
    else:
        memset(&info6, 0, sizeof(info6))
        memcpy(&info6.ipi6_addr, datagram.local_addr.b, 16)
        put_control(msg, IPPROTO_IPV6, IPV6_PKTINFO, &info6, sizeof(info6))


cdef ssize_t send_train_singly(int fd, msghdr *msg, const Datagram *datagram) noexcept nogil:
    """Where the kernel would not cut a train, for its segment size or number, it is sent piece by
    piece.
    """
    cdef uint32_t done = 0
    cdef ssize_t result = 0
    while done < datagram.length:
        msg.msg_iov.iov_base = datagram.data + done
        msg.msg_iov.iov_len = min(<uint32_t>datagram.segment_bytes, datagram.length - done)
        result = sendmsg(fd, msg, MSG_NOSIGNAL | MSG_DONTWAIT)
        if result < 0:
            return -errno
        done += <uint32_t>msg.msg_iov.iov_len
    return done


cdef ssize_t linux_dgram_send(void *impl, int fd, const Datagram *datagram) noexcept nogil:
    cdef uint8_t control[CONTROL_BYTES]
    cdef SockAddr sa
    cdef msghdr msg
    cdef iovec iov
    cdef size_t without_segment
    cdef ssize_t result
    memset(&msg, 0, sizeof(msg))
    iov.iov_base = datagram.data
    iov.iov_len = datagram.length
    msg.msg_iov = &iov
    msg.msg_iovlen = 1
    msg.msg_name = &sa
    msg.msg_namelen = sockaddr_out(&sa, &datagram.peer_addr, datagram.peer_port)
    msg.msg_control = control
    put_addressing(&msg, datagram)
    without_segment = msg.msg_controllen
    if datagram.segment_bytes:
        put_control(&msg, IPPROTO_UDP, UDP_SEGMENT, &datagram.segment_bytes, sizeof(uint16_t))
    if msg.msg_controllen == 0:
        msg.msg_control = NULL
    result = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)
    if result >= 0:
        return result
    if datagram.segment_bytes and errno in (EINVAL, EMSGSIZE, EIO, ENOPROTOOPT):
        msg.msg_controllen = without_segment
        if without_segment == 0:
            msg.msg_control = NULL
        return send_train_singly(fd, &msg, datagram)
    return -errno


cdef void take_control(msghdr *msg, Datagram *datagram) noexcept nogil:
    cdef cmsghdr *cmsg = CMSG_FIRSTHDR(msg)
    cdef int value
    while cmsg != NULL:
        if cmsg.cmsg_level == IPPROTO_UDP and cmsg.cmsg_type == UDP_GRO:
            memcpy(&value, CMSG_DATA(cmsg), sizeof(value))
            datagram.segment_bytes = <uint16_t>value
        elif cmsg.cmsg_level == IPPROTO_IP and cmsg.cmsg_type == IP_PKTINFO:
            addr_set4(&datagram.local_addr,
                      <uint8_t *>&(<in_pktinfo *>CMSG_DATA(cmsg)).ipi_spec_dst)
        elif cmsg.cmsg_level == IPPROTO_IPV6 and cmsg.cmsg_type == IPV6_PKTINFO:
            memcpy(datagram.local_addr.b, &(<in6_pktinfo *>CMSG_DATA(cmsg)).ipi6_addr, 16)
        elif (cmsg.cmsg_level == IPPROTO_IP and cmsg.cmsg_type == IP_TTL
              or cmsg.cmsg_level == IPPROTO_IPV6 and cmsg.cmsg_type == IPV6_HOPLIMIT):
            memcpy(&value, CMSG_DATA(cmsg), sizeof(value))
            datagram.ttl = <uint8_t>value
        elif cmsg.cmsg_level == IPPROTO_IP and cmsg.cmsg_type == IP_TOS:
            datagram.tos = CMSG_DATA(cmsg)[0]
        elif cmsg.cmsg_level == IPPROTO_IPV6 and cmsg.cmsg_type == IPV6_TCLASS:
            memcpy(&value, CMSG_DATA(cmsg), sizeof(value))
            datagram.tos = <uint8_t>value
        cmsg = CMSG_NXTHDR(msg, cmsg)


cdef ssize_t linux_dgram_recv(void *impl, int fd, Datagram *datagram) noexcept nogil:
    cdef uint8_t control[CONTROL_BYTES]
    cdef SockAddr sa
    cdef msghdr msg
    cdef iovec iov
    cdef ssize_t got
    memset(&msg, 0, sizeof(msg))
    memset(&sa, 0, sizeof(sa))
    iov.iov_base = datagram.data
    iov.iov_len = datagram.capacity
    msg.msg_iov = &iov
    msg.msg_iovlen = 1
    msg.msg_name = &sa
    msg.msg_namelen = sizeof(sa)
    msg.msg_control = control
    msg.msg_controllen = sizeof(control)
    got = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_TRUNC)
    if got < 0:
        return -errno
    datagram.length = <uint32_t>got
    datagram.peer_port = sockaddr_in_(&sa, &datagram.peer_addr)
    take_control(&msg, datagram)
    return got


cdef int linux_next_error(void *impl, int fd, HostError *error) noexcept nogil:
    """Take one entry of the socket's error queue (ip(7), IP_RECVERR)."""
    cdef uint8_t control[CONTROL_BYTES]
    cdef uint8_t start[64]
    cdef SockAddr sa
    cdef msghdr msg
    cdef iovec iov
    cdef cmsghdr *cmsg
    cdef sock_extended_err *ee
    cdef ssize_t got
    memset(error, 0, sizeof(HostError))
    memset(&msg, 0, sizeof(msg))
    memset(&sa, 0, sizeof(sa))
    iov.iov_base = start
    iov.iov_len = sizeof(start)
    msg.msg_iov = &iov
    msg.msg_iovlen = 1
    msg.msg_name = &sa
    msg.msg_namelen = sizeof(sa)
    msg.msg_control = control
    msg.msg_controllen = sizeof(control)
    got = recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT)
    if got < 0:
        return 0
    if got >= ICMP_HLEN:            # a ping socket's payload is the request, as the router has it
        error.has_echo_seq = True
        error.echo_seq = load_be16(start + 6)
    error.peer_port = sockaddr_in_(&sa, &error.peer_addr)
    cmsg = CMSG_FIRSTHDR(&msg)
    while cmsg != NULL:
        if (cmsg.cmsg_level == IPPROTO_IP and cmsg.cmsg_type == IP_RECVERR
                or cmsg.cmsg_level == IPPROTO_IPV6 and cmsg.cmsg_type == IPV6_RECVERR):
            ee = <sock_extended_err *>CMSG_DATA(cmsg)
            error.error = <int>ee.ee_errno
            error.from_icmp = ee.ee_origin == SO_EE_ORIGIN_ICMP
            error.from_icmp6 = ee.ee_origin == SO_EE_ORIGIN_ICMP6
            error.icmp_type = ee.ee_type
            error.icmp_code = ee.ee_code
            error.mtu = ee.ee_info if ee.ee_errno == EMSGSIZE else 0
            if error.from_icmp or error.from_icmp6:
                sockaddr_in_(<const SockAddr *>SO_EE_OFFENDER(ee), &error.offender_addr)
        cmsg = CMSG_NXTHDR(&msg, cmsg)
    return 1


cdef void linux_host_init(LinuxHost *host, HostOps *ops, int epoll_fd) noexcept nogil:
    """Fill `ops`; the sockets report to that epoll set."""
    host.epoll_fd = epoll_fd
    ops.impl = host
    ops.tcp_connect = linux_tcp_connect
    ops.tcp_connect_result = linux_tcp_connect_result
    ops.tcp_send = linux_tcp_send
    ops.tcp_recv = linux_tcp_recv
    ops.tcp_shutdown = linux_tcp_shutdown
    ops.tcp_accept = linux_tcp_accept
    ops.watch = linux_watch
    ops.close = linux_close
    ops.reset = linux_reset
    ops.udp_open = linux_udp_open
    ops.ping_open = linux_ping_open
    ops.dgram_send = linux_dgram_send
    ops.dgram_recv = linux_dgram_recv
    ops.next_error = linux_next_error
    ops.set_option = linux_set_option
