"""A run folder to a Hugging Face folder: what transformers and all that read its files load."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax

from lmjax import config as configuration
from lmjax.config import Config, ConfigError, TransformerConfig
from lmjax.interop import agreement, arrays, card, tokenizer_json, weights
from lmjax.interop.families import Family, expressing
from lmjax.interop.importing import TOKENIZER_FILES, read_folder
from lmjax.models.model import Params
from lmjax.runtime import console, restoring, run_folder
from lmjax.text import partial
from lmjax.text.errors import DataError
from lmjax.text.tokenizer import Tokenizer


def export(run: Path, folder: Path, step: int | None = None) -> float:
    """Write the folder; the largest difference of what it computes to what the run computes.

    Rows that pad the vocabulary are left out: readers of the folder would take them for tokens.
    Raises ConfigError naming what no architecture expresses, DataError for outputs that differ;
    then nothing is left behind.
    """
    config = run_folder.read_config(run)
    if not isinstance(config.model, TransformerConfig):
        raise ConfigError(
            f"model.kind: expected transformer, found {config.model.kind}; "
            "no architecture of transformers computes it"
        )
    family = expressing(config.model)
    saved, on_device = restoring.load_params(agreement.exact(config.model), run, step)
    params: Params = jax.device_get(on_device)
    tokenizer = _tokenizer(run)
    if tokenizer is not None:
        rows = restoring.known_rows(run, config, tokenizer)
        config, params = _without_padding(config, params, rows)
    assert isinstance(config.model, TransformerConfig)
    model = agreement.exact(config.model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with partial.partial(folder) as side:
        weights.write(side, arrays.to_theirs(family, model, params))
        _write_settings(side, family, config, config.model, tokenizer)
        _write_tokenizer(side, run, config, config.model)
        readme = card.write(run, config, saved, family.architecture)
        partial.write(side / "README.md", readme.encode())
        console.say(f"{family.architecture}, step {saved.step}")
        largest = _check(side, family, config.model, params, tokenizer)
    return largest


def _without_padding(config: Config, params: Params, rows: int) -> tuple[Config, Params]:
    """The model with the first `rows` of its vocabulary alone."""
    tables = ("embedding", "head", "head_bias")
    kept = {name: leaf[:rows] if name in tables else leaf for name, leaf in params.items()}
    return configuration.with_vocabulary(config, rows), kept


def _write_settings(
    side: Path,
    family: Family,
    config: Config,
    model: TransformerConfig,
    tokenizer: Tokenizer | None,
) -> None:
    bos = None if tokenizer is None else tokenizer.bos
    ends: dict[str, Any] = {"bos_token_id": bos, "eos_token_id": bos, "pad_token_id": None}
    settings = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.write(model),
        **ends,
        "dtype": "float32",
    }
    _write_json(side / "config.json", settings)
    if model.causal:
        sampled = {"temperature": config.sample.temperature, "top_k": config.sample.top_k}
        drawn = {k: v for k, v in sampled.items() if v is not None}
        generation = {"do_sample": True, **drawn} if config.sample.temperature > 0 else {}
        _write_json(side / "generation_config.json", {**ends, **generation})


def _write_tokenizer(side: Path, run: Path, config: Config, model: TransformerConfig) -> None:
    for name in TOKENIZER_FILES:
        if (run / name).is_file():
            shutil.copyfile(run / name, side / name)
    sentences = run / "tokenizer.model"
    if not sentences.is_file() or (side / "tokenizer.json").exists():
        return
    mask = None
    if config.objective.kind == "masked":
        mask = config.objective.mask_id or restoring.restore_tokenizer(run).vocab_size
    made = tokenizer_json.convert(sentences, mask)
    if made is None:
        console.say(f"{sentences}: normalises text in its own way; no tokenizer.json is written")
        return
    _write_json(side / "tokenizer.json", made[0])
    _write_json(side / "tokenizer_config.json", {**made[1], "model_max_length": model.length})


def _check(
    side: Path,
    family: Family,
    config: TransformerConfig,
    params: Params,
    tokenizer: Tokenizer | None,
) -> float:
    ids_T, words = agreement.text(tokenizer, config)
    expected = agreement.ours(family, config, params, ids_T)
    reader, found = "transformers", agreement.theirs(family, side, ids_T)
    if found is None:
        reader = "lmjax's own importer (transformers is not installed)"
        family, config, params = read_folder(side)
        found = agreement.ours(family, config, params, ids_T)
    largest = agreement.largest_difference(found, expected, str(side))
    console.say(f"largest difference, read back by {reader}, on {words}: {largest:.2g}")
    return largest


def _tokenizer(run: Path) -> Tokenizer | None:
    try:
        return restoring.restore_tokenizer(run)
    except DataError as error:
        console.say(f"no tokenizer: {error}")
        return None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    content = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    partial.write(path, content.encode())
