"""Every recipe that is shipped runs, shrunk."""

from pathlib import Path

import pytest

from lmjax import train
from lmjax.config import LSTMConfig, TransformerConfig, load_config
from lmjax.runtime import journal

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def shrunk(recipe: Path) -> list[str]:
    """Overrides that leave a recipe's choices and take its size."""
    config = load_config(recipe)
    model = config.model
    sizes: dict[str, int | None] = {"vocab-size": None, "length": 32, "width": 32}
    if isinstance(model, TransformerConfig):
        sizes |= {
            "unroll": model.period,
            "depth": 2 * model.period if model.backout else max(2, model.period),
            "heads": 4,
            "kv-heads": None if model.kv_heads is None else 2,
            "head-width": None if model.head_width is None else 8,
            "ff-width": None if model.ff_width is None else 64,
            "window": None if model.window is None else 16,
        }
    elif isinstance(model, LSTMConfig):
        sizes |= {"truncate": None if model.truncate is None else 8}
    else:
        sizes |= {"hidden": 32}
    words = [word for name, size in sizes.items() for word in (f"--model.{name}", str(size))]
    for name, size in (("rows", 2), ("length", 16), ("window", 8)):
        points = [
            word for place, _ in getattr(config.ramp, name) for word in (str(place), str(size))
        ]
        words += [f"--ramp.{name}", *points] if points else []
    return [*words, "--sample.prompts"]  # none


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.stem for recipe in RECIPES])
def test_it_runs_two_steps(recipe, corpus, tmp_path, in_process, capsys):
    batch = ["--batch.rows", "4", "--batch.micro-rows", "2", "--evaluation.max-rows", "32"]
    folders = ["--data", str(corpus), "--run", str(tmp_path / "run")]
    short = ["--budget", "2steps", "--log.every", "1", "--sample.max-tokens", "4"]
    train.main(["--config", str(recipe), *shrunk(recipe), *batch, *folders, *short])
    entries = journal.read(tmp_path / "run" / "metrics.jsonl")
    assert [e["step"] for e in entries if "loss" in e] == [1, 2]
    assert "val_loss" in entries[-1] and entries[-1]["step"] == 2
    assert "done: step 2" in capsys.readouterr().err


def test_there_are_recipes():
    assert RECIPES
