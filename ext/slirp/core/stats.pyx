# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Names for the counters: Python's view of `Stats`."""

if <int>DROP_COUNT > 96 or <int>CTR_COUNT > 64:
    raise ImportError("struct Stats has fewer places than there are names")


cdef dict stats_as_dict(const Stats *stats):
    """All counters by name; drops as drop_<why>."""
    cdef dict out = {}
    for counter in Counter:
        if counter.name != "CTR_COUNT":
            out[counter.name[4:].lower()] = stats.counters[<int>counter.value]
    for drop in Drop:
        if drop.name not in ("DROP_NONE", "DROP_COUNT"):
            out[drop.name.lower()] = stats.drops[<int>drop.value]
    return out
