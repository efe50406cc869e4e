"""Confinement: the rights that a daemon gives up when its set-up is done, before it says "ready".

Whoever is in the guest may take the data plane over one day; then this decides what that is worth.
The layers, in the order in which each still may do its work:

    no new privileges   and the bounding set: no program that we could run would have more
    mount namespace     an empty root; in it, read-only, what we still read by name: Python's
                        modules and libraries, and the directories of resolv.conf
    capabilities        none, but binding low ports
    Landlock            reading those directories only, see landlock
    system call filter  see seccomp

An ordinary user may make mounts only in a user namespace of his own. He stays himself in it, and
his sockets stay where they are: ports, ping groups and the host's network ask for what he is in the
namespace that owns the network, where he had no capabilities to lose. If he has some, he keeps his
user namespace, and Landlock is left to guard the files.

Asyncio and its kin are imported after "ready", so their files are in the new root: code that anyone
may read. What is installed beside the system, in somebody's home perhaps, is at /python there. Once
they are imported the filter is tightened, and no more code can be mapped.

Of resolv.conf directories are bound, not the file, which is replaced, and every directory of the
chain of symbolic links that lead to it. The directories of our own sockets are there too, to remove
them at the end.
"""

from __future__ import annotations

import os
import sys
from errno import ENOSYS

from slirp import landlock, log, seccomp
from slirp.config import BESS
from slirp.core import confine, oscalls
from slirp.errors import SlirpError, reason
from slirp.resolver import RESOLV_CONF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slirp.config import Config

CAP_NET_BIND_SERVICE = 1 << 10  # linux/capability.h
CAP_SYS_ADMIN = 1 << 21

_BASE = "/tmp"  # any directory that exists everywhere: covered for a moment
_OLD = "/old"
_EXPECTED = ("/etc", "/run")  # what slirp4netns's sandbox has, if empty
_MAX_LINKS = 40
_SYSTEM = ("/usr", "/lib", "/lib64")
_PLACE = "/python"
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = ("site-packages", "dist-packages", "lib-dynload", _PYTHON)


class Needs:
    """What must stay in sight: directories by their real paths, and the links that lead there.

    moved: directories of modules, as sys.path names them, that get another place, and which.
    sources: the real path of what is there.
    """

    __slots__ = ("links", "moved", "readable", "removable", "sources")

    def __init__(self) -> None:
        self.links: dict[str, str] = {}
        self.moved: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        self.readable: list[str] = []
        self.removable: list[str] = []

    def read_in(self, directory: str) -> str:
        """Keep `directory` readable, if it exists. Returns its real path."""
        real = self._real(directory)
        if real != "/" and real not in self.readable and os.path.isdir(real):
            self.readable.append(real)
        return real

    def import_from(self, directory: str) -> None:
        """Keep modules readable, elsewhere if they are none of the system's."""
        real = os.path.realpath(directory)
        if _is_below(real, _SYSTEM):
            self.read_in(directory)
        elif os.path.isdir(real) and not _is_below(directory, self.moved):
            place = self.moved[directory] = f"{_PLACE}/{len(self.moved)}"
            self.sources[place] = real

    def load_from(self, directory: str) -> None:
        """Keep libraries readable, but for those that come with modules."""
        if not _is_below(directory, self.sources.values()):
            self.read_in(directory)

    def code(self) -> list[str]:
        """Where the moved directories are now: still at home, where the root could not change."""
        return [place if os.path.isdir(place) else real for place, real in self.sources.items()]

    def read_replaced(self, path: str) -> None:
        """Keep the file readable, also when it or a link on the way to it is replaced."""
        for _ in range(_MAX_LINKS):
            directory, _, name = path.rpartition("/")
            path = f"{self.read_in(directory or '/')}/{name}"
            try:
                path = os.path.join(os.path.dirname(path), os.readlink(path))
            except OSError:  # no link: the end of the chain
                return

    def remove_from(self, directory: str) -> None:
        """Let files in `directory` be removed."""
        self.removable.append(self._real(directory))

    def link(self, path: str) -> None:
        """Keep `path` if it is a link: the loader of libraries goes by it."""
        self._real(path)

    def _real(self, path: str) -> str:
        """`path` without links, each of which is noted."""
        todo = path.split("/")[::-1]
        real = ""
        for _ in range(_MAX_LINKS * 100):
            if not todo:
                break
            name = todo.pop()
            if name == "..":
                real = real.rpartition("/")[0]
            if name in ("", ".", ".."):
                continue
            here = f"{real}/{name}"
            try:
                target = os.readlink(here)
            except OSError:  # no link, or nothing at all
                real = here
                continue
            self.links[here] = target
            real = "" if target.startswith("/") else real
            todo += target.split("/")[::-1]
        return real or "/"


