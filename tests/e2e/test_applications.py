"""Real programs in the guest, real servers in the remote: what people run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import pwd
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from lab.daemons import Slirp
from lab.namespaces import Namespace, owns_all_ids
from lab.servers import DnsServer, blocks, digest_of
from lab.topology import HOST, REMOTE, REMOTE6, Guest, Topology

Attach = Callable[..., Slirp]
BULK_BYTES = 32 << 20
START_SECONDS = 10.0
CONNECTIONS = 5000


@pytest.fixture
def net(attach: Attach) -> Slirp:
    """A guest with the MTU that runtimes ask for."""
    return attach("--mtu=65520", api=True)


@pytest.fixture
def files(bed: Topology) -> Iterator[pathlib.Path]:
    """A directory that guest and remote may write to."""
    path = bed.workdir / "files"
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def running(space: Namespace, port: int, *argv: str) -> Iterator[None]:
    """A server program in `space`, for the time of the block, once its TCP port is open."""
    output = subprocess.DEVNULL
    server = space.popen(*argv, stdin=output, stdout=output, stderr=output)
    deadline = time.monotonic() + START_SECONDS
    try:
        # Asked of the kernel: a connection to see whether it works is one that iperf3 serves.
        while not space.run("ss", "-Hltn", f"sport = :{port}").stdout:
            assert server.poll() is None, f"{argv[0]} ended with {server.returncode}"
            assert time.monotonic() < deadline, f"{argv[0]} does not open port {port}"
            time.sleep(0.02)
        yield
    finally:
        server.kill()
        server.wait()


def write_content(path: pathlib.Path, size: int = BULK_BYTES) -> pathlib.Path:
    """A file with the content of `size`."""
    with path.open("wb") as file:
        file.writelines(blocks(size))
    path.chmod(0o644)
    return path


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shell(guest: Guest, script: str, home: pathlib.Path) -> str:
    """What a script in the guest prints, with a home that it may use."""
    return guest.run("env", f"HOME={home}", "sh", "-e", "-c", script).stdout


# HTTP/2 and TLS


@pytest.fixture
def https(bed: Topology, dns: DnsServer, files: pathlib.Path) -> Iterator[str]:
    """The address of a server that speaks HTTP/2 over TLS, whose certificate is files/cert."""
    make = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    names = ("-subj", "/CN=remote.test", "-addext", "subjectAltName=DNS:remote.test")
    key, cert = str(files / "key"), str(files / "cert")
    subprocess.run(
        [*make, *names, "-keyout", key, "-out", cert], check=True, capture_output=True, cwd="/"
    )
    write_content(files / "bulk")
    serve = ("nghttpd", f"--address={REMOTE}", f"--htdocs={files}", "--echo-upload")
    with running(bed.remote, 8443, *serve, "8443", key, cert):
        yield "https://remote.test:8443"


def test_curl_with_http_2_and_tls(
    bed: Topology, net: Slirp, https: str, files: pathlib.Path
) -> None:
    net.guest.use_resolver("10.0.2.3", bed.workdir)
    curl = f"curl -sS --http2 --cacert {files}/cert"
    script = f"""
        {curl} -w '%{{stderr}}%{{http_version}} %{{ssl_verify_result}} ' {https}/bulk | sha256sum
        {curl} --data-binary @{files}/bulk {https}/echo | sha256sum
    """
    done = net.guest.run("sh", "-e", "-c", script)
    assert done.stderr == "2 0 "
    assert done.stdout == f"{digest_of(BULK_BYTES)}  -\n" * 2


def test_many_streams_of_http_2(bed: Topology, net: Slirp, https: str, files: pathlib.Path) -> None:
    write_content(files / "small", 10_000)
    net.guest.use_resolver("10.0.2.3", bed.workdir)
    load = ("h2load", "--requests=5000", "--clients=20", "--max-concurrent-streams=10")
    shown = net.guest.run(*load, f"{https}/small").stdout
    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in shown


# git, ssh, rsync


def test_git_clone_and_push(bed: Topology, net: Slirp, files: pathlib.Path) -> None:
    git = "git -c user.name=tester -c user.email=tester@example.test -c safe.directory=*"
    write_content(files / "bulk")
    make = f"""
        git init -q --bare {files}/served.git
        git init -q {files}/made
        cd {files}/made
        cp {files}/bulk .
        for count in $(seq 200); do echo $count > file-$count; done
        {git} add .
        {git} commit -q -m first
        {git} push -q {files}/served.git HEAD:main
        chmod -R a+rX {files}/served.git
    """
    subprocess.run(["env", f"HOME={files}", "sh", "-e", "-c", make], check=True, cwd="/")
    served = subprocess.run(["git", "--exec-path"], check=True, capture_output=True, text=True)
    daemon = f"{served.stdout.strip()}/git-daemon"
    options = ["--export-all", "--enable=receive-pack", f"--base-path={files}", "--reuseaddr"]
    options += [f"--listen={REMOTE}", "--port=9418"]
    with running(bed.remote, 9418, "env", f"HOME={files}", daemon, *options):
        script = f"""
            git clone -q -b main git://{REMOTE}/served.git {files}/cloned
            cd {files}/cloned
            git fsck --strict 2>&1
            date > new
            {git} add new
            {git} commit -q -m second
            git push -q origin HEAD:main
            git ls-remote origin main
            git rev-parse HEAD
        """
        pushed = shell(net.guest, script, files).split()
    assert digest(files / "cloned" / "bulk") == digest_of(BULK_BYTES)
    assert pushed[0] == pushed[-1]


@pytest.fixture
def ssh(bed: Topology, net: Slirp, files: pathlib.Path) -> Iterator[str]:
    """The command that logs in at a server in the remote."""
    if not owns_all_ids():
        pytest.skip("a server that logs users in wants groups, which one mapped id does not have")
    make = f"""
        ssh-keygen -q -t ed25519 -N '' -f {files}/id
        chmod a+r {files}/id.pub
    """
    shell(net.guest, make, files)
    home = pwd.getpwuid(0).pw_dir
    # Nobody's real home: it is hidden where the server runs.
    serve = f"""
        mount -t tmpfs -o mode=700 none {home}
        mkdir -m 700 {home}/.ssh
        cp {files}/id.pub {home}/.ssh/authorized_keys
        dropbearkey -t ed25519 -f {files}/hostkey | grep ^ssh- > {files}/hostkey.pub
        exec dropbear -F -E -s -p {REMOTE}:2222 -r {files}/hostkey
    """
    with running(bed.remote, 2222, "unshare", "--mount", "sh", "-e", "-c", serve):
        kind, key, *_ = (files / "hostkey.pub").read_text().split()
        (files / "known").write_text(f"[{REMOTE}]:2222 {kind} {key}\n")
        yield f"ssh -F none -i {files}/id -o UserKnownHostsFile={files}/known -p 2222"


def test_ssh(net: Slirp, ssh: str, files: pathlib.Path) -> None:
    write_content(files / "bulk")
    script = f"""
        {ssh} root@{REMOTE} sha256sum < {files}/bulk
        {ssh} root@{REMOTE} cat {files}/bulk | sha256sum
        {ssh} -tt root@{REMOTE} 'echo from a terminal; exit 3' || echo status $?
    """
    shown = shell(net.guest, script, files).replace("\r", "").splitlines()
    assert shown[:2] == [f"{digest_of(BULK_BYTES)}  -"] * 2
    assert shown[2:] == ["from a terminal", "status 3"]


def test_rsync_over_ssh(net: Slirp, ssh: str, files: pathlib.Path) -> None:
    tree = files / "tree"
    tree.mkdir()
    for count in range(200):
        write_content(tree / f"file-{count}", count * 1000)
    script = f"""
        rsync -rt -e '{ssh}' {tree}/ root@{REMOTE}:{files}/there/
        rsync -rt -e '{ssh}' root@{REMOTE}:{files}/there/ {files}/back/
        diff -r {tree} {files}/back && echo same
        rsync -rt --itemize-changes -e '{ssh}' {tree}/ root@{REMOTE}:{files}/there/
    """
    assert shell(net.guest, script, files) == "same\n"


# Redis


@pytest.fixture
def redis(bed: Topology, files: pathlib.Path) -> Iterator[str]:
    """The words by which clients name a server in the remote."""
    # One program with two names: Debian's package of tools has it under the other one.
    program = files / "redis-server"
    program.symlink_to(shutil.which("redis-check-rdb") or "/usr/bin/redis-check-rdb")
    options = ("--bind", REMOTE, "--port", "6379", "--save", "", "--dir", str(files))
    with running(bed.remote, 6379, str(program), *options, "--protected-mode", "no"):
        yield f"-h {REMOTE} -p 6379"


@pytest.mark.parametrize("pipelined", [1, 16])
def test_redis_benchmark(net: Slirp, redis: str, files: pathlib.Path, pipelined: int) -> None:
    bench = f"redis-benchmark {redis} -n 20000 -c 50 -P {pipelined} -d 512 -q"
    script = f"""
        {bench} -t set,get,incr,lpush,lrange_100
        redis-cli {redis} info stats
    """
    shown = shell(net.guest, script, files)
    assert shown.count("requests per second") == 6
    assert "total_error_replies:0" in shown
    assert "rejected_connections:0" in shown


def test_redis_with_a_large_value(net: Slirp, redis: str, files: pathlib.Path) -> None:
    write_content(files / "bulk")
    script = f"""
        redis-cli {redis} -x set large < {files}/bulk
        redis-cli {redis} --raw get large | head -c {BULK_BYTES} | sha256sum
    """
    assert shell(net.guest, script, files) == f"OK\n{digest_of(BULK_BYTES)}  -\n"


# iperf3


@pytest.mark.parametrize(
    "options",
    [
        ("--parallel=8",),
        ("--parallel=8", "--reverse"),
        ("--bidir",),
        ("--zerocopy", "--set-mss=1000"),
        ("--udp", "--bitrate=20M", "--length=1400"),
        ("--udp", "--bitrate=20M", "--length=1400", "--reverse"),
    ],
    ids=" ".join,
)
def test_iperf3(bed: Topology, net: Slirp, options: tuple[str, ...]) -> None:
    with running(bed.remote, 5201, "iperf3", "--server", "--bind", REMOTE):
        run = ("iperf3", "--client", REMOTE, "--time=2", "--json", *options)
        report = json.loads(net.guest.run(*run).stdout)
    assert "error" not in report
    streams = report["end"]["streams"]
    assert len(streams) == (8 if "--parallel=8" in options else 2 if "--bidir" in options else 1)
    for stream in streams:
        if "udp" in stream:
            assert stream["udp"]["packets"] > 1000
            assert stream["udp"]["lost_percent"] < 50
        else:
            assert stream["receiver"]["bytes"] > 0


@pytest.mark.parametrize("options", [(), ("--reverse",)], ids=["up", "down"])
@pytest.mark.beyond
def test_iperf3_over_ipv6_at_the_speed_of_ipv4(
    bed: Topology, attach: Attach, options: tuple[str, ...]
) -> None:
    """It is the same code but for 20 bytes; half is allowed to a machine with other work."""
    net = attach("--mtu=65520", "-6")
    speeds: dict[str, list[float]] = {REMOTE: [], REMOTE6: []}
    with running(bed.remote, 5201, "iperf3", "--server"):
        for address in (REMOTE, REMOTE6) * 2:
            run = ("iperf3", "--client", address, "--time=1", "--json", *options)
            report = json.loads(net.guest.run(*run).stdout)
            assert "error" not in report
            speeds[address].append(report["end"]["sum_received"]["bits_per_second"])
    assert max(speeds[REMOTE6]) > max(speeds[REMOTE]) / 2, speeds


# Many connections


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of each connection are ours."""
    soft, hard = limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 3 * CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), max(hard, enough)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.parametrize("way", ["out", "in"])
