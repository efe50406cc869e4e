"""The data plane, as compiled from ext/slirp/core (its __init__.pxd is the map).

The daemon drives `engine.Engine`; tests drive `stack.Stack` over `hostfake.FakeHost`. Beside the
extension modules only their stubs live here. Nothing is imported on the way: start-up pays for what
it uses.
"""