class Sandbox:
    """The confinement of this process: enter() it, tighten() it when everything is imported.

    command_pid: the child that may be signalled. refused: the layers that could not be had.
    """

    def __init__(self, config: Config, command_pid: int | None = None) -> None:
        self._config = config
        self._tell = log.warn if command_pid is None else log.complain  # stdout is the command's
        self._command_pid = command_pid
        self._filtered = False
        self.refused: list[str] = []

    def enter(self) -> None:
        """Give up the rights. Raises SlirpError when one stays that may not (--require-sandbox)."""
        config = self._config
        sys.dont_write_bytecode = True  # nowhere to write it
        if config.sandbox:
            needs = self._needs()
            self._try("no new privileges", confine.set_no_new_privs)
            self._try("mount namespace", lambda: _change_root(needs))
            self._try("capabilities", _drop_capabilities)
            self._try("Landlock", lambda: self._restrict(needs))
        if config.seccomp:
            self._try("system call filter", self._filter)
        if self.refused:
            text = f"this system refuses a part of the sandbox: {', '.join(self.refused)}"
            if config.require_sandbox:
                raise SlirpError(text)
            self._tell(text)

    def tighten(self) -> None:
        """Take away what imports needed. Threads of ours are bound by it too."""
        if self._filtered:
            confine.filter_calls(seccomp.tightened(confine.call_numbers()))

    def _try(self, layer: str, enter: Callable[[], None]) -> None:
        try:
            enter()
        except OSError as error:
            self.refused.append(f"{layer} ({reason(error)})")

    def _needs(self) -> Needs:
        needs = Needs()
        for directory in _module_directories():
            needs.import_from(directory)
        for directory in _library_directories():
            needs.load_from(directory)
        needs.link("/lib")
        needs.link("/lib64")
        if self._config.dns:
            needs.read_replaced(RESOLV_CONF)
        if self._config.api_path is not None:
            needs.remove_from(os.path.dirname(os.path.abspath(self._config.api_path)))
        if self._config.target_kind == BESS:
            needs.remove_from(os.path.dirname(os.path.abspath(self._config.target)))
        return needs

    def _restrict(self, needs: Needs) -> None:
        landlock.restrict(
            [*needs.readable, *needs.code()],
            needs.removable,
            signals=self._command_pid is not None,
            ports=self._config.api_path is not None,
        )

    def _filter(self) -> None:
        if not confine.AUDIT_ARCH:
            raise OSError("not for this machine")
        program = seccomp.allowed(
            confine.AUDIT_ARCH,
            confine.call_numbers(),
            pid=os.getpid(),
            command_pid=self._command_pid,
            may_listen=self._config.api_path is not None,
        )
        confine.set_no_new_privs()
        confine.report_filtered_calls()
        confine.filter_calls(program)
        self._filtered = True


def _drop_capabilities() -> None:
    """All but binding low ports. In a user namespace of our own, which owns no network, that one is
    worth nothing; but scripts look for it, slirp4netns's own tests among them.
    """
    confine.keep_capabilities(confine.capabilities() & CAP_NET_BIND_SERVICE)


