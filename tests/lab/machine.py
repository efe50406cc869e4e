"""A machine for container runtimes: one ordinary user's, on the topology's host.

Podman, Buildah and RootlessKit want what a user has after logging in: a name, subordinate ids, a
home, a runtime directory. All of it is made inside a mount and a process namespace, with files that
hide the real ones, so that no account is made, and the end of the namespace's first process is the
end of every container, helper and file.

The packaged slirp4netns is hidden there: a client that does not launch what it was told to fails.
"""

from __future__ import annotations

import io
import pathlib
import shlex
import shutil
import subprocess
import tarfile
import time
from typing import Any

from lab.daemons import default_command
from lab.namespaces import CommandError, Namespace, owns_all_ids
from lab.topology import Topology

NAME = "tester"
TOP = "/srv"  # hidden by a file system of ours; it is short, as the paths of sockets must be
HOME = f"{TOP}/home"
RUNTIME_DIR = f"{TOP}/run"
TEMPORARY_DIR = f"{TOP}/tmp"
BINARY = f"{TOP}/bin/slirp4netns"
PACKAGED = pathlib.Path("/usr/bin/slirp4netns")
FIRST_SUBORDINATE_ID, SUBORDINATE_IDS = 200_000, 65_536
IMAGE = "localhost/busybox"
PAGE = "hello from the container\n"
PORT = 8080
WEB_SERVER = ("httpd", "-f", "-v", "-p", "80", "-h", "/www")
FILES = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nwww:x:33:33:www:/www:/bin/sh\n",
    "www/index.html": PAGE,
}
PATIENCE_SECONDS = 15.0

