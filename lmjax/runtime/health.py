"""What a run needs of a machine: each thing looked at, and what to do where it will not do.

The device is looked at by a process of its own, `python -m lmjax.runtime.health`: a broken driver
can hang, and JAX takes most of a card's memory for as long as the process lives.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lmjax.runtime import device

_GIB = 1 << 30
_LEAST_MEMORY, _LEAST_DISK = 2 * _GIB, 5 * _GIB
_LEAST_DRIVER = {"12": 525, "13": 580}  # docs.jax.dev, installation, NVIDIA GPU
_SECONDS = 180.0
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)\s*((?:[<>=!~]=?[0-9.]+,?)*)$")


class Finding(NamedTuple):
    """A thing that was looked at; `fix` says what to do, None where it is well."""

    name: str
    found: str
    fix: str | None = None


def examine(runs: Path) -> Iterator[Finding]:
    """Look at everything, one thing after the other. `runs` is where run folders will be."""
    yield from versions()
    card = nvidia()
    yield from card
    yield from devices(bool(card))
    yield memory()
    yield from disk(runs)
    yield cache(device.cache_folder())


def versions() -> Iterator[Finding]:
    """Python and the packages that lmjax names, held against what it asks for."""
    found = ".".join(map(str, sys.version_info[:3]))
    asked = importlib.metadata.metadata("lmjax")["Requires-Python"]
    fix = None if _meets(found, asked) else f"run it with Python {asked}"
    yield Finding("python", found, fix)
    for requirement in importlib.metadata.requires("lmjax") or ():
        match = _REQUIREMENT.match(requirement)
        if match is None:  # of an extra
            continue
        name, asked = match.groups()
        install = f'pip install "{name}{asked}"'
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed", install)
            continue
        yield Finding(name, found, None if _meets(found, asked) else install)
    jaxlib = importlib.metadata.version("jaxlib")
    jax = importlib.metadata.version("jax")
    same = f'pip install --upgrade "jax=={jax}" "jaxlib=={jax}"'
    yield Finding("jaxlib", jaxlib, None if jaxlib == jax else same)


def nvidia() -> list[Finding]:
    """The NVIDIA card, its driver and JAX's plugin for it; nothing where there is no card."""
    names = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if not names:
        return []
    asked = "name,driver_version,memory.used,memory.total"
    try:
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return [
            Finding("driver", f"nvidia-smi: {error}", "install NVIDIA's driver, or start it anew")
        ]
    findings = []
    driver = "0"
    for line in ended.stdout.splitlines():
        name, driver, used, total = (word.strip() for word in line.split(","))
        busy = used.isdigit() and int(used) > 1024
        fix = "end what else runs on it; nvidia-smi names the processes" if busy else None
        findings.append(Finding("card", f"{name}, {used} of {total} MiB used", fix))
    plugins = {}
    for cuda in _LEAST_DRIVER:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            plugins[cuda] = importlib.metadata.version(f"jax-cuda{cuda}-plugin")
    major = int(driver.split(".")[0])
    if not plugins:
        fits = [cuda for cuda, least in _LEAST_DRIVER.items() if major >= least]
        install = f'pip install "lmjax[cuda{fits[-1]}]"' if fits else "install a newer driver"
        return [*findings, Finding("driver", driver), Finding("plugin", "not installed", install)]
    for cuda, version in plugins.items():
        least = _LEAST_DRIVER[cuda]
        newer = f"CUDA {cuda} needs {least} or newer: install it, or lmjax[cuda12] for an older one"
        findings.append(Finding("driver", driver, None if major >= least else newer))
        jaxlib = importlib.metadata.version("jaxlib")
        same = f'pip install --upgrade "jax[cuda{cuda}]=={jaxlib}"'
        told = None if version == jaxlib else same
        findings.append(Finding(f"plugin for CUDA {cuda}", version, told))
    return findings


