"""Our TCP against Linux's own, over links that lose, delay, reorder and duplicate.

Both byte streams of a connection run at once and must arrive intact; afterwards nothing is left.
The long form, with any script and size, is tools/impair.py.
"""

from __future__ import annotations

import pytest

from lab.impaired import Script, stream_both_ways
from lab.topology import Topology
from slirp.tap import TUN_F_CSUM, TUN_F_TSO4

SIZE = 4 << 20
TSO = TUN_F_CSUM | TUN_F_TSO4

SCRIPTS = {
    "clean": Script(),
    "loss 1 %": Script(loss=0.01),
    "loss 5 %": Script(loss=0.05),
    "loss 20 %, little": Script(loss=0.2),
    "reordering": Script(reorder=0.05, delay=0.001),
    "duplicates": Script(duplicate=0.05),
    "slow link": Script(delay=0.02, jitter=0.005),
    "all of it": Script(loss=0.02, duplicate=0.01, reorder=0.02, delay=0.003, jitter=0.002),
    "all of it, TSO": Script(
        loss=0.02, duplicate=0.01, reorder=0.02, delay=0.003, jitter=0.002, offload=TSO
    ),
    "TSO at 65520, loss": Script(loss=0.02, offload=TSO, mtu=65520),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_streams_survive(bed: Topology, name: str) -> None:
    """Both streams arrive whole, both sides close, and no buffer stays."""
    script = SCRIPTS[name]
    outcome = stream_both_ways(bed, script, SIZE if script.loss < 0.1 else SIZE // 64)
    assert outcome.faults == []
    if not script.loss and not script.reorder:
        assert outcome.stats["tcp_retransmits"] == 0
