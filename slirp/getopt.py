"""getopt_long(3) in a page: what users of a C program expect of its command line.

Short options bundle (`-cr3`), long ones may be abbreviated while unambiguous (`--mt 1400`) and take
their value after `=` or as the next word, options and operands mix freely, `--` ends the options.
The standard library's parsers cost 5 to 15 ms of import, which is a sizeable part of our time to
ready.
"""

from __future__ import annotations

from slirp.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from slirp.config import Config


class Option:
    """One row of the option table.

    long, short: the names without dashes; short may be "".
    metavar:     name of the value, "" for an option without one.
    help:        one line for --help; "" hides an old spelling.
    apply:       stores the value (the empty string when there is none) in the Config.
    ours:        slirp4netns does not have it: it takes no abbreviation away from what that has.
    """

    __slots__ = ("apply", "help", "long", "metavar", "ours", "short")

    def __init__(
        self,
        long: str,
        short: str,
        metavar: str,
        help_line: str,
        apply: Callable[[Config, str], None],
        *,
        ours: bool = False,
    ) -> None:
        self.long = long
        self.short = short
        self.metavar = metavar
        self.help = help_line
        self.apply = apply
        self.ours = ours

    def __str__(self) -> str:
        """The option as --help shows it: "-m, --mtu=MTU"."""
        return (
            (f"-{self.short}, " if self.short else "")
            + f"--{self.long}"
            + (f"={self.metavar}" if self.metavar else "")
        )


def scan(
    words: Sequence[str], table: Sequence[Option], *, until_operand: bool
) -> Iterator[tuple[Option | None, str]]:
    """Yield (option, value) in order, and (None, word) for each operand.

    until_operand: the first operand ends the options, as for programs that start another program.
    Raises UsageError in getopt's words.
    """
    rest = iter(words)
    for word in rest:
        if word == "--":
            break
        if word.startswith("--"):
            yield _long(word[2:], table, rest)
        elif word.startswith("-") and word != "-":
            yield from _bundle(word[1:], table, rest)
        else:
            yield None, word
            if until_operand:
                break
    for word in rest:
        yield None, word


def _long(word: str, table: Sequence[Option], rest: Iterator[str]) -> tuple[Option, str]:
    name, equals, value = word.partition("=")
    candidates = [option for option in table if option.long.startswith(name)]
    if len(candidates) > 1:
        candidates = [o for o in candidates if not o.ours or o.long == name] or candidates
    exact = [option for option in candidates if option.long == name]
    if not candidates:
        raise UsageError(f"unrecognized option '--{name}'")
    if not exact and len(candidates) > 1:
        names = " ".join(f"'--{option.long}'" for option in candidates if option.help)
        raise UsageError(f"option '--{name}' is ambiguous; possibilities: {names}")
    option = (exact or candidates)[0]
    if not option.metavar:
        if equals:
            raise UsageError(f"option '--{option.long}' doesn't allow an argument")
        return option, ""
    if equals:
        return option, value
    following = next(rest, None)
    if following is None:
        raise UsageError(f"option '--{option.long}' requires an argument")
    return option, following


def _bundle(
    letters: str, table: Sequence[Option], rest: Iterator[str]
) -> Iterator[tuple[Option, str]]:
    for position, letter in enumerate(letters, start=1):
        option = next((o for o in table if o.short == letter), None)
        if option is None:
            raise UsageError(f"invalid option -- '{letter}'")
        if not option.metavar:
            yield option, ""
            continue
        value = letters[position:] or next(rest, None)
        if value is None:
            raise UsageError(f"option requires an argument -- '{letter}'")
        yield option, value
        return
