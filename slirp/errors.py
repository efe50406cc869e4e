"""What can go wrong for a user, who reads the message, in one line. A traceback is a bug."""


class SlirpError(Exception):
    """Something outside us refused; the message says what, in one line. Exit status 1."""


class UsageError(SlirpError):
    """The command line makes no sense; the usage text is shown as well."""


def reason(error: OSError) -> str:
    """`error` as perror(3) words it: "No such file or directory"."""
    return error.strerror or str(error)
