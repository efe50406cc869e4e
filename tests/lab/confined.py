"""A program that shuts itself in exactly as the daemon does, then tries one thing.

    python confined.py ATTEMPT [OPTION…]

options: those of pyslirp that concern confinement, "without=LAYER" to have a layer refused as a
system without it would, and "early" to leave the event loop's second filter away. It prints "ready"
and, if it lives, what became of the attempt: "done" or the name of an errno.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from slirp import landlock, sandbox
from slirp.config import Config
from slirp.core import confine

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = confine.call_numbers()
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET = 0x1000_0000, 0x0002_0000, 0x4000_0000
PTRACE_ATTACH = 16
PARENT = os.getppid()
ABSTRACT = f"\0confined-{PARENT}"


def call(name: str, *args: Any) -> None:
    """A system call by name; raises OSError."""
    if libc.syscall(NUMBERS[name], *args) < 0:
        raise OSError(ctypes.get_errno(), name)


def open_socket(*kind: int) -> Callable[[], object]:
    """Make a socket."""
    return lambda: socket.socket(*kind)


def run_program() -> None:
    """Become another program."""
    os.execv("/bin/true", ["true"])


def map_code() -> None:
    """Write machine code and run it: what shell code does first."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def import_late() -> None:
    """A module of Python's own that nothing has imported."""
    import colorsys  # noqa: F401


def start_thread() -> None:
    """A thread, as for a report."""
    import threading

    thread = threading.Thread(target=bytearray, args=(1 << 20,))
    thread.start()
    thread.join()


def use_memory() -> None:
    """Grow, move and give back memory."""
    for exponent in range(10, 28):
        block = bytearray(1 << exponent)
        block.extend(block)
        del block


def fail_loudly() -> None:
    """A traceback, which wants the source's lines."""
    import traceback

    try:
        raise ValueError
    except ValueError:
        traceback.format_exc()


def connect_abstract() -> None:
    """Talk to a program of the host by a socket without a file; ours was made before."""
    EARLY_SOCKET.connect(ABSTRACT)


EARLY_SOCKET = socket.socket(socket.AF_UNIX)
ATTEMPTS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "read-resolv-conf": lambda: os.open("/etc/resolv.conf", os.O_RDONLY),
    "import-late": import_late,
    "start-thread": start_thread,
    "use-memory": use_memory,
    "fail-loudly": fail_loudly,
    "abort": os.abort,
    "read-system": lambda: os.open("/var/lib/dpkg/status", os.O_RDONLY),
    "read-home": lambda: os.listdir("/root"),
    "list-root": lambda: os.listdir("/home"),
    "read-proc": lambda: os.listdir(f"/proc/{PARENT}"),
    "read-device": lambda: os.open("/dev/urandom", os.O_RDONLY),
    "write": lambda: os.open("/etc/confined", os.O_WRONLY | os.O_CREAT),
    "write-tmp": lambda: os.open("/tmp/confined", os.O_WRONLY | os.O_CREAT),
    "make-directory": lambda: os.mkdir("/tmp/confined"),
    "exec": run_program,
    "fork": os.fork,
    "ptrace": lambda: call("ptrace", PTRACE_ATTACH, PARENT, 0, 0),
    "read-memory": lambda: call("process_vm_readv", PARENT, 0, 0, 0, 0, 0),
    "signal": lambda: os.kill(PARENT, 0),
    "signal-all": lambda: os.kill(-1, signal.SIGCONT),
    "signal-self": lambda: os.kill(os.getpid(), 0),
    "user-namespace": lambda: call("unshare", CLONE_NEWUSER),
    "mount-namespace": lambda: call("unshare", CLONE_NEWNS),
    "network-namespace": lambda: call("unshare", CLONE_NEWNET),
    "mount": lambda: call("mount", b"none", b"/", b"tmpfs", 0, None),
    "unmount": lambda: call("umount2", b"/etc", 2),
    "tcp": open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "udp": open_socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "ping": open_socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "raw": open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "packet": open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink": open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "unix": open_socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "vsock": open_socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "connect-abstract": connect_abstract,
    "map-code": map_code,
    "set-limit": lambda: call("prlimit64", 0, 3, struct.pack("QQ", 0, 0), None),
}


def refuse(*_: object, **__: object) -> None:
    """What stands in for a layer that a system does not have."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def main() -> None:
    """Shut in, then try."""
    attempt, *options = sys.argv[1:]
    config = Config()
    config.sandbox = "--no-sandbox" not in options
    config.seccomp = "--no-seccomp" not in options
    if "without=namespaces" in options:
        sandbox._change_root = refuse
    if "without=landlock" in options:
        landlock.restrict = refuse
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after an execve() as this user
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(ABSTRACT)
        outside.listen()
        box = sandbox.Sandbox(config)
        box.enter()
        if "early" not in options:
            box.tighten()
        print("ready", flush=True)
        try:
            ATTEMPTS[attempt]()
            print("done", flush=True)
        except OSError as error:
            print(errno.errorcode[error.errno or 0], flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
