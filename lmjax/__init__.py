"""A language model, trained on one GPU, in one day, without luck."""

from typing import TYPE_CHECKING, Any

from lmjax.config import Config, load_config

if TYPE_CHECKING:
    from lmjax.runtime.restoring import restore
    from lmjax.train import fit

__all__ = ["Config", "fit", "load_config", "restore"]


def __getattr__(name: str) -> Any:
    # JAX is imported when it is first needed, so that `--help` answers at once.
    if name == "fit":
        from lmjax.train import fit

        return fit
    if name == "restore":
        from lmjax.runtime.restoring import restore

        return restore
    raise AttributeError(f"module 'lmjax' has no attribute {name!r}")
