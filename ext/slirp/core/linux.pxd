# cython: language_level=3
"""The system calls and structures of Linux that the data plane uses, as the C headers declare them.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<errno.h>" nogil:
    int errno
    enum:
        EAGAIN, EBADF, EBADFD, EINPROGRESS, EINTR, EINVAL, EIO, ENOBUFS, ENOMEM, EMFILE, ENFILE
        ECONNREFUSED, ECONNRESET, ECONNABORTED, EHOSTUNREACH, ENETUNREACH, ENETDOWN, EHOSTDOWN,
        ETIMEDOUT, EACCES, EPERM, EMSGSIZE, EPIPE, ENOTCONN, EADDRNOTAVAIL, EADDRINUSE, ENOPROTOOPT,
        EAFNOSUPPORT, ENOSPC

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec *iov, int iovcnt)
    ssize_t writev(int fd, const iovec *iov, int iovcnt)

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *buf, size_t count)
    int close(int fd)

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int clock_gettime(int clock_id, timespec *tp)
    enum:
        CLOCK_MONOTONIC

cdef extern from "<sys/timerfd.h>" nogil:
    int timerfd_create(int clock_id, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new_value, itimerspec *old_value)
    enum:
        TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    enum:
        EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL
        EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t buflen, unsigned int flags)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t
    struct sockaddr:
        sa_family_t sa_family
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct linger:
        int l_onoff
        int l_linger
    cmsghdr *CMSG_FIRSTHDR(msghdr *mhdr)
    cmsghdr *CMSG_NXTHDR(msghdr *mhdr, cmsghdr *cmsg)
    uint8_t *CMSG_DATA(cmsghdr *cmsg)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    int socket(int domain, int type, int protocol)
    int bind(int fd, const sockaddr *addr, socklen_t addrlen)
    int connect(int fd, const sockaddr *addr, socklen_t addrlen)
    int accept4(int fd, sockaddr *addr, socklen_t *addrlen, int flags)
    int shutdown(int fd, int how)
    int getsockname(int fd, sockaddr *addr, socklen_t *addrlen)
    int getsockopt(int fd, int level, int optname, void *optval, socklen_t *optlen)
    int setsockopt(int fd, int level, int optname, const void *optval, socklen_t optlen)
    ssize_t send(int fd, const void *buf, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr *msg, int flags)
    ssize_t recvmsg(int fd, msghdr *msg, int flags)
    enum:
        AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_CLOEXEC
        SOL_SOCKET, SO_DOMAIN, SO_ERROR, SO_LINGER, SO_RCVBUF, SO_TYPE, SHUT_WR, SHUT_RDWR
        MSG_NOSIGNAL, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_TRUNC

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    enum:
        IPPROTO_IP, IPPROTO_IPV6, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6
        IP_RECVERR, IP_PKTINFO, IP_RECVTTL, IP_TTL, IPV6_RECVERR, IPV6_RECVPKTINFO, IPV6_PKTINFO
        IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_DONT, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO
        IPV6_PMTUDISC_DONT, IP_TOS, IP_RECVTOS, IP_BIND_ADDRESS_NO_PORT
        IPV6_TCLASS, IPV6_RECVTCLASS, IPV6_HOPLIMIT, IPV6_RECVHOPLIMIT, IPV6_V6ONLY
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "<sched.h>" nogil:
    int sched_yield()
    enum:
        SCHED_OTHER

cdef extern from "<sys/syscall.h>" nogil:
    long syscall(long number, ...)
    enum:
        SYS_sched_getattr, SYS_sched_setattr

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<netinet/udp.h>" nogil:
    enum:
        UDP_SEGMENT, UDP_GRO

cdef extern from "<linux/errqueue.h>" nogil:
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code
        uint32_t ee_info
    sockaddr *SO_EE_OFFENDER(sock_extended_err *ee)
    enum:
        SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
