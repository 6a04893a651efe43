"""The cards a run can be planned for, from `devices.toml`, and what XLA must know to target one."""

import dataclasses
import importlib.resources
import tomllib
from dataclasses import dataclass

from lmjax.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Card:
    """A device as its data sheet has it. Rates a second: `tflops` in 10^12, `gbps` in 10^9 bytes.

    The fields after `watts` are what XLA's deviceless target needs.
    """

    key: str
    name: str
    tflops: float
    gbps: float
    memory_gib: float
    watts: float
    capability: str
    multiprocessors: int
    shared_kib: int
    shared_block_kib: int
    threads: int
    lanes: int
    l2_mib: int
    ghz: float
    accelerated: bool = False
    also: tuple[str, ...] = ()
    """Other names of the driver's, such as a PCIe card's with the same chip."""


def cards() -> dict[str, Card]:
    """All cards by their short names."""
    text = importlib.resources.files("lmjax.runtime").joinpath("devices.toml").read_text()
    found = {key: Card(key=key, **values) for key, values in tomllib.loads(text).items()}
    return {key: dataclasses.replace(card, also=tuple(card.also)) for key, card in found.items()}


def named(kind: str) -> Card | None:
    """The card that the driver, and so `jax.Device.device_kind`, calls `kind`."""
    return next((card for card in cards().values() if kind in (card.name, *card.also)), None)


def find(key: str) -> Card:
    """The card of a short name. Raises ConfigError with the names there are."""
    known = cards()
    if key not in known:
        raise ConfigError(f"--device: expected one of {', '.join(known)}, found {key!r}")
    return known[key]


def target(card: Card) -> str:
    """The text of XLA's `GpuTargetConfigProto`, for a compilation without the card.

    Versions are those of CUDA 12.8 and cuDNN 9.10, on which cuDNN's attention can be relied.
    """
    major, minor = card.capability.split(".")
    feature = "feature_extension: ACCELERATED_FEATURES" if card.accelerated else ""
    return f"""
platform_name: "CUDA"
device_description_str: "{card.name}"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  name: "{card.name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor} {feature} }}
  core_count: {card.multiprocessors}
  fpus_per_core: {card.lanes}
  clock_rate_ghz: {card.ghz}
  memory_bandwidth: {round(card.gbps * 1e9)}
  device_memory_size: {round(card.memory_gib * 2**30)}
  l2_cache_size: {card.l2_mib * 2**20}
  shared_memory_per_block: {48 * 2**10}
  shared_memory_per_block_optin: {card.shared_block_kib * 2**10}
  shared_memory_per_core: {card.shared_kib * 2**10}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {card.threads}
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  runtime_version: "12.8.0"
  driver_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
"""
