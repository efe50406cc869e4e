"""The system call filter: what the daemon calls, by name and where it matters by argument.

Classic BPF, seccomp(2): a program that the kernel runs before each call, over the call's number and
its arguments' values (not what they point to). It is assembled here, and not by libseccomp, whose
import would take longer than our whole start.

    the list          is allowed; the kernel knows that without running the program (Linux 5.11)
    the checked       are allowed with these arguments
    the foregone      fail as on a kernel without them: what libraries try, and do without
    newer calls       than this list fail so, too: a newer libc falls back on the older ones
    everything else   ends the process by SIGSYS, with a line on stderr (core.confine)

What is not there is the point: no execve, fork, ptrace or signals to others, no namespaces, mounts
or keys, no other kinds of sockets, no writing to files. When the event loop runs, and everything is
imported, a second program (`tightened`) takes away new executable memory too.
"""

from __future__ import annotations

import struct

ALLOW = 0x7FFF0000
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS
TRAP = 0x00030000
ERRNO = 0x00050000

EPERM = 1
EROFS = 30
ENOSYS = 38

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_RETURN = 0x06  # BPF_RET | BPF_K
_INSTRUCTION = struct.Struct("=HBBI")

# struct seccomp_data: nr, arch, instruction pointer, then six arguments of 64 bits.
_NR = 0
_ARCH = 4
_ARGS = 16

# The highest number of Linux 6.7; the numbers of newer calls are the same on all machines.
NEWEST = 456

_ALLOWED = (
    # the data plane
    *("accept4", "connect", "close", "epoll_create1", "epoll_ctl", "epoll_pwait"),
    *("epoll_pwait2", "epoll_wait", "getpeername", "getsockname", "getsockopt", "read"),
    *("readv", "recvfrom", "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto"),
    *("shutdown", "timerfd_settime", "write", "writev", "bind"),
    # event loop and clocks
    *("clock_getres", "clock_gettime", "clock_nanosleep", "eventfd2", "gettimeofday"),
    *("nanosleep", "pipe2", "poll", "ppoll"),
    # memory and threads
    *("brk", "exit", "exit_group", "futex", "getrandom", "gettid", "madvise", "membarrier", "mmap"),
    *("mprotect", "mremap", "munmap", "restart_syscall", "rseq", "sched_getaffinity"),
    *("sched_yield", "set_robust_list", "sigaltstack", "rt_sigprocmask", "rt_sigreturn"),
    # imports, resolv.conf, the API socket's file
    *("inotify_add_watch", "inotify_init1"),
    *("fstat", "getcwd", "getdents64", "lseek", "lstat", "newfstatat", "pread64", "readlink"),
    *("readlinkat", "stat", "statx", "unlink", "unlinkat"),
    # what libraries like to know
    *("getegid", "geteuid", "getgid", "getpid", "getrusage", "getuid", "sysinfo", "uname"),
)
_FOREGONE = ("clone3", "io_uring_enter", "io_uring_register", "io_uring_setup", "openat2")

_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_KIND = 1, 2, 0xF
_IP, _ICMP, _TCP, _UDP, _IPV6, _ICMPV6 = 0, 1, 6, 17, 41, 58
_SOL_SOCKET = 1
_SO_ATTACH_FILTER, _SO_ATTACH_BPF = 26, 50
_SO_ATTACH_REUSEPORT_CBPF, _SO_ATTACH_REUSEPORT_EBPF = 51, 52
_TCP_ULP = 31
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
# What isatty(), which open() calls, asks in glibc, in newer ones and in musl.
_TCGETS, _TCGETS2, _TIOCGWINSZ = 0x5401, 0x802C542A, 0x5413
_SIOCOUTQ, _FIONREAD = 0x5411, 0x541B
_SIOCGIFINDEX = 0x8933
_FIONBIO, _FIONCLEX, _FIOCLEX = 0x5421, 0x5450, 0x5451
_PR_SET_NAME = 15
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_SIGSYS = 31
_PROT_EXEC = 4
# O_ACCMODE, O_CREAT, O_TRUNC, O_TMPFILE: any of them would write.
_WRITING = 0o3 | 0o100 | 0o1000 | 0o20000000
# A thread has all of these, and none of the bits that make namespaces or let itself be traced.
_CLONE_THREAD = 0x00000100 | 0x00000800 | 0x00010000  # VM, SIGHAND, THREAD
_CLONE_OTHER = 0x7E020000 | 0x00002000  # NEW*, PTRACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Instruction = tuple[int, int, int, int]
    Alternatives = Sequence[Sequence["Condition"]]


class Condition:
    """On the low 32 bits of argument `arg`, or the high ones."""

    __slots__ = ("equal", "mask", "offset", "value")

    def __init__(
        self,
        arg: int,
        value: int,
        *,
        mask: int = 0xFFFFFFFF,
        equal: bool = True,
        high: bool = False,
    ) -> None:
        self.offset = _ARGS + 8 * arg + 4 * high  # little-endian, as both machines are
        self.value = value
        self.mask = mask
        self.equal = equal


