#!/usr/bin/env python3
"""All that one types in this tree. On a fresh Debian 12 with Python and gcc:

    python3 tools/dev.py run [OPTION… [-- COMMAND…]]
        set up, build, and run a command in a network of its own (none: a demonstration)
    python3 tools/dev.py test
        set up, build, and pass everything that CI asks for

and the parts of these:

    build   compile and install into the venv        lint    style, types, layers, hot path
    unit    tests that need no privileges            asan    the same on a sanitizer build
    cost    instructions of the core, as expected    e2e     system tests in real namespaces
    bench   side by side with its peers              all     test, then a quick bench
    fuzz    [stack|api] [merge] [SECONDS]: more      path    where the built program is

    conform [--peer NAME] [--only WORD]: the table of tests/conformance, beside the peers

Words after unit, asan, cost, e2e and bench go to pytest or to bench/run.py. Missing Debian packages
are installed when run as root, and named with the command to type otherwise.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence

import workshop
from workshop import AS_ROOT, FUZZED, RELEASE, ROOT, SANITIZED, StepError, Workshop, run, say, step

TESTED = ("tests/unit", "tests/protocol", "tests/property", "tests/fuzz")
TYPED = ("bench", "tools", "tests/lab", "tests/e2e", "tests/fuzz", "tests/conformance")


def prepare(*groups: str, tables: Sequence[dict[str, str]] = (), build: bool = True) -> Workshop:
    """Packages, venv and the release build: what nearly every verb needs."""
    workshop.ensure_packages(workshop.BUILD_PACKAGES, workshop.RUN_PACKAGES, *tables)
    shop = Workshop()
    shop.ensure_venv(*groups)
    if build:
        shop.build(RELEASE)
    return shop


def prepare_tests(*tables: dict[str, str]) -> Workshop:
    """All that tests need, and the packages of `tables`."""
    return prepare("dev", tables=[workshop.TEST_PACKAGES, *tables])


def pytest(shop: Workshop, *argv: str, env: dict[str, str] | None = None) -> None:
    """Run pytest on the installed package: -P keeps the tree's own `slirp` out of the way."""
    settings = {
        "PYSLIRP_E2E_BIN": os.environ.get("PYSLIRP_E2E_BIN", shlex.quote(shop.pyslirp)),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(shop.home / "hypothesis"),
        "PYTHONDONTWRITEBYTECODE": "1",
        **(env or {}),
    }
    cache = ("-o", f"cache_dir={shop.home / 'pytest'}")
    run([*as_namespace_root(), shop.python, "-P", "-m", "pytest", *cache, *argv], env=settings)


def as_namespace_root() -> list[str]:
    """The prefix that lets an ordinary user make the namespaces of the system tests."""
    if AS_ROOT:
        return []
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if allowed else []


# Verbs


def verb_run(argv: list[str]) -> None:
    """`pyslirp run` with the arguments, or the demonstration."""
    shop = prepare()
    shop.release_lock()
    command = [shop.pyslirp, "run", *argv]
    if not argv:
        command = [shop.python, str(ROOT / "tools" / "demo.py"), shop.pyslirp]
    sys.stdout.flush()
    os.execv(command[0], command)


def verb_build(_argv: list[str]) -> None:
    """Compile and install."""
    prepare()


def verb_path(_argv: list[str]) -> None:
    """Print the path of the program."""
    print(prepare().pyslirp)


def verb_lint(_argv: list[str]) -> None:
    """Everything that can be said of the sources without running them."""
    shop = prepare("dev", build=False)
    typed_path = {"MYPYPATH": ":".join(str(ROOT / top) for top in ("tests", "tests/fuzz", "tools"))}
    venv_path = {"PATH": f"{shop.venv / 'bin'}:{os.environ['PATH']}"}  # it calls pycodestyle
    with step("lint"):
        run([shop.tool("ruff"), "check", "--no-cache", "."])
        run([shop.tool("ruff"), "format", "--no-cache", "--check", "-q", "."])
        mypy = [shop.tool("mypy"), "--cache-dir", str(shop.home / "mypy")]
        run(mypy)
        run([*mypy, "--strict", "--explicit-package-bases", *TYPED], env=typed_path)
        run([shop.tool("cython-lint"), "ext"], env=venv_path)
        for gate in ("check_layers", "check_sizes"):
            run([shop.python, str(ROOT / "tools" / f"{gate}.py")])
        run([shop.python, str(ROOT / "tools" / "tcp_states.py"), "--check"])
        shop.translate()
        run([shop.python, str(ROOT / "tools" / "check_nogil.py"), str(shop.home / "lint")])
    shop.build(RELEASE)
    with step("stubs against the compiled modules"):
        stubs = sorted(path.stem for path in (ROOT / "slirp" / "core").glob("*.pyi"))
        modules = [f"slirp.core.{stem}" for stem in stubs if stem != "__init__"]
        allow = ["--allowlist", str(ROOT / "tools" / "stubtest-allow.txt")]
        allow += ["--ignore-unused-allowlist"]
        # Beside the installed stubs, not in the tree, whose own `slirp` has nothing compiled.
        run([shop.python, "-P", "-m", "mypy.stubtest", *modules, *allow], cwd=shop.home)


