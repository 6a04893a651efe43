"""The device a run computes on: found, described, its peak known or measured."""

import os
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Dense bfloat16 TFLOP/s with float32 accumulation, from NVIDIA's data sheets.
_PEAK_TFLOPS = {
    "H100 80GB HBM3": 989,
    "H100 PCIe": 756,
    "H200": 989,
    "A100": 312,
    "L40S": 362,
    "A6000": 155,
    "RTX 3090": 71,
    "RTX 4090": 165,
}


class Device(NamedTuple):
    """What the run log says of the device."""

    platform: str
    name: str
    peak_flops: float
    peak_source: str


def platform() -> str:
    """`cpu` or `gpu`."""
    return jax.default_backend()


def describe() -> Device:
    """The first device JAX finds; a peak that no table knows is measured with a matrix product."""
    device = jax.devices()[0]
    for name, tflops in _PEAK_TFLOPS.items():
        if name in device.device_kind:
            return Device(device.platform, device.device_kind, tflops * 1e12, "data sheet")
    name = f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind
    return Device(device.platform, name, _measured_flops(), "measured")


def _measured_flops() -> float:
    """The best of several square matrix products, in floating-point operations a second."""
    n = 1536
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    times = []
    for _ in range(4):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - start)
    return float(2 * n**3 / min(times))


def cache_compilations(folder: Path | None = None) -> None:
    """Keep compiled programs for the next start, in a folder only this user can read.

    A writable cache would let others run code here, so it is never in a shared folder.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "lmjax" / "xla" if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def memory_bytes() -> int:
    """What a run can have: JAX's share of a GPU, or what this machine has to spare."""
    statistics = jax.devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(statistics["bytes_limit"])
    available = Path("/proc/meminfo")
    if not available.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    words = available.read_text().split()
    found = int(words[words.index("MemAvailable:") + 1]) * 1024
    group = Path("/sys/fs/cgroup/memory.max")  # a container's own limit
    limit = group.read_text().strip() if group.exists() else "max"
    return found if limit == "max" else min(found, int(limit))


def peak_memory_bytes() -> int:
    """The most memory used so far: the device's on a GPU, this process's on a CPU."""
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        return int(statistics["peak_bytes_in_use"])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
