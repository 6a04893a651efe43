"""The device is described; compiled programs are kept where only this user can read them."""

import contextlib
import os
import random
import stat
import zlib

import jax
import pytest
from jax._src import compilation_cache

from lmjax.runtime import device, devices


@pytest.fixture
def cache_settings():
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_is_private(tmp_path, monkeypatch, cache_settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "lmjax" / "xla"
    folder.mkdir(parents=True)
    os.chmod(folder, 0o777)  # noqa: S103
    device.cache_compilations()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_flipped_bit_in_a_compiled_program_is_not_run(tmp_path, monkeypatch, cache_settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device.cache_compilations()
    program = random.Random(0).randbytes(3000) + bytes(range(256)) * 20  # noqa: S311
    packed = bytearray(compilation_cache.compress_executable(program))
    for place in range(0, len(packed), 7):
        packed[place] ^= 1 << place % 8
        with contextlib.suppress(zlib.error):  # JAX then compiles it anew
            assert compilation_cache.decompress_executable(bytes(packed)) == program
        packed[place] ^= 1 << place % 8
    assert compilation_cache.decompress_executable(bytes(packed)) == program


def test_the_device_is_described():
    found = device.describe()
    assert found.platform == device.platform()
    assert found.peak_flops > 1e6
    assert device.peak_memory_bytes() > 1 << 20


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA GeForce RTX 3090", "3090"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA GeForce RTX 5090", "5090"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX A6000", "a6000"),
    ],
)
def test_a_card_is_known_by_the_names_of_its_driver(kind, key):
    card = devices.named(kind)
    assert card is not None
    assert card.key == key


@pytest.mark.parametrize("kind", ["NVIDIA H200 NVL", "NVIDIA GeForce RTX 3090 Ti", "cpu"])
def test_a_card_with_other_figures_is_not_taken_for_one_like_it(kind):
    assert devices.named(kind) is None
