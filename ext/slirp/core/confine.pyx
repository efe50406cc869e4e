# cython: language_level=3
"""System calls that take rights away, none of which Python's os module has: slirp.sandbox says when
and why. Each is the call of the manual with Python's conventions: OSError instead of -1.
"""
import os

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset


cdef extern from *:
    """
    #include <stddef.h>
    #include <sys/syscall.h>
    #include <linux/audit.h>
    #if defined(__x86_64__)
    #define CALLS_ARCH AUDIT_ARCH_X86_64
    #elif defined(__aarch64__)
    #define CALLS_ARCH AUDIT_ARCH_AARCH64
    #else
    #define CALLS_ARCH 0 /* no filter has been thought through for it */
    #endif
    /* Not everywhere: x86-64's older calls, and what the headers may be too old for. */
    #ifndef SYS_access
    #define SYS_access -1
    #endif
    #ifndef SYS_clone3
    #define SYS_clone3 -1
    #endif
    #ifndef SYS_epoll_pwait2
    #define SYS_epoll_pwait2 -1
    #endif
    #ifndef SYS_epoll_wait
    #define SYS_epoll_wait -1
    #endif
    #ifndef SYS_faccessat2
    #define SYS_faccessat2 -1
    #endif
    #ifndef SYS_fork
    #define SYS_fork -1
    #endif
    #ifndef SYS_io_uring_enter
    #define SYS_io_uring_enter -1
    #endif
    #ifndef SYS_io_uring_register
    #define SYS_io_uring_register -1
    #endif
    #ifndef SYS_io_uring_setup
    #define SYS_io_uring_setup -1
    #endif
    #ifndef SYS_lstat
    #define SYS_lstat -1
    #endif
    #ifndef SYS_open
    #define SYS_open -1
    #endif
    #ifndef SYS_openat2
    #define SYS_openat2 -1
    #endif
    #ifndef SYS_pidfd_open
    #define SYS_pidfd_open -1
    #endif
    #ifndef SYS_pidfd_send_signal
    #define SYS_pidfd_send_signal -1
    #endif
    #ifndef SYS_poll
    #define SYS_poll -1
    #endif
    #ifndef SYS_readlink
    #define SYS_readlink -1
    #endif
    #ifndef SYS_rseq
    #define SYS_rseq -1
    #endif
    #ifndef SYS_select
    #define SYS_select -1
    #endif
    #ifndef SYS_stat
    #define SYS_stat -1
    #endif
    #ifndef SYS_unlink
    #define SYS_unlink -1
    #endif
    #ifndef SYS_vfork
    #define SYS_vfork -1
    #endif
    #define CALL(name) {#name, SYS_##name},
    static const struct call_number { const char *name; int number; } call_table[] = {
        CALL(accept) CALL(accept4) CALL(access) CALL(bind) CALL(brk) CALL(chdir)
        CALL(clock_getres) CALL(clock_gettime) CALL(clock_nanosleep) CALL(clone) CALL(clone3)
        CALL(close) CALL(connect) CALL(dup) CALL(epoll_create1) CALL(epoll_ctl)
        CALL(epoll_pwait) CALL(epoll_pwait2) CALL(epoll_wait) CALL(eventfd2) CALL(execve)
        CALL(execveat) CALL(exit) CALL(exit_group) CALL(faccessat) CALL(faccessat2) CALL(fcntl)
        CALL(fork) CALL(fstat) CALL(futex) CALL(getcwd) CALL(getdents64) CALL(getegid)
        CALL(geteuid) CALL(getgid) CALL(getpeername) CALL(getpid) CALL(getrandom)
        CALL(getrusage) CALL(getsockname) CALL(getsockopt) CALL(gettid) CALL(gettimeofday)
        CALL(getuid) CALL(inotify_add_watch) CALL(inotify_init1) CALL(io_uring_enter)
        CALL(io_uring_register) CALL(io_uring_setup)
        CALL(ioctl) CALL(kill) CALL(listen) CALL(lseek) CALL(lstat) CALL(madvise)
        CALL(membarrier) CALL(mmap) CALL(mount) CALL(mprotect) CALL(mremap) CALL(munmap)
        CALL(nanosleep) CALL(newfstatat) CALL(open) CALL(openat) CALL(openat2) CALL(pidfd_open)
        CALL(pidfd_send_signal) CALL(pipe2) CALL(poll) CALL(ppoll) CALL(prctl) CALL(pread64)
        CALL(prlimit64) CALL(process_vm_readv) CALL(ptrace) CALL(read) CALL(readlink)
        CALL(readlinkat) CALL(readv) CALL(recvfrom) CALL(recvmmsg) CALL(recvmsg)
        CALL(restart_syscall) CALL(rseq) CALL(rt_sigaction) CALL(rt_sigprocmask)
        CALL(rt_sigreturn) CALL(rt_tgsigqueueinfo) CALL(sched_getaffinity) CALL(sched_getattr)
        CALL(sched_setattr) CALL(sched_yield)
        CALL(seccomp) CALL(select) CALL(sendmmsg) CALL(sendmsg) CALL(sendto)
        CALL(set_robust_list) CALL(setns) CALL(setsockopt) CALL(shutdown) CALL(sigaltstack)
        CALL(socket) CALL(socketpair) CALL(stat) CALL(statx) CALL(sysinfo) CALL(tgkill)
        CALL(timerfd_create) CALL(timerfd_settime) CALL(tkill) CALL(umount2) CALL(uname)
        CALL(unlink) CALL(unlinkat) CALL(unshare) CALL(vfork) CALL(wait4) CALL(write)
        CALL(writev)
        {NULL, 0},
    };
    """
    struct call_number:
        const char *name
        int number
    const call_number *call_table
    uint32_t CALLS_ARCH

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    ssize_t write(int fd, const void *buffer, size_t n)
    void _exit(int status)

