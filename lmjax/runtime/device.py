"""The device a run computes on: found, described, its peak known or measured."""

import os
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import compilation_cache

from lmjax.runtime import devices


class Device(NamedTuple):
    """What the run log says of the device."""

    platform: str
    name: str
    peak_flops: float
    peak_source: str


def platform() -> str:
    """`cpu` or `gpu`."""
    return jax.default_backend()


def compiler_options() -> dict[str, str | bool]:
    """What XLA is told for programs that train or evaluate here, beside its defaults.

    Vectors of a CPU are 256 bits by default, where 512 make a step up to 6% faster (Zen 5,
    2026-11-28); a CPU that has no such vectors takes two.
    """
    return {"xla_cpu_prefer_vector_width": "512"} if platform() == "cpu" else {}


def describe() -> Device:
    """The first device JAX finds; a peak that no data sheet tells is measured by a product."""
    device = jax.local_devices()[0]
    card = devices.named(device.device_kind)
    if card is not None:
        return Device(device.platform, device.device_kind, card.tflops * 1e12, "data sheet")
    if device.platform == "cpu":
        return Device("cpu", f"{os.cpu_count()} cores", product_flops(jnp.float32), "measured")
    flops = product_flops(jnp.bfloat16)
    return Device(device.platform, device.device_kind, flops, "measured")


def product_flops(dtype: jnp.dtype) -> float:
    """Operations a second in the best of several square products of the type steps compute in."""
    n = 1536 if dtype == jnp.float32 else 8192
    # Ones can run faster than numbers do; JAX would compile its normal numbers at each start.
    x = jnp.asarray(np.random.default_rng(0).normal(size=n), jnp.float32)
    a = jnp.outer(x, x).astype(dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    times = []
    for _ in range(4):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - start)
    return float(2 * n**3 / min(times))


def cache_folder() -> Path:
    """Where compiled programs are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "lmjax" / "xla"


def cache_compilations(folder: Path | None = None) -> None:
    """Keep compiled programs for the next start, in a folder only this user can read.

    A writable cache would let others run code here, so it is never in a shared folder. Its entries
    are packed by zlib, which has a checksum: zstandard's frames, as JAX writes them, have none, and
    a flipped bit in one was seen to give a program that computes something else.
    """
    folder = cache_folder() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    vars(compilation_cache).update(zstd=None, zstandard=None)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def memory_bytes() -> int:
    """What a run can have: JAX's share of a GPU, or what this machine has to spare."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(statistics["bytes_limit"])
    return host_memory_bytes()


def host_memory_bytes() -> int:
    """What this machine, or the container, has to spare."""
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
    statistics = jax.local_devices()[0].memory_stats()
    if statistics:
        return int(statistics["peak_bytes_in_use"])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