def test_5000_connections_at_once(
    bed: Topology, many_files: None, attach: Attach, way: str
) -> None:
    net = attach("--mtu=65520", api=True)
    with contextlib.ExitStack() as stack:
        client_side: Namespace = net.guest if way == "out" else bed.remote
        server_side: Namespace = bed.remote if way == "out" else net.guest
        listener = server_side.listen()
        port, target = listener.getsockname()[1], REMOTE
        if way == "in":
            target = HOST
            net.forward("tcp", port, port)
        stack.enter_context(listener)
        pairs = []
        for _ in range(CONNECTIONS):
            client = stack.enter_context(client_side.connect(target, port))
            server = stack.enter_context(listener.accept()[0])
            pairs.append((client, server))
        for number, (client, _) in enumerate(pairs):
            client.sendall(b"%d" % number)
        for number, (_, server) in enumerate(pairs):
            assert server.recv(100) == b"%d" % number
            server.sendall(b"answer to %d" % number)
        for number, (client, _) in enumerate(pairs):
            assert client.recv(100) == b"answer to %d" % number
        assert len(list(pathlib.Path(f"/proc/{net.pid}/fd").iterdir())) > CONNECTIONS
    deadline = time.monotonic() + 30
    while len(list(pathlib.Path(f"/proc/{net.pid}/fd").iterdir())) > 100:
        assert time.monotonic() < deadline, "closed connections keep their descriptors"
        time.sleep(0.1)
