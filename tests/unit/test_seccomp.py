"""The system call filter, run by an interpreter of classic BPF of our own, on both machines."""

from __future__ import annotations

import dataclasses
import errno
import pathlib
import re
import socket
import struct

import pytest

from slirp import seccomp
from slirp.core import confine

AARCH64 = 0xC00000B7
X86_64 = 0xC000003E
PID = 4711
CHILD = 4712
ALLOW, TRAP, KILL = "allow", "trap", "kill"
PROT_EXEC = 4
HEADER = pathlib.Path("/usr/include/asm-generic/unistd.h")


def generic_numbers() -> dict[str, int]:
    """The numbers of aarch64, which has the kernel's generic table."""
    text = HEADER.read_text()
    text = re.sub(r"__NR3264_(\w+)", r"__NR_\1", text)
    found = dict(re.findall(r"^#define __NR_(\w+)\s+(\d+)", text, re.M))
    found["newfstatat"] = found["fstatat"]
    return {name: int(found.get(name, -1)) for name in confine.call_numbers()}


@dataclasses.dataclass
class Machine:
    """A program, and the calls of a machine that it judges."""

    arch: int
    numbers: dict[str, int]
    program: bytes

    def judge(self, name: str | int, *args: int, arch: int | None = None) -> str:
        """What becomes of the call `name` with these arguments: ALLOW, or an errno's name."""
        number = name if isinstance(name, int) else self.numbers[name]
        padded = [*args, *[0] * (6 - len(args))]
        data = struct.pack(
            "<iIQ6Q", number, self.arch if arch is None else arch, 0x7F00_0000_1000, *padded
        )
        verdict = interpret(self.program, data)
        kind, detail = verdict & 0xFFFF0000, verdict & 0xFFFF
        if kind == 0x00050000:
            return errno.errorcode[detail]
        return {0x7FFF0000: ALLOW, 0x00030000: TRAP, 0x80000000: KILL}[kind]