cdef extern from "<sys/syscall.h>" nogil:
    int SYS_capget, SYS_capset, SYS_personality, SYS_pivot_root, SYS_seccomp

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_NO_NEW_PRIVS
    int PR_CAPBSET_DROP
    int PR_CAP_AMBIENT
    int PR_CAP_AMBIENT_CLEAR_ALL
    int prctl(int option, ...)

cdef extern from "<signal.h>" nogil:
    ctypedef struct siginfo_t:
        int si_code
        int si_syscall
    struct c_sigaction "sigaction":
        void (*sa_sigaction)(int, siginfo_t *, void *) noexcept nogil
        int sa_flags
    int SIGSYS
    int SA_SIGINFO
    unsigned int SA_RESETHAND
    int sigaction(int signum, const c_sigaction *action, c_sigaction *old)

cdef extern from "<fcntl.h>" nogil:
    int AT_FDCWD

cdef extern from "<linux/capability.h>" nogil:
    uint32_t _LINUX_CAPABILITY_VERSION_3
    struct __user_cap_header_struct:
        uint32_t version
        int pid
    struct __user_cap_data_struct:
        uint32_t effective
        uint32_t permitted
        uint32_t inheritable

cdef extern from "<linux/seccomp.h>" nogil:
    unsigned int SECCOMP_SET_MODE_FILTER
    unsigned int SECCOMP_FILTER_FLAG_TSYNC

# Calls that are newer than the headers may be; their numbers are the same on all machines.
cdef enum:
    NR_MOUNT_SETATTR = 442
    NR_LANDLOCK_CREATE_RULESET = 444
    NR_LANDLOCK_ADD_RULE = 445
    NR_LANDLOCK_RESTRICT_SELF = 446
    AT_RECURSIVE = 0x8000
    MOUNT_ATTR_RDONLY = 0x1
    MOUNT_ATTR_NOSUID = 0x2
    MOUNT_ATTR_NODEV = 0x4
    LANDLOCK_CREATE_RULESET_VERSION = 1
    LANDLOCK_RULE_PATH_BENEATH = 1
    LANDLOCK_RULE_NET_PORT = 2
    SYS_SECCOMP = 1                 # siginfo's si_code of a trapped call

cdef struct mount_attr:
    uint64_t attr_set
    uint64_t attr_clr
    uint64_t propagation
    uint64_t userns_fd

cdef struct landlock_ruleset_attr:
    uint64_t handled_access_fs
    uint64_t handled_access_net
    uint64_t scoped

cdef packed struct landlock_path_beneath_attr:
    uint64_t allowed_access
    int parent_fd

cdef struct landlock_net_port_attr:
    uint64_t allowed_access
    uint64_t port

cdef struct sock_fprog:
    unsigned short length
    const void *instructions


AUDIT_ARCH = CALLS_ARCH


def set_no_new_privs():
    """From here on no execve() may grant rights; what the following three need, too."""
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
        _raise()


def pivot_root(str new_root, str put_old):
    """pivot_root(2)."""
    cdef bytes raw_root = os.fsencode(new_root)
    cdef bytes raw_old = os.fsencode(put_old)
    if syscall(SYS_pivot_root, <const char *>raw_root, <const char *>raw_old) < 0:
        _raise(new_root)


