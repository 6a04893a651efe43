"""The device is described; compiled programs are kept where only this user can read them."""

import os
import stat

import jax
import pytest

from lmjax.runtime import device


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


def test_the_device_is_described():
    found = device.describe()
    assert found.platform == device.platform()
    assert found.peak_flops > 1e6
    assert device.peak_memory_bytes() > 1 << 20