def devices(card: bool) -> Iterator[Finding]:
    """What JAX computes on, and whether it computes rightly; `card` is whether one is there."""
    command = [sys.executable, "-m", "lmjax.runtime.health"]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        yield Finding(
            "device", f"no answer within {_SECONDS:.0f} s", "start the machine anew; see dmesg"
        )
        return
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["nothing said"])[-1]
        yield Finding("device", last, "mend what it says; JAX_PLATFORMS=cpu trains without it")
        return
    facts = json.loads(ended.stdout.splitlines()[-1])
    fix = None
    if card and facts["platform"] == "cpu":
        asked = os.environ.get("JAX_PLATFORMS")
        fix = f"JAX_PLATFORMS is {asked}: unset it" if asked else "see the plugin above"
    yield Finding("device", f"{facts['count']} x {facts['kind']} ({facts['platform']})", fix)
    if facts["memory"]:
        yield Finding("device memory", f"{facts['memory'] / _GIB:.1f} GiB for JAX")
    wrong = f"largest error {facts['error']:.2g}, expected at most {facts['allowed']:.2g}"
    right = facts["error"] <= facts["allowed"]
    yield Finding(
        "a product on it",
        "right" if right else wrong,
        None if right else "the device computes wrongly: look for ECC errors, try another",
    )
    if os.environ.get("XLA_FLAGS"):
        yield Finding("XLA_FLAGS", os.environ["XLA_FLAGS"])


def memory() -> Finding:
    """What this machine has to spare."""
    spare = device.host_memory_bytes()
    enough = spare >= _LEAST_MEMORY
    fix = None if enough else "end other programs: a save copies the state to this memory"
    return Finding("memory", f"{spare / _GIB:.1f} GiB to spare", fix)


def disk(runs: Path) -> Iterator[Finding]:
    """Room where runs will be, and whether files there can be forced to disk and locked."""
    folder = runs.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    inodes = os.statvfs(folder)
    fix = None if free >= _LEAST_DISK else "make room: a checkpoint takes 12 bytes a parameter"
    if inodes.f_files and inodes.f_favail < 10_000:
        fix = f"delete files: {inodes.f_favail} more can be made"
    yield Finding(f"disk, {folder}", f"{free / _GIB:.1f} GiB free", fix)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        fix = "give it permissions, or keep runs on a disk of this machine (--run)"
        yield Finding("write, force to disk, lock", str(error), fix)
    else:
        yield Finding("write, force to disk, lock", "works")


def cache(folder: Path) -> Finding:
    """Whether others could put programs among those this user runs."""
    name = f"compiled programs, {folder}"
    if not folder.exists():
        return Finding(name, "none yet")
    status = folder.stat()
    if status.st_uid != os.getuid():
        fix = f"it belongs to user {status.st_uid}: delete it, or set XDG_CACHE_HOME"
        return Finding(name, "another's", fix)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return Finding(name, f"open to others ({mode:o})", f"chmod 700 {folder}")
    mebibytes = sum(p.stat().st_size for p in folder.iterdir()) / (1 << 20)
    return Finding(name, f"private, {mebibytes:.0f} MiB")


def _meets(version: str, asked: str) -> bool:
    """Whether a version meets `>=1.2,<3`: the two signs that lmjax's requirements use."""
    have = _numbers(version)
    return all(
        have >= _numbers(bound[2:]) if bound.startswith(">=") else have < _numbers(bound[1:])
        for bound in asked.split(",")
        if bound
    )


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9.]+", version)
    return tuple(int(part) for part in (match[0] if match else "0").strip(".").split("."))


def _probe() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    first = jax.devices()[0]
    chance = np.random.default_rng(0)
    a, b = (chance.standard_normal((512, 512), np.float32) for _ in range(2))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))(a, b)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    statistics = first.memory_stats() or {}
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "memory": statistics.get("bytes_limit"),
        "error": float(np.abs(np.asarray(product) - expected).max()),
        "allowed": 1e-3,
    }


if __name__ == "__main__":
    print(json.dumps(_probe()))
