"""Where the project is built and tested: Debian packages, a venv, and builds of several profiles.

Everything is made from nothing and renewed only when what it is made of has changed. An ordinary
user gets `.venv` and `build/` in the tree. Root gets a place below /var/cache that everybody can
read, one for each checkout, because the tests run the daemon as an ordinary user, who may be able
to read neither the checkout nor root's own Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
AS_ROOT = os.geteuid() == 0
MIN_PYTHON = (3, 11)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What must be there, by purpose: what is looked for, and the Debian package that brings it.
BUILD_PACKAGES = {
    "gcc": "gcc",
    "stdio.h": "libc6-dev",
    "Python.h": "python3-dev",
    "ensurepip": "python3-venv",
}
RUN_PACKAGES = {"ip": "iproute2", "ping": "iputils-ping"}
TEST_PACKAGES = {
    "nsenter": "util-linux",
    "mount": "mount",
    "dig": "bind9-dnsutils",
    "curl": "curl",
    "nc.openbsd": "netcat-openbsd",
    "nft": "nftables",
    "udhcpc": "udhcpc",
    "dhclient": "isc-dhcp-client",
    "traceroute": "traceroute",
}
# None of these starts a service when it is installed.
APPLICATION_PACKAGES = {
    "openssl": "openssl",
    "nghttpd": "nghttp2-server",
    "h2load": "nghttp2-client",
    "git": "git",
    "ssh": "openssh-client",
    "dropbear": "dropbear-bin",
    "rsync": "rsync",
    "redis-benchmark": "redis-tools",
    "iperf3": "iperf3",
}
RUNTIME_PACKAGES = {
    "podman": "podman",
    "crun": "crun",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
    "iptables": "iptables",
    "newuidmap": "uidmap",
    "buildah": "buildah",
    "rootlesskit": "rootlesskit",
    "catatonit": "catatonit",
    "busybox": "busybox",
    "pgrep": "procps",
}
COST_PACKAGES = {"valgrind": "valgrind"}
FUZZ_PACKAGES = {
    "clang": "clang",
    "libclang_rt.fuzzer": "libclang-rt-dev",
    "llvm-symbolizer": "llvm",
    "libpython.so": "libpython3-dev",
}
BENCH_PACKAGES = {"iperf3": "iperf3", "slirp4netns": "slirp4netns", "pasta": "passt"}

# Trees that make the extension; everything else can change without a build.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "slirp", "ext")
SOURCE_SUFFIXES = {".toml", ".md", ".in", "", ".py", ".pyi", ".typed", ".pyx", ".pxd", ".h"}
SETUP = "import setuptools; setuptools.setup()"


@dataclasses.dataclass(frozen=True)
class Profile:
    """One way to compile the data plane."""

    name: str
    cflags: str
    ldflags: str = ""
    compiler: str = ""  # another than Python's own


RELEASE = Profile("release", "-O2 -g1")
SANITIZED = Profile(
    "asan",
    "-O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined"
    " -DPYSLIRP_DEBUG",  # a change of state that RFC 9293 does not draw aborts
    "-fsanitize=address,undefined",
)
# For libFuzzer, whose program (tests/fuzz/driver.c) brings the sanitizers' runtime.
FUZZED = Profile("fuzz", f"{SANITIZED.cflags} -fsanitize=fuzzer-no-link", compiler="clang")


class StepError(Exception):
    """A step did not work; the text is what the user reads."""


def say(text: str) -> None:
    """A line of progress."""
    print(f"== {text}", flush=True)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    quiet: bool = False,
    cwd: pathlib.Path = ROOT,
) -> None:
    """Run a command; StepError with the command (and what it said, when `quiet`) if it fails."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        check=False,
        text=True,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if done.returncode:
        output = f"\n{done.stdout}" if done.stdout else ""
        raise StepError(f"status {done.returncode} of: {shlex.join(argv)}{output}")


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and how long it took."""
    say(f"{title} …")
    started = time.monotonic()
    yield
    say(f"{title}: {time.monotonic() - started:.1f} s")


# Debian packages


def base_python() -> str:
    """The interpreter of the venv: root's must be one that an ordinary user can reach."""
    return "/usr/bin/python3" if AS_ROOT and os.path.exists("/usr/bin/python3") else sys.executable