def verb_unit(argv: list[str]) -> None:
    """Tests that need no namespaces."""
    shop = prepare_tests()
    with step("unit, protocol and property tests"):
        pytest(shop, *present(TESTED), *argv)


def verb_asan(argv: list[str]) -> None:
    """The same tests on a build that checks every memory access and every undefined operation."""
    shop = prepare_tests()
    shop.build(SANITIZED)
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan", "libubsan")
    ]
    env = {
        "PYTHONPATH": str(shop.library(SANITIZED)),
        "LD_PRELOAD": ":".join(libraries),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    with step("the same with the address and undefined behaviour sanitizers"):
        pytest(shop, *present(TESTED), *argv, env=env)


def verb_cost(argv: list[str]) -> None:
    """The short form of the benchmark: what no load of the machine can change."""
    workshop.ensure_packages(workshop.COST_PACKAGES)
    shop = prepare_tests()
    with step("what the core costs, in instructions"):
        pytest(shop, "tests/cost", *argv)


def verb_e2e(argv: list[str]) -> None:
    """System tests; the last line is pytest's."""
    tables = [workshop.APPLICATION_PACKAGES]
    if AS_ROOT:  # others have no subordinate ids to give away, and skip the tests with runtimes
        tables.append(workshop.RUNTIME_PACKAGES)
    shop = prepare_tests(*tables)
    say("system tests")
    pytest(shop, "tests/e2e", *argv)


def verb_bench(argv: list[str]) -> None:
    """Side by side with whoever is installed."""
    workshop.ensure_packages(workshop.BENCH_PACKAGES, workshop.TEST_PACKAGES, optional=True)
    shop = prepare("bench")
    shop.release_lock()
    bench = str(ROOT / "bench" / "run.py")
    run([*as_namespace_root(), shop.python, bench, "--pyslirp", shlex.quote(shop.pyslirp), *argv])


def verb_fuzz(argv: list[str]) -> None:
    """Run the fuzzer over the corpus and what it has found before, which is kept in the workshop.

    What breaks a rule is left there as crash-*. `merge` takes into the tree what the corpus there
    does not reach.
    """
    target = next((word for word in argv if word in ("stack", "api")), "stack")
    seconds = next((word for word in argv if word.isdigit()), "60")
    workshop.ensure_packages(workshop.FUZZ_PACKAGES)
    shop = prepare("test")
    shop.build(FUZZED)
    program = shop.fuzzer()
    shop.release_lock()
    tree = ROOT / "tests" / "fuzz" / "corpus" / target
    found = shop.home / "fuzz" / target
    found.mkdir(parents=True, exist_ok=True)
    env = {
        "PYTHONPATH": f"{shop.library(FUZZED)}:{ROOT / 'tests' / 'fuzz'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYSLIRP_FUZZ": target,
        "ASAN_OPTIONS": "detect_leaks=0:handle_abort=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    options = ["-detect_leaks=0", "-max_len=600", "-len_control=10", "-timeout=20"]
    options += [f"-artifact_prefix={found.parent}/", f"-max_total_time={seconds}"]
    with step(f"fuzzing: {target}, {seconds} s"):
        if "merge" in argv:
            run([str(program), "-merge=1", *options, str(tree), str(found)], env=env)
        else:
            run([str(program), *options, str(found), str(tree)], env=env)


def verb_conform(argv: list[str]) -> None:
    """The table of tests/conformance, on us and on whoever is installed."""
    workshop.ensure_packages(workshop.BENCH_PACKAGES, workshop.TEST_PACKAGES, optional=True)
    shop = prepare()
    shop.release_lock()
    env = {"PYTHONPATH": str(ROOT / "tests"), "PYSLIRP_E2E_BIN": shlex.quote(shop.pyslirp)}
    run([*as_namespace_root(), shop.python, "-P", "-m", "conformance", *argv], env=env)


def verb_test(argv: list[str]) -> None:
    """What CI runs. The last line is pytest's."""
    verb_lint([])
    verb_unit([])
    verb_asan([])
    verb_cost([])
    verb_e2e(argv)


def verb_all(_argv: list[str]) -> None:
    """Everything."""
    verb_test([])
    verb_bench(["--set", "quick"])


def present(paths: Sequence[str]) -> list[str]:
    """Those of `paths` that exist."""
    return [path for path in paths if (ROOT / path).exists()]


VERBS: dict[str, Callable[[list[str]], None]] = {
    name.removeprefix("verb_"): function
    for name, function in list(globals().items())
    if name.startswith("verb_")
}


def main(argv: list[str]) -> int:
    """Call the verb; 2 when there is no such verb, 1 when a step fails."""
    verb = VERBS.get(argv[1]) if len(argv) > 1 else None
    if verb is None:
        print(__doc__)
        return 0 if argv[1:] in (["-h"], ["--help"], ["help"]) else 2
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{workshop.SYSTEM_PATH}"  # sbin, for ip, nft
    try:
        verb(argv[2:])
    except StepError as failure:
        print(f"dev.py {argv[1]}: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