def interpret(program: bytes, data: bytes) -> int:
    """Run classic BPF as the kernel defines it for seccomp(2)."""
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    while True:
        code, jump_true, jump_false, k = instructions[at]
        at += 1
        match code:
            case 0x20:  # ld [k]
                assert k % 4 == 0
                accumulator = int.from_bytes(data[k : k + 4], "little")
            case 0x54:  # and #k
                accumulator &= k
            case 0x05:  # ja
                at += k
            case 0x15:  # jeq
                at += jump_true if accumulator == k else jump_false
            case 0x25:  # jgt
                at += jump_true if accumulator > k else jump_false
            case 0x06:  # ret
                return int(k)
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@pytest.fixture(params=["native", "aarch64"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return make(request.param)


def make(
    which: str, command_pid: int | None = None, may_listen: bool = True, tightened: bool = False
) -> Machine:
    arch, numbers = (confine.AUDIT_ARCH, confine.call_numbers())
    if which == "aarch64":
        arch, numbers = AARCH64, generic_numbers()
    program = seccomp.allowed(
        arch, numbers, pid=PID, command_pid=command_pid, may_listen=may_listen
    )
    if tightened:
        program = seccomp.tightened(numbers)
    return Machine(arch, numbers, program)


def test_fits_the_kernel(machine: Machine) -> None:
    assert len(machine.program) // 8 < 4096  # BPF_MAXINSNS


HOT = "read writev sendmsg recvmsg epoll_ctl epoll_pwait timerfd_settime accept4 connect close"


@pytest.mark.parametrize("name", HOT.split())
def test_traffic(machine: Machine, name: str) -> None:
    assert machine.judge(name, 2**64 - 1, 2**64 - 1, 2**64 - 1) == ALLOW


DANGEROUS = (
    "execve execveat ptrace process_vm_readv setns unshare mount umount2 pidfd_open tkill "
    "pidfd_send_signal rt_tgsigqueueinfo chdir faccessat"
)


@pytest.mark.parametrize("name", DANGEROUS.split())
def test_danger(machine: Machine, name: str) -> None:
    assert machine.judge(name) == TRAP


def test_nothing_but_what_is_listed(machine: Machine) -> None:
    """With arguments that no rule likes, only the list and the foregone live."""
    known = {number: name for name, number in machine.numbers.items() if number >= 0}
    odd = [0xFFFF_FFFF] * 6
    survivors = {
        number for number in range(seccomp.NEWEST + 1) if machine.judge(number, *odd) == ALLOW
    }
    assert survivors <= set(known)
    allowed = {known[number] for number in survivors}
    assert not allowed & set(DANGEROUS.split())
    # Allowed whatever the arguments; rt_sigaction is refused for one signal only.
    assert allowed - {"rt_sigaction"} <= set(seccomp._ALLOWED) | {"listen"}


def test_newer_calls_are_missing_ones(machine: Machine) -> None:
    for number in (seccomp.NEWEST + 1, 1000, 0x4000_0000, 0x7FFF_FFFF):  # x32's calls among them
        assert machine.judge(number) == "ENOSYS"


def test_what_libraries_try(machine: Machine) -> None:
    for name in ("clone3", "io_uring_setup", "openat2"):
        assert machine.judge(name) == "ENOSYS"
    assert machine.judge("prctl", 15) == ALLOW
    assert machine.judge("prctl", 22) == "EPERM"


def test_numbers_of_another_machine(machine: Machine) -> None:
    i386 = 0x40000003
    other = X86_64 if machine.arch == AARCH64 else AARCH64
    for arch in (i386, other, 0):
        assert machine.judge("read", arch=arch) == KILL


FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
SOCKETS = [
    (socket.AF_INET, socket.SOCK_STREAM, 0),
    (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP),
    (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    (socket.AF_INET6, socket.SOCK_DGRAM, 0),
    (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6),
]
OTHER_SOCKETS = [
    (socket.AF_UNIX, socket.SOCK_STREAM, 0),
    (socket.AF_NETLINK, socket.SOCK_RAW, 0),
    (socket.AF_NETLINK, socket.SOCK_DGRAM, 0),
    (socket.AF_PACKET, socket.SOCK_DGRAM, 0),
    (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    (socket.AF_INET, socket.SOCK_RAW, 0),
    (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP),
    (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
]


@pytest.mark.parametrize(("family", "kind", "protocol"), SOCKETS)
def test_our_sockets(machine: Machine, family: int, kind: int, protocol: int) -> None:
    assert machine.judge("socket", family, kind | FLAGS, protocol) == ALLOW


@pytest.mark.parametrize(("family", "kind", "protocol"), OTHER_SOCKETS)
def test_other_sockets(machine: Machine, family: int, kind: int, protocol: int) -> None:
    assert machine.judge("socket", family, kind | FLAGS, protocol) == TRAP


def test_opening_is_for_reading(machine: Machine) -> None:
    at = 2**64 - 100  # AT_FDCWD
    assert machine.judge("openat", at, 0x1000, 0o2000000) == ALLOW  # O_CLOEXEC
    for flags in (0o1, 0o2, 0o3, 0o100, 0o101, 0o1000, 0o20200000 | 2):
        assert machine.judge("openat", at, 0x1000, flags) == "EROFS"


def test_threads_and_no_processes(machine: Machine) -> None:
    thread = 0x3D0F00  # what glibc asks for
    assert machine.judge("clone", thread) == ALLOW
    assert machine.judge("clone", 17) == TRAP  # fork: SIGCHLD
    assert machine.judge("clone", 0x4111) == TRAP  # vfork
    for namespace in (0x00020000, 0x02000000, 0x04000000, 0x10000000, 0x20000000, 0x40000000):
        assert machine.judge("clone", thread | namespace) == TRAP


def test_signals_to_ourselves(machine: Machine) -> None:
    assert machine.judge("kill", PID, 15) == ALLOW
    assert machine.judge("tgkill", PID, PID, 6) == ALLOW
    for other in (1, 0, 2**32 - 1, -PID & 0xFFFF_FFFF, CHILD):
        assert machine.judge("kill", other, 9) == TRAP
        assert machine.judge("tgkill", other, other, 9) == TRAP
    assert machine.judge("wait4", CHILD) == TRAP


@pytest.mark.parametrize("which", ["native", "aarch64"])
def test_signals_to_the_command_of_run(which: str) -> None:
    machine = make(which, command_pid=CHILD)
    assert machine.judge("kill", CHILD, 15) == ALLOW
    assert machine.judge("kill", PID, 15) == ALLOW
    assert machine.judge("kill", 1, 15) == TRAP
    assert machine.judge("wait4", CHILD) == ALLOW


@pytest.mark.parametrize("which", ["native", "aarch64"])
def test_no_listener_where_none_can_be_asked_for(which: str) -> None:
    assert make(which, may_listen=False).judge("listen", 3, 1) == TRAP
    assert make(which, may_listen=True).judge("listen", 3, 1) == ALLOW


def test_options_of_sockets(machine: Machine) -> None:
    for level, name in ((1, 13), (0, 11), (6, 1), (17, 103), (41, 25)):
        assert machine.judge("setsockopt", 3, level, name) == ALLOW
    for level, name in ((1, 26), (1, 50), (1, 52), (6, 31), (263, 1), (270, 1)):
        assert machine.judge("setsockopt", 3, level, name) == TRAP


def test_terminals_and_devices(machine: Machine) -> None:
    for request in (0x5421, 0x5401, 0x5413, 0x802C542A, 0x8933):  # FIONBIO, isatty(), SIOCGIFINDEX
        assert machine.judge("ioctl", 3, request) == ALLOW
    for request in (0x5412, 0x400454CA, 0x8912):  # TIOCSTI, TUNSETIFF, SIOCGIFCONF
        assert machine.judge("ioctl", 0, request) == TRAP


def test_limits_can_be_asked_for(machine: Machine) -> None:
    assert machine.judge("prlimit64", 0, 7, 0, 0x7F0000001000) == ALLOW
    for new in (0x1000, 0x7F_0000_0000, 0x7F00_0000_1000):
        assert machine.judge("prlimit64", 0, 7, new) == "EPERM"


def test_the_line_that_tells_of_the_end_stays(machine: Machine) -> None:
    assert machine.judge("rt_sigaction", 15) == ALLOW
    assert machine.judge("rt_sigaction", 31) == TRAP  # SIGSYS


def test_tightening_goes_on_top_once(machine: Machine) -> None:
    assert machine.judge("seccomp", 1, 1, 0x1000) == ALLOW
    assert machine.judge("seccomp", 1, 8, 0x1000) == TRAP  # a listener


@pytest.mark.parametrize("which", ["native", "aarch64"])
def test_tightened(which: str) -> None:
    machine = make(which, tightened=True)
    for name in ("mmap", "mprotect"):
        assert machine.judge(name, 0, 4096, 3) == ALLOW
        for protection in (PROT_EXEC, PROT_EXEC | 1, 7):
            assert machine.judge(name, 0, 4096, protection) == "EPERM"
    for name in ("seccomp", "socketpair"):
        assert machine.judge(name, 1, 1, 0) == TRAP
    assert machine.judge("read") == ALLOW


def test_no_name_is_misspelt() -> None:
    """Only x86-64 has what the generic table lacks."""
    checks = [name for name, _, _ in seccomp._checks([PID])]
    names = [*seccomp._ALLOWED, *checks, *seccomp._FOREGONE, "listen", "wait4"]
    assert len(names) == len(set(names))
    missing = {name for name in names if generic_numbers()[name] < 0}
    assert missing <= {"epoll_wait", "lstat", "open", "poll", "readlink", "stat", "unlink"}