CONTAINERS_CONF = f"""
[engine]
network_cmd_path = "{BINARY}"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE_CONF = """
[storage]
driver = "vfs"
"""


def why_not() -> str | None:
    """Why this process cannot be the host of such a machine, or None when it can."""
    if not owns_all_ids():
        return "subordinate ids are given out by root, and here one id is mapped"
    return None


class Machine(Namespace):
    """Commands given to popen() and run() are the user's."""

    def __init__(self, bed: Topology) -> None:
        self.uid = bed.user.uid
        self.bed = bed
        # The first process must wait for those whose parents have gone, as an init does.
        init = ("--fork", "--kill-child", "--mount-proc", "catatonit", "--")
        super().__init__((*bed.host.enter, "unshare", "--mount", "--pid", *init), ())
        try:
            self.init = str(child_of(self.pid))
            self._enter = ["nsenter", f"--target={self.init}", "--mount", "--net", "--pid", "--"]
            self.as_root("sh", "-e", "-c", self._script())
            become = ["setpriv", f"--reuid={NAME}", f"--regid={NAME}", "--init-groups"]
            settings = (f"{name}={value}" for name, value in self.environment().items())
            self.enter = [*self._enter, *become, "env", "-i", "-C", HOME, *settings]
            self.podman("import", "-", IMAGE, input=image(), text=False)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def environment() -> dict[str, str]:
        """What a log-in leaves, and a PATH that finds the program under test first."""
        return {
            "HOME": HOME,
            "USER": NAME,
            "LANG": "C.UTF-8",
            "PATH": f"{TOP}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "XDG_RUNTIME_DIR": RUNTIME_DIR,
            "TMPDIR": TEMPORARY_DIR,
        }

    def _script(self) -> str:
        """What root does on this machine before the user comes."""
        files = self.bed.workdir
        account = f"{NAME}:x:{self.uid}:"
        lists = {
            "passwd": f"root:x:0:0::/root:/bin/sh\n{account}{self.uid}::{HOME}:/bin/sh\n",
            "group": f"root:x:0:\n{account}\n",
            "subuid": f"{NAME}:{FIRST_SUBORDINATE_ID}:{SUBORDINATE_IDS}\n",
            "subgid": f"{NAME}:{FIRST_SUBORDINATE_ID}:{SUBORDINATE_IDS}\n",
        }
        for name, text in lists.items():
            (files / name).write_text(text)
            (files / name).chmod(0o644)
        config = f"{HOME}/.config/containers"
        program, *words = default_command()
        program = shutil.which(program) or program
        install = f"ln -s {program} {BINARY}"
        if words:  # a name stands for one word only
            (files / "wrapper").write_text(
                f'#!/bin/sh\nexec {shlex.join([program, *words])} "$@"\n'
            )
            install = f"install -m 755 {files}/wrapper {BINARY}"
        hide = f"mount --bind /bin/false {PACKAGED}"
        if not PACKAGED.exists() or PACKAGED.samefile(program):
            hide = ""
        return f"""
            mount --make-rshared /
            for name in passwd group subuid subgid; do
                mount --bind {files}/$name /etc/$name
            done
            mount -t cgroup2 none /sys/fs/cgroup || true  # crun refuses both hierarchies at once
            mount -t tmpfs -o mode=755 none {TOP}
            mkdir -p {config} {RUNTIME_DIR} {TEMPORARY_DIR} {TOP}/bin
            echo {shlex.quote(CONTAINERS_CONF)} > {config}/containers.conf
            echo {shlex.quote(STORAGE_CONF)} > {config}/storage.conf
            {install}
            {hide}
            chown -R {NAME}:{NAME} {HOME} {RUNTIME_DIR} {TEMPORARY_DIR}
            chmod 700 {RUNTIME_DIR}
        """

    def as_root(self, *argv: str) -> str:
        """Run `argv` as root on this machine; what it prints."""
        done = subprocess.run(
            [*self._enter, *argv], check=False, capture_output=True, text=True, cwd="/"
        )
        if done.returncode != 0:
            raise CommandError(f"{argv} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    # Runtimes

    def podman(self, *argv: str, **options: Any) -> str:
        """What `podman argv` prints; CommandError when it fails."""
        return str(self.run("podman", *argv, **options).stdout)

    def container(self, *options: str, command: str) -> str:
        """Run a shell command in a container that is removed afterwards; what it prints."""
        return self.podman("run", "--rm", *options, IMAGE, "sh", "-c", command)

    def start_web(self, *options: str, name: str = "web") -> None:
        """A web server in a container of that name."""
        self.podman("run", "-d", "--name", name, *options, IMAGE, *WEB_SERVER)

    def inspect(self, container: str, path: str) -> str:
        """One value of `podman inspect`."""
        return self.podman("inspect", "--format", f"{{{{{path}}}}}", container).strip()

    def clean(self) -> None:
        """Remove containers, pods and networks that a test has left."""
        self.podman("pod", "rm", "--all", "--force", "--time=0")
        self.podman("rm", "--all", "--force", "--time=0")
        self.podman("network", "prune", "--force")

    def daemons(self) -> list[int]:
        """The process ids of all daemons on this machine, as the test sees them."""
        search = ["pgrep", "--ns", self.init, "--nslist", "pid", "--full", "tap0$"]
        found = subprocess.run(search, check=False, capture_output=True, text=True)
        return [int(word) for word in found.stdout.split()]

    def await_daemons(self, count: int) -> list[int]:
        """Wait until there are so many daemons."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found := self.daemons()) != count:
            assert time.monotonic() < deadline, f"{len(found)} daemons, not {count}"
            time.sleep(0.05)
        return found


def child_of(pid: int) -> int:
    """The only child of a process: unshare(1) and nsenter(1) fork for a process namespace."""
    (child,) = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def fetch(space: Namespace, address: str, port: int = PORT) -> str:
    """The page, asked for until somebody serves it: a container is up before its program is."""
    url = f"http://{address}:{port}/"
    retry = ("--retry", "50", "--retry-delay", "0", "--retry-all-errors", "--max-time", "10")
    return space.run("curl", "-sS", *retry, url).stdout


def image() -> bytes:
    """An archive to import as an image: busybox and its names, nc, what libraries they need."""
    busybox, nc = (shutil.which(name) or name for name in ("busybox", "nc.openbsd"))
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    linked = subprocess.run(["ldd", busybox, nc], capture_output=True, text=True, check=False)
    libraries = {word for word in linked.stdout.split() if word.startswith("/lib")}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("bin", "etc", "tmp", "www"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(folder)
        for path in (busybox, nc):
            archive.add(pathlib.Path(path).resolve(), f"bin/{pathlib.Path(path).name}")
        for library in sorted(libraries):
            archive.add(pathlib.Path(library).resolve(), library.lstrip("/"))
        for applet in listed.stdout.split():
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
        for path, text in FILES.items():
            member = tarfile.TarInfo(path)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()
