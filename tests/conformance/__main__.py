"""The table: python -m conformance [--peer NAME]… [--only WORD] [-v], with tests/ in PYTHONPATH.

Without --peer all that are installed take part. The status is 1 when pyslirp fails a case.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import sys
import time

from conformance.net import PEERS
from conformance.suite import FAIL, Result, load, run


def main() -> int:
    """Run, and print."""
    parser = argparse.ArgumentParser(prog="conform", description=__doc__)
    parser.add_argument("--peer", action="append", choices=PEERS)
    parser.add_argument("--only", action="append", help="a word in the name, group or clause")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("-v", "--verbose", action="store_true", help="the frames of what failed")
    options = parser.parse_args()
    needs = {"pyslirp": "sh", "slirp4netns": "slirp4netns", "kernel": "nft"}
    peers = options.peer or [peer for peer in PEERS if shutil.which(needs[peer])]
    cases = [item for item in load() if any(word in str(item) for word in options.only or [""])]
    table: dict[str, dict[str, Result]] = {}
    for peer in peers:
        started = time.monotonic()
        table[peer] = run(peer, cases, options.workers)
        print(f"{peer}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    group = ""
    print(f"{'':66}" + "".join(f"{peer:>13}" for peer in peers))
    for item in cases:
        if item.group != group:
            group = item.group
            print(f"\n{group}")
        marks = "".join(f"{table[peer][item.name].outcome:>13}" for peer in peers)
        print(f"  {item.name[:44]:44} {item.clause[:18]:18} {marks}")
    for peer in peers:
        report(peer, list(table[peer].values()), options.verbose)
    return int(any(result.outcome == FAIL for result in table[peers[0]].values()))


def report(peer: str, results: list[Result], verbose: bool) -> None:
    """The sums, and why cases failed."""
    sums = collections.Counter(result.outcome for result in results)
    print(f"\n{peer}: {dict(sums)}")
    for result in results:
        if result.outcome == FAIL:
            print(f"  {result.case.name} [{result.seconds:.1f} s]: {result.reason}")
            if verbose:
                print("".join(f"      {line[:200]}\n" for line in result.story[-30:]))


if __name__ == "__main__":
    sys.exit(main())
