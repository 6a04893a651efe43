"""A model from its numbers."""

from lmjax.config import LSTMConfig, ModelConfig, NPLMConfig
from lmjax.models import lstm, nplm, transformer
from lmjax.models.model import Model


def build(config: ModelConfig, platform: str) -> Model:
    """The model on a platform (`cpu`, `gpu`): compute dtype and implementation resolved.

    Raises ConfigError for a combination that the platform cannot run.
    """
    if isinstance(config, LSTMConfig):
        return lstm.build(config, platform)
    if isinstance(config, NPLMConfig):
        return nplm.build(config, platform)
    return transformer.build(config, platform)
