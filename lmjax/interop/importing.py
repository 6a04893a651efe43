"""A Hugging Face folder to a run folder: settings, a sealed checkpoint, tokenizer files."""

import shutil
from pathlib import Path

import optax

from lmjax import config as configuration
from lmjax.config import Config, ObjectiveConfig, TransformerConfig
from lmjax.interop import agreement, arrays, weights
from lmjax.interop.families import BARE_BERT, Family, Theirs, named
from lmjax.learning.step import init_state
from lmjax.models.model import Params
from lmjax.runtime import checkpoint, console, journal, restoring
from lmjax.text import json_file, partial
from lmjax.text.errors import DataError
from lmjax.text.json_tokenizer import JsonTokenizer
from lmjax.text.tokenizer import Tokenizer

# Kept beside the model and given back on export. None of them is ever executed.
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "generation_config.json",
)
_LARGEST_SMALL_FILE = 1 << 26
_UNUSED_DROPOUT = ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob")


def describes(folder: Path) -> bool:
    """Whether a folder holds a model of transformers."""
    path = folder / "config.json"
    return path.is_file() and bool({"architectures", "model_type"} & json_file.read(path).keys())


def read_folder(folder: Path) -> tuple[Family, TransformerConfig, Params]:
    """The family, our numbers and our parameters of a folder.

    Raises ConfigError for what lmjax does not compute, DataError for files that cannot be used.
    """
    path = folder / "config.json"
    values = json_file.read(path)
    family = named(values, str(path))
    config = family.read(Theirs(values, str(path)))
    params = arrays.to_ours(family, agreement.exact(config), weights.read(folder))
    return family, config, params


def import_folder(source: Path, run: Path) -> float | None:
    """Write the run folder `run`; the largest difference to transformers' outputs on English text.

    None where transformers is not installed. Raises ConfigError or DataError; nothing half-written
    is left behind.
    """
    family, model, params = read_folder(source)
    if family is BARE_BERT:
        console.say(f"{source}: {family.architecture} has no head; its pooler is not taken over")
    values = json_file.read(source / "config.json")
    for key in _UNUSED_DROPOUT:
        if values.get(key):
            console.say(f"{source}: {key} {values[key]}: lmjax drops no attention weights")
    run.parent.mkdir(parents=True, exist_ok=True)
    with partial.partial(run) as folder:
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                if (source / name).stat().st_size > _LARGEST_SMALL_FILE:
                    raise DataError(f"{source / name}: expected at most 64 MiB")
                shutil.copyfile(source / name, folder / name)
        tokenizer = _tokenizer(folder, source)
        mask = tokenizer.mask if isinstance(tokenizer, JsonTokenizer) else None
        objective = ObjectiveConfig(kind="next_token" if model.causal else "masked", mask_id=mask)
        config = Config(run=str(run), model=model, objective=objective)
        partial.write(folder / "config.json", configuration.to_json(config).encode())
        state = init_state(params, optax.identity())
        places = dict.fromkeys(("step", "rows", "rewinds", "tokens"), 0)
        numbers = {**places, "elapsed": 0.0, "val_loss": None}
        checkpoint.save(folder / "checkpoints", state, numbers)
        events = journal.Journal(folder / "events.jsonl")
        facts = {"source": str(source), "architecture": family.architecture}
        events.write({"event": "import", "step": 0, "elapsed": 0.0, **facts}, durable=True)
        events.close()
        return _check(source, family, model, params, tokenizer)


def _check(
    source: Path,
    family: Family,
    config: TransformerConfig,
    params: Params,
    tokenizer: Tokenizer | None,
) -> float | None:
    ids_T, words = agreement.text(tokenizer, config)
    expected = agreement.theirs(family, source, ids_T)
    if expected is None:
        console.say(
            "transformers is not installed, so there is nothing to compare with; "
            'pip install "lmjax[hf]" to have the outputs checked'
        )
        return None
    found = agreement.ours(family, config, params, ids_T)
    largest = agreement.largest_difference(found, expected, str(source))
    console.say(f"largest difference to transformers on {words}: {largest:.2g}")
    return largest


def _tokenizer(folder: Path, source: Path) -> Tokenizer | None:
    if not any((folder / name).exists() for name in ("tokenizer.model", "tokenizer.json")):
        console.say(f"{source}: no tokenizer.model and no tokenizer.json; the run has no tokenizer")
        return None
    return restoring.restore_tokenizer(folder)
