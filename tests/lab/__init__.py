"""The laboratory: real namespaces, servers and daemons for the system tests and the benchmark.

    namespaces.py   a namespace held by a process, commands and sockets inside it
    topology.py     host, remote and guests, wired as the picture there shows
    machine.py      a user and his container runtimes on the topology's host
    daemons.py      pyslirp and its peers, started, watched and stopped
    servers.py      echo, source, sink and DNS servers whose sockets live in any namespace
    probe.py        the C client and server for request rates, built on first use

Nothing here has a name on the machine: namespaces live as long as the process that holds them, and
that process ends when its standard input does, so an aborted run leaves nothing behind.
"""