def has(what: str) -> bool:
    """Whether a command, header or module is there."""
    if what == "stdio.h":
        return os.path.exists("/usr/include/stdio.h")
    if what == "Python.h":
        code = "import sysconfig, os, sys; p = sysconfig.get_path('include')"
        code += "; sys.exit(not os.path.exists(os.path.join(p, 'Python.h')))"
    elif what == "libpython.so":
        code = "import sysconfig, os, sys; get = sysconfig.get_config_var"
        code += "; sys.exit(not os.path.exists(os.path.join(get('LIBDIR'), get('LDLIBRARY'))))"
    elif what == "libclang_rt.fuzzer":
        return shutil.which("clang") is not None and os.path.exists(clang_file("fuzzer"))
    elif what == "ensurepip":
        code = "import ensurepip, venv"
    else:
        return shutil.which(what) is not None
    return subprocess.run([base_python(), "-c", code], capture_output=True).returncode == 0


def clang_file(library: str) -> str:
    """Where clang expects a library of its runtime."""
    name = f"libclang_rt.{library}-{os.uname().machine}.a"
    asked = ["clang", f"-print-file-name={name}"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def ensure_packages(*tables: Mapping[str, str], optional: bool = False) -> None:
    """Install what is missing as root; otherwise say what is, and how to get it.

    With `optional` a missing package is told of, and is no failure.
    """
    missing = sorted({pkg for table in tables for what, pkg in table.items() if not has(what)})
    if not missing:
        return
    names = " ".join(missing)
    if AS_ROOT and shutil.which("apt-get"):
        with step(f"Debian packages: {names}"):
            env = {"DEBIAN_FRONTEND": "noninteractive"}
            with contextlib.suppress(StepError):  # old lists may still know what we need
                run(["apt-get", "update", "-q"], env=env, quiet=True)
            install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
            try:
                run(install, env=env, quiet=True)
            except StepError:
                if not optional:
                    raise
                say(f"not to be had: {names}")
    elif optional:
        say(f"without {names} (sudo apt-get install {names})")
    else:
        raise StepError(f"missing: {names}. Type: sudo apt-get install -y {names}")


# The workshop


class Workshop:
    """The venv and the builds of one checkout."""

    def __init__(self) -> None:
        if sys.version_info < MIN_PYTHON:
            raise StepError(f"Python {'.'.join(map(str, MIN_PYTHON))} or newer is needed")
        os.umask(0o022)  # whatever root's is, others must be able to read what we make
        key = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
        if AS_ROOT:
            self.home = pathlib.Path("/var/cache/pyslirp-dev", f"{ROOT.name}-{key}")
            self.venv = self.home / "venv"
        elif os.access(ROOT, os.W_OK):
            self.home = ROOT / "build" / "dev"
            self.venv = ROOT / ".venv"
        else:
            cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
            self.home = pathlib.Path(cache, "pyslirp-dev", f"{ROOT.name}-{key}")
            self.venv = self.home / "venv"
        self.home.mkdir(parents=True, exist_ok=True)
        self.python = str(self.venv / "bin" / "python")
        self.pyslirp = str(self.venv / "bin" / "pyslirp")
        self._project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        self._lock = (self.home / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # two calls at once would trip over each other

    def tool(self, name: str) -> str:
        """The path of a program of the venv."""
        return str(self.venv / "bin" / name)

    def release_lock(self) -> None:
        """Let others in: the preparation is over."""
        self._lock.close()

    # The venv

    def requirements(self, *groups: str) -> list[str]:
        """What pip must install: to build, to run, and for the dependency groups named."""
        wanted = [*self._project["build-system"]["requires"]]
        wanted += self._project["project"]["dependencies"]
        for group in groups:
            wanted += self._group(group)
        return sorted(set(wanted))

    def _group(self, name: str) -> list[str]:
        expanded: list[str] = []
        for entry in self._project["dependency-groups"][name]:
            included = entry.get("include-group") if isinstance(entry, dict) else None
            expanded += self._group(included) if included else [entry]
        return expanded

    def ensure_venv(self, *groups: str) -> None:
        """Make the venv and install what is required; quick when nothing has changed."""
        base = base_python()
        version = subprocess.run([base, "-VV"], capture_output=True, text=True, check=True).stdout
        if not self._is_stamped("venv", version) or not os.path.exists(self.python):
            with step(f"venv {self.venv}"):
                shutil.rmtree(self.venv, ignore_errors=True)
                run([base, "-m", "venv", str(self.venv)])
                self._stamp("venv", version)
        wanted = self.requirements(*groups)
        stamp = f"packages-{'-'.join(groups) or 'run'}"
        if not self._is_stamped(stamp, version, *wanted, str(self.venv.stat().st_ino)):
            with step(f"Python packages {', '.join(('to run', *groups))}"):
                run([self.python, "-m", "pip", "install", "-q", "--no-input", *wanted], quiet=True)
                self._stamp(stamp, version, *wanted, str(self.venv.stat().st_ino))

    # Builds

    def build(self, profile: Profile) -> pathlib.Path | None:
        """Compile a profile in a tree of its own; that tree, or None when nothing has changed."""
        tree = self.home / profile.name / "src"
        compiler = subprocess.run(
            [self.python, "-c", "import Cython, sys; print(Cython.__version__, sys.version)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        made_with = (profile.cflags, profile.ldflags, compiler)
        sources = stage(tree)
        if self._is_stamped(profile.name, *made_with, *sources):
            return None
        if not self._is_stamped(f"{profile.name}-flags", *made_with):
            shutil.rmtree(tree, ignore_errors=True)  # objects know nothing of flags
            stage(tree)
            self._stamp(f"{profile.name}-flags", *made_with)
        with step(f"build {profile.name} ({profile.cflags})"):
            env = {"CFLAGS": profile.cflags, "LDFLAGS": profile.ldflags}
            env |= {"CC": profile.compiler} if profile.compiler else {}
            jobs = str(os.cpu_count() or 1)
            run([self.python, "-c", SETUP, "build", "-j", jobs], env=env, quiet=True, cwd=tree)
            if profile is RELEASE:
                pip = [self.python, "-m", "pip", "install", "-q", "--no-deps", "--no-input"]
                run([*pip, "--no-build-isolation", "."], env=env, quiet=True, cwd=tree)
        self._stamp(profile.name, *made_with, *sources)
        return tree

    def translate(self) -> None:
        """Generate the C of every module, for inspection; warnings and performance hints fail.

        Of -Wextra only what finds mistakes: it also counts unused loop counters as unused entries.
        """
        tree = self.home / "lint"
        sources = stage(tree)
        if self._is_stamped("lint", *sources):
            return
        modules = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.pyx"))
        cython = [self.tool("cython"), "-Werror", "-X", "warn.unreachable=True", *modules]
        done = subprocess.run(cython, cwd=tree, capture_output=True, text=True, check=False)
        if done.returncode or "performance hint" in done.stderr:
            raise StepError(f"status {done.returncode} of: {shlex.join(cython)}\n{done.stderr}")
        self._stamp("lint", *sources)

    def library(self, profile: Profile) -> pathlib.Path:
        """The importable directory of a profile that has been built."""
        build = self.home / profile.name / "src" / "build"
        return next(path for path in build.iterdir() if path.name.startswith("lib"))

    def fuzzer(self) -> pathlib.Path:
        """libFuzzer's program for the build of FUZZED; it embeds the venv's Python."""
        program = self.home / FUZZED.name / "fuzzer"
        source = ROOT / "tests" / "fuzz" / "driver.c"
        if not self._is_stamped("fuzzer", source.read_text(), FUZZED.cflags):
            code = "import sysconfig as s; g = s.get_config_var; print(s.get_path('include'),"
            code += " g('LIBDIR'), 'python' + g('LDVERSION'))"
            asked = [self.python, "-c", code]
            include, libdir, library = subprocess.run(
                asked, capture_output=True, text=True, check=True
            ).stdout.split()
            flags = [*FUZZED.cflags.replace("fuzzer-no-link", "fuzzer").split(), "-rdynamic"]
            link = [f"-L{libdir}", f"-Wl,-rpath,{libdir}", f"-l{library}"]
            run(["clang", *flags, f"-I{include}", str(source), "-o", str(program), *link])
            self._stamp("fuzzer", source.read_text(), FUZZED.cflags)
        return program

    # Stamps: what something was made of

    def _is_stamped(self, name: str, *facts: str) -> bool:
        path = self.home / f"{name}.stamp"
        return path.exists() and path.read_text() == _digest(facts)

    def _stamp(self, name: str, *facts: str) -> None:
        (self.home / f"{name}.stamp").write_text(_digest(facts))


def stage(tree: pathlib.Path) -> list[str]:
    """Copy the sources into `tree`, where unchanged files keep their times; a digest of each."""
    wanted: dict[pathlib.Path, bytes] = {}
    for top in (ROOT / name for name in SOURCES):
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.suffix in SOURCE_SUFFIXES:
                wanted[path.relative_to(ROOT)] = path.read_bytes()
    for relative, content in wanted.items():
        copy = tree / relative
        if not copy.exists() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    for folder in ("slirp", "ext"):
        for path in (tree / folder).rglob("*"):
            known = path.suffix not in SOURCE_SUFFIXES or path.relative_to(tree) in wanted
            if path.is_file() and not known:
                path.unlink()
    return [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in wanted.items()]


def _digest(facts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()