def _module_directories() -> Iterable[str]:
    """Where modules that are imported later come from.

    Of sys.path what has the name of an installation: the script's directory, say, may be a home.
    """
    import slirp

    yield from slirp.__path__
    for entry in sys.path:
        if os.path.basename(entry) in _PACKAGES:
            yield entry


def _library_directories() -> set[str]:
    """Where the libraries that are in use come from."""
    with open("/proc/self/maps", errors="surrogateescape") as maps:
        libraries = {line[line.index("/") :].rstrip("\n") for line in maps if ".so" in line}
    return {os.path.dirname(path) for path in libraries}


def _change_root(needs: Needs) -> None:
    """Leave for a mount namespace with nothing in it but what `needs` says. Raises OSError."""
    _unshare()
    oscalls.mount("none", "/", "", oscalls.MS_REC | oscalls.MS_SLAVE)
    flags = oscalls.MS_NOSUID | oscalls.MS_NODEV | oscalls.MS_NOEXEC
    oscalls.mount("tmpfs", _BASE, "tmpfs", flags, "size=64k,mode=0755")
    try:
        os.mkdir(_BASE + _OLD)
        confine.pivot_root(_BASE, _BASE + _OLD)
    except OSError:
        oscalls.umount(_BASE, oscalls.MNT_DETACH)
        raise
    try:
        os.chdir("/")
        _furnish(needs)
    except OSError:
        confine.pivot_root(_OLD, _OLD + _BASE)
        oscalls.umount(_BASE, oscalls.MNT_DETACH)
        raise
    oscalls.umount(_OLD, oscalls.MNT_DETACH)
    os.rmdir(_OLD)
    _import_from_places(needs.moved)


def _unshare() -> None:
    """New mount, ipc and uts namespaces, in a user namespace of our own where need be."""
    kinds = oscalls.CLONE_NEWNS | oscalls.CLONE_NEWIPC | oscalls.CLONE_NEWUTS
    held = confine.capabilities()
    if held & CAP_SYS_ADMIN:
        oscalls.unshare(kinds)
        return
    if held & CAP_NET_BIND_SERVICE:
        raise OSError("it would cost the right to bind low ports")
    euid, egid = os.geteuid(), os.getegid()
    oscalls.unshare(oscalls.CLONE_NEWUSER | kinds)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{euid} {euid} 1")
    _write("/proc/self/gid_map", f"{egid} {egid} 1")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _furnish(needs: Needs) -> None:
    """Bind what is needed from the old root, which is at _OLD, to its place in the new one."""
    read_only = set(needs.readable)
    bound: list[str] = []
    for path in sorted(read_only | set(needs.removable)):
        if path == "/" or _is_below(path, bound):
            continue
        os.makedirs(path, exist_ok=True)
        oscalls.mount(_OLD + path, path, "", oscalls.MS_BIND | oscalls.MS_REC)
        if path not in needs.removable:
            _protect(path)
        bound.append(path)
    for place, path in needs.sources.items():
        os.makedirs(place)
        oscalls.mount(_OLD + path, place, "", oscalls.MS_BIND | oscalls.MS_REC)
        _protect(place)
    for path in _EXPECTED:
        os.makedirs(path, exist_ok=True)
    for path, target in needs.links.items():
        if not _is_below(path, bound):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(target, path)


def _import_from_places(moved: dict[str, str]) -> None:
    """Have the import system look where modules are now."""

    def now(path: str) -> str:
        for directory, place in moved.items():
            if _is_below(path, [directory]):
                return place + path[len(directory) :]
        return path

    sys.path[:] = map(now, sys.path)
    for module in list(sys.modules.values()):
        paths = getattr(module, "__path__", None)
        if paths is not None:
            module.__path__ = [now(path) for path in paths]
    sys.path_importer_cache.clear()


def _protect(path: str) -> None:
    try:
        confine.make_read_only(path)
    except OSError as error:
        if error.errno != ENOSYS:  # before Linux 5.12: the filter forbids writing all the same
            raise


def _is_below(path: str, directories: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in directories)
