"""The long form of tests/e2e/test_impaired.py: any link, any size, many rounds, against Linux.

    python3 tools/impair.py --loss 0.02 --reorder 0.02 --delay 0.005 --size-mib 64 --rounds 20
    python3 tools/impair.py --random --rounds 100

Run it with the Python that has pyslirp and its test dependencies (beside what `tools/dev.py path`
names), as root or where user namespaces are allowed. Each round prints its script, time and
counters; the first one that loses or changes an octet, or leaves a buffer behind, ends the run with
status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from lab.impaired import Script, stream_both_ways
from lab.topology import Topology
from slirp.tap import TUN_F_CSUM, TUN_F_TSO4

SHOWN = ("tcp_retransmits", "tcp_timeouts", "frames_from_guest", "frames_to_guest")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("loss", "duplicate", "reorder", "delay", "jitter"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--tso", action="store_true", help="frames of up to 64 KiB both ways")
    parser.add_argument("--random", action="store_true", help="another link in each round")
    parser.add_argument("--size-mib", type=float, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    return parser.parse_args()


def draw(chance: random.Random) -> Script:
    """A link of any kind; never so bad that a round takes minutes."""
    offload = chance.choice((0, TUN_F_CSUM | TUN_F_TSO4))
    return Script(
        loss=chance.choice((0, 0.001, 0.01, 0.05)),
        duplicate=chance.choice((0, 0.01, 0.1)),
        reorder=chance.choice((0, 0.01, 0.1)),
        delay=chance.choice((0, 0.001, 0.01)),
        jitter=chance.choice((0, 0.001, 0.01)),
        offload=offload,
        mtu=chance.choice((576, 1500, 9000, 65520)),
        seed=chance.randrange(1 << 30),
    )


def main() -> int:
    """Run the rounds; 0 when every octet of all arrived."""
    options = parse_arguments()
    chance = random.Random(options.seed)
    print(f"--seed {options.seed}")
    fixed = Script(
        options.loss, options.duplicate, options.reorder, options.delay, options.jitter,
        offload=TUN_F_CSUM | TUN_F_TSO4 if options.tso else 0, mtu=options.mtu,
    )  # fmt: skip
    with Topology() as bed:
        for number in range(options.rounds):
            script = draw(chance) if options.random else dataclasses.replace(fixed, seed=number + 1)
            started = time.monotonic()
            outcome = stream_both_ways(bed, script, int(options.size_mib * 1048576))
            counters = ", ".join(f"{name} {outcome.stats[name]}" for name in SHOWN)
            print(f"{number}: {script}: {time.monotonic() - started:.1f} s, {counters}", flush=True)
            if outcome.faults:
                print("\n".join(outcome.faults))
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
