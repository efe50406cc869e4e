"""A second wire between host and remote, with a delay (wire.c), since not every kernel has netem.

Everything that is sent to `remote` crosses it, and no more is needed: the guests and daemons of a
topology stay as they are, and choose the wire with the address they connect to. It costs CPU time
that veth does not, and carries 5 to 10 Gbit/s on two cores that it shares with all others.
"""

from __future__ import annotations

import pathlib
import subprocess

from lab.namespaces import CommandError
from lab.probe import compiled
from lab.topology import Topology

SOURCE = pathlib.Path(__file__).with_name("wire.c")
NUMBERS = range(1, 255)


class DelayedWire:
    """A wire with a round-trip time of `rtt_ms`, half of it each way; close it after use.

    `remote` are the remote's addresses on it, by family (4 and 6).
    """

    def __init__(self, bed: Topology, rtt_ms: int) -> None:
        if rtt_ms not in NUMBERS:
            raise ValueError(f"a round-trip time lies between 1 and 254 ms, not {rtt_ms}")
        name = f"far{rtt_ms}"
        net4, net6 = f"198.18.{rtt_ms}", f"2001:db8:18:{rtt_ms}:"
        self.remote = {4: f"{net4}.2", 6: f"{net6}:2"}
        argv = [compiled(bed, SOURCE), str(bed.host.pid), str(bed.remote.pid), name]
        # In the host's mount namespace the device node is where everybody may open it.
        self.process = subprocess.Popen(
            [*bed.host.enter, *argv, str(rtt_ms * 500)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            self.close()
            raise CommandError("the delayed wire did not come up")
        for number, space in enumerate((bed.host, bed.remote), 1):
            commands = f"""
                addr add {net4}.{number}/24 dev {name}
                addr add {net6}:{number}/64 dev {name} nodad
                link set {name} up
            """
            space.run("ip", "-batch", "-", input=commands)

    def close(self) -> None:
        """Take it away again."""
        self.process.kill()
        self.process.communicate()