def make_read_only(str path):
    """The mount at `path` and all below it: no writing, devices or set-uid programs; Linux 5.12."""
    cdef bytes raw_path = os.fsencode(path)
    cdef mount_attr attr = mount_attr(
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    if syscall(NR_MOUNT_SETATTR, AT_FDCWD, <const char *>raw_path, AT_RECURSIVE, &attr,
               sizeof(attr)) < 0:
        _raise(path)


def capabilities():
    """The effective set of this thread, a bit for each CAP_*."""
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct data[2]
    header.version = _LINUX_CAPABILITY_VERSION_3
    header.pid = 0
    if syscall(SYS_capget, &header, data) < 0:
        _raise()
    return <uint64_t>data[1].effective << 32 | data[0].effective


def keep_capabilities(uint64_t kept):
    """Give up all capabilities but `kept`, in every set, the bounding one as far as we may."""
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct data[2]
    cdef int capability, i
    prctl(PR_CAP_AMBIENT, <unsigned long>PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        if not kept >> capability & 1:
            prctl(PR_CAPBSET_DROP, <unsigned long>capability, 0, 0, 0)
    header.version = _LINUX_CAPABILITY_VERSION_3
    header.pid = 0
    for i in range(2):
        data[i].effective = data[i].permitted = <uint32_t>(kept >> 32 * i)
        data[i].inheritable = 0
    if syscall(SYS_capset, &header, data) < 0:
        _raise()


def landlock_abi():
    """The version of Landlock's interface. OSError where there is none."""
    cdef long abi = syscall(NR_LANDLOCK_CREATE_RULESET, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if abi < 0:
        _raise()
    return abi


def landlock_restrict(uint64_t files, uint64_t net, uint64_t scoped, list paths, list ports):
    """Deny this thread the rights of the bit sets, but for (path_fd, rights) in `paths`, for what
    is beneath, and (port, rights) in `ports`.
    """
    cdef landlock_ruleset_attr attr = landlock_ruleset_attr(files, net, scoped)
    cdef landlock_path_beneath_attr beneath
    cdef landlock_net_port_attr at
    cdef int ruleset = <int>syscall(NR_LANDLOCK_CREATE_RULESET, &attr, sizeof(attr), 0)
    if ruleset < 0:
        _raise()
    try:
        for path_fd, rights in paths:
            beneath.allowed_access, beneath.parent_fd = rights, path_fd
            if syscall(NR_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0:
                _raise()
        for port, rights in ports:
            at.allowed_access, at.port = rights, port
            if syscall(NR_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_NET_PORT, &at, 0) < 0:
                _raise()
        if syscall(NR_LANDLOCK_RESTRICT_SELF, ruleset, 0) < 0:
            _raise()
    finally:
        os.close(ruleset)


def call_numbers():
    """The number of each system call by name, -1 where this machine has none: of all that the
    filter names, and of what somebody would try, for the line that tells of it.
    """
    cdef dict numbers = {}
    cdef const call_number *call = call_table
    while call.name != NULL:
        numbers[call.name.decode()] = call.number
        call += 1
    return numbers


def filter_calls(bytes program):
    """Install a seccomp filter for all threads: struct sock_filter[], of 8 bytes each."""
    cdef sock_fprog fprog = sock_fprog(<unsigned short>(len(program) // 8), <const char *>program)
    if syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &fprog) != 0:
        _raise()


def report_filtered_calls():
    """Let a call that the filter traps end the process with a line on stderr, and by SIGSYS."""
    cdef c_sigaction action
    memset(&action, 0, sizeof(action))
    action.sa_sigaction = on_filtered_call
    action.sa_flags = SA_SIGINFO | <int>SA_RESETHAND
    if sigaction(SIGSYS, &action, NULL) < 0:
        _raise()


cdef void on_filtered_call(int signum, siginfo_t *info, void *_) noexcept nogil:
    """The handler of SIGSYS, with what is safe in a handler."""
    cdef char line[160]
    cdef const char *name = "unknown"
    cdef const call_number *call = call_table
    cdef int n
    if info.si_code == SYS_SECCOMP:
        while call.name != NULL:
            if call.number == info.si_syscall:
                name = call.name
            call += 1
        n = snprintf(line, sizeof(line), b"pyslirp: system call %d (%s) is not allowed: the end\n",
                     info.si_syscall, name)
        write(2, line, n)
    # The action is the default one by now, and a call that is in no filter of ours raises it again.
    syscall(SYS_personality, <long>-1)
    _exit(128 + signum)


cdef _raise(path=None):
    cdef int code = errno
    raise OSError(code, os.strerror(code), path)