def allowed(
    arch: int,
    numbers: Mapping[str, int],
    *,
    pid: int,
    command_pid: int | None,
    may_listen: bool,
) -> bytes:
    """The filter of a daemon `pid` on a machine AUDIT_ARCH `arch` with these call numbers.

    command_pid: the child that it may signal and reap, if it has one. may_listen: ports may be
    opened later.
    """
    plain = list(_ALLOWED)
    if may_listen:
        plain.append("listen")
    pids = [pid] if command_pid is None else [pid, command_pid]
    if command_pid is not None:
        plain.append("wait4")
    listed = [numbers[name] for name in plain if numbers[name] >= 0]
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_IF_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, KILL),  # another machine's numbers mean other calls
        (_LOAD, 0, 0, _NR),
        (_IF_GREATER, 0, 1, NEWEST),
        (_RETURN, 0, 0, ERRNO | ENOSYS),
    ]
    program += [(_IF_EQUAL, len(listed) - at, 0, number) for at, number in enumerate(listed)]
    program += [(_JUMP, 0, 0, 1), (_RETURN, 0, 0, ALLOW)]
    for name in _FOREGONE:
        program += _checked(numbers[name], (), ERRNO | ENOSYS)
    for name, alternatives, otherwise in _checks(pids):
        program += _checked(numbers[name], alternatives, otherwise)
    program.append((_RETURN, 0, 0, TRAP))
    return _assemble(program)


def tightened(numbers: Mapping[str, int]) -> bytes:
    """What is taken away on top once the event loop is running."""
    program: list[Instruction] = [(_LOAD, 0, 0, _NR)]
    data_only = [[Condition(2, 0, mask=_PROT_EXEC)]]
    program += _checked(numbers["mmap"], data_only, ERRNO | EPERM)
    program += _checked(numbers["mprotect"], data_only, ERRNO | EPERM)
    for name in ("socketpair", "seccomp"):
        program += _checked(numbers[name], (), TRAP)
    program.append((_RETURN, 0, 0, ALLOW))
    return _assemble(program)


def _checks(pids: Sequence[int]) -> list[tuple[str, Alternatives, int]]:
    """Calls that are allowed when all tests of one alternative hold, and what happens otherwise."""
    kinds = [(_SOCK_STREAM, 0), (_SOCK_STREAM, _TCP), (_SOCK_DGRAM, 0), (_SOCK_DGRAM, _UDP)]
    sockets = [
        [Condition(0, family), Condition(1, kind, mask=_SOCK_KIND), Condition(2, protocol)]
        for family, ping in ((_AF_INET, _ICMP), (_AF_INET6, _ICMPV6))
        for kind, protocol in (*kinds, (_SOCK_DGRAM, ping))
    ]
    attach = [_SO_ATTACH_FILTER, _SO_ATTACH_BPF]
    attach += (_SO_ATTACH_REUSEPORT_CBPF, _SO_ATTACH_REUSEPORT_EBPF)
    options = [
        [Condition(1, _SOL_SOCKET), *(Condition(2, name, equal=False) for name in attach)],
        [Condition(1, _TCP), Condition(2, _TCP_ULP, equal=False)],
        *([Condition(1, level)] for level in (_IP, _UDP, _IPV6, _ICMPV6)),
    ]
    commands = (_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC)
    requests = [_TCGETS, _TCGETS2, _TIOCGWINSZ]
    requests += [_SIOCGIFINDEX]  # resolv.conf's names of interfaces
    requests += [_SIOCOUTQ, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX]
    thread = [Condition(0, _CLONE_THREAD, mask=_CLONE_THREAD | _CLONE_OTHER)]
    return [
        ("socket", sockets, TRAP),
        ("setsockopt", options, TRAP),
        ("socketpair", [[Condition(0, _AF_UNIX)]], TRAP),
        ("fcntl", [[Condition(1, command)] for command in commands], TRAP),
        ("ioctl", [[Condition(1, request)] for request in requests], TRAP),
        ("open", [[Condition(1, 0, mask=_WRITING)]], ERRNO | EROFS),
        ("openat", [[Condition(2, 0, mask=_WRITING)]], ERRNO | EROFS),
        ("clone", [thread], TRAP),
        ("kill", [[Condition(0, pid)] for pid in pids], TRAP),
        ("tgkill", [[Condition(0, pids[0])]], TRAP),
        ("rt_sigaction", [[Condition(0, _SIGSYS, equal=False)]], TRAP),
        # Another program on top can only take away.
        ("seccomp", [[Condition(0, _SET_MODE_FILTER), Condition(1, _FLAG_TSYNC)]], TRAP),
        ("prctl", [[Condition(0, _PR_SET_NAME)]], ERRNO | EPERM),
        # A thread's own slice.
        ("sched_getattr", [[Condition(0, 0)]], ERRNO | EPERM),
        ("sched_setattr", [[Condition(0, 0)]], ERRNO | EPERM),
        # To ask, not to set: no new limit.
        ("prlimit64", [[Condition(2, 0), Condition(2, 0, high=True)]], ERRNO | EPERM),
    ]


def _checked(number: int, alternatives: Alternatives, otherwise: int) -> list[Instruction]:
    """For the call `number` a verdict; for all others the accumulator as it was."""
    if number < 0:
        return []
    body: list[Instruction] = []
    for tests in alternatives:
        body += _all_of(tests)
    body.append((_RETURN, 0, 0, otherwise))
    return [(_IF_EQUAL, 0, len(body), number), *body]


def _all_of(tests: Sequence[Condition]) -> list[Instruction]:
    """Allow when all hold; else go on behind."""
    reversed_block: list[Instruction] = [(_RETURN, 0, 0, ALLOW)]
    for test in reversed(tests):
        away = len(reversed_block)
        if_equal, if_not = (0, away) if test.equal else (away, 0)
        reversed_block.append((_IF_EQUAL, if_equal, if_not, test.value))
        if test.mask != 0xFFFFFFFF:
            reversed_block.append((_AND, 0, 0, test.mask))
        reversed_block.append((_LOAD, 0, 0, test.offset))
    return reversed_block[::-1]


def _assemble(program: Sequence[Instruction]) -> bytes:
    return b"".join([_INSTRUCTION.pack(*instruction) for instruction in program])
