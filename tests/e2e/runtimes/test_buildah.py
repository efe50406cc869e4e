"""Buildah and `podman build`: a network for the time of each RUN."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from lab.machine import IMAGE, Machine


def build(
    machine: Machine, recipe: str, builder: str = "buildah bud", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Build an image named "built" by a Containerfile in a directory of its own."""
    script = f"""
        directory=$(mktemp -d)
        cat > $directory/Containerfile
        {builder} --no-cache --tag built $directory
    """
    return machine.run("sh", "-e", "-c", script, input=recipe, check=check)


@pytest.mark.parametrize("builder", ["buildah bud", "podman build"])
def test_run_that_downloads(machine: Machine, builder: str, download: str) -> None:
    recipe = f"FROM {IMAGE}\nRUN {download}\nRUN ip addr show tap0 && {download}\n"
    built = build(machine, recipe, builder)
    assert built.stdout.splitlines().count("OK") == 2
    assert "inet 10.0.2.100/24" in built.stdout
    assert "mtu 65520" in built.stdout
    machine.podman("rmi", "localhost/built")


def test_run_that_fails(machine: Machine) -> None:
    recipe = f"FROM {IMAGE}\nRUN ip addr show tap0 && exit 3\n"
    built = build(machine, recipe, check=False)
    assert built.returncode == 3
    assert "inet 10.0.2.100/24" in built.stdout


def test_command_in_a_working_container(machine: Machine, download: str) -> None:
    script = f"""
        container=$(buildah from {IMAGE})
        buildah run $container sh -c {shlex.quote(download)}
        buildah run $container sh -c {shlex.quote(download)}
        buildah rm $container
    """
    shown = machine.run("sh", "-e", "-c", script).stdout
    assert shown.splitlines()[:2] == ["OK", "OK"]
