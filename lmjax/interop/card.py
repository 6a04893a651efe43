"""The model card: what the run's files say of the model, for those who find it elsewhere."""

from pathlib import Path

from lmjax.config import Config, TransformerConfig
from lmjax.runtime import journal
from lmjax.runtime.checkpoint import Saved
from lmjax.text import json_file, manifest
from lmjax.text.errors import DataError


def write(run: Path, config: Config, saved: Saved, architecture: str) -> str:
    """Markdown with the hub's metadata; a number that the run does not have is not there."""
    model = config.model
    assert isinstance(model, TransformerConfig)
    task = "text-generation" if model.causal else "fill-mask"
    facts = {
        "architecture": architecture,
        "parameters": _parameters(run),
        "layers, width, heads": f"{model.depth}, {model.width}, {model.heads}",
        "context": f"{model.length} tokens",
        "vocabulary": f"{model.vocab_size} rows",
        "corpus": _corpus(config),
        "steps": f"{saved.step:,}" if saved.step else None,
        "tokens": f"{saved.numbers['tokens']:,}" if saved.numbers.get("tokens") else None,
        **_measured(run, saved.step),
        "imported from": _origin(run),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value)
    loader = "AutoModelForCausalLM" if model.causal else "AutoModelForMaskedLM"
    if architecture == "BertModel":
        loader, task = "AutoModel", "feature-extraction"
    return f"""\
---
library_name: transformers
pipeline_tag: {task}
license: unknown
tags:
- lmjax
---

# {run.resolve().name}

Trained with lmjax and written by `python -m lmjax.convert`, which compared the outputs of this
folder with those of the run.

| | |
|---|---|
{table}

```python
from transformers import AutoTokenizer, {loader}

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = {loader}.from_pretrained("FOLDER")
```

The licence is for whoever publishes this model to choose: it depends on the text it was trained on.
"""


def _parameters(run: Path) -> str | None:
    plan = run / "plan.json"
    return f"{json_file.read(plan)['parameters']:,}" if plan.is_file() else None


def _corpus(config: Config) -> str | None:
    folder = Path(config.data)
    try:
        found = manifest.read_manifest(folder)
    except (DataError, OSError):
        return None
    size = (found.train.bytes + found.val.bytes) / 1e6
    documents = found.train.documents + found.val.documents
    sources = ", ".join(config.text.sources)
    return f"{folder.name} ({sources}): {documents:,} documents, {size:,.1f} MB"


def _measured(run: Path, step: int) -> dict[str, str]:
    for entry in reversed(journal.read(run / "metrics.jsonl")):
        if "val_loss" in entry and entry["step"] == step:
            bits = entry["val_bits_per_byte"]
            found = {"validation loss": f"{entry['val_loss']:.4f} nats a token"}
            return found if bits is None else {**found, "bits per byte": f"{bits:.4f}"}
    return {}


def _origin(run: Path) -> str | None:
    for entry in journal.read(run / "events.jsonl"):
        if entry["event"] == "import":
            return Path(entry["source"]).name
    return None
