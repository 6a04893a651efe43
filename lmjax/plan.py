"""Plan a run before the GPU is there: memory, speed, and what a budget buys.

`python -m lmjax.plan --config FILE --device h100 --budget 24h`. Neither a GPU nor data is needed.
The recipe's numbers are overridden as for lmjax.train: `--model.depth 12 --batch.rows 64`.
Rows at a time and remat are chosen where they are `auto` or left as they are by default.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmjax import config as configuration
from lmjax.config import Config, ConfigError, Recipe, parse_with_overrides
from lmjax.train import exit_codes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    config: Path | None = None
    """The recipe file, or the config.json of a run."""
    device: str | None = None
    """A short name of `devices.toml`, such as h100; none means the attached device, measured."""
    budget: str | None = None
    """How long to train, such as 24h; none means the recipe's."""
    size: Literal["auto"] | None = None
    """Choose the model from the budget and the device, instead of --config."""
    sweep: Literal["devices"] | None = None
    """One table of all devices."""
    price_per_hour: float | None = None
    """What an hour costs."""
    formulas: bool = False
    """Do not compile: estimate from sizes alone."""
    out: Path | None = None
    """Where to write the plan (.json), or the recipe of --size auto (.py)."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments, overrides = parse_with_overrides(Arguments, "plan", __doc__, argv)
    from lmjax.runtime import memory

    memory.keep()  # as training does: steps are measured here
    with exit_codes():
        plan(arguments, overrides)


def plan(arguments: Arguments, overrides: Sequence[str] = ()) -> None:
    """Print the plan that the arguments ask for. Raises ConfigError."""
    from lmjax.runtime import compiling, console, devices, planning, sizing

    recipe = _recipe(arguments, overrides)
    if arguments.device is None and arguments.sweep is None:
        if recipe is None:
            raise ConfigError("--device: expected a card for --size auto, such as h100, found none")
        facts = planning.say_measured(recipe, arguments.price_per_hour)
        if arguments.out is not None:
            _write(arguments.out, _json(facts))
        return
    import jax

    jax.config.update("jax_platforms", "cpu")  # shapes alone: the card is not asked for
    card = devices.find(arguments.device or "h100")
    sized = None
    if recipe is None:
        if arguments.budget is None:
            raise ConfigError("--budget: expected a time for --size auto, such as 24h, found none")
        sized = sizing.size(arguments.budget, card)
        recipe = Recipe(sized.config, None)
        for name, reason in sized.reasons.items():
            console.say(f"{name}: {reason}")
    with compiling.Compiler(None if sized else arguments.config) as compiler:
        compile_it: Callable[[Config, devices.Card], compiling.Compiled] | None = None
        if not arguments.formulas:
            compile_it = compiler.compile if compiling.available() else None
            if compile_it is None:
                console.say(
                    "planned from formulas, not compiled: JAX's CUDA plugin is not installed; "
                    f"{compiling.INSTALL}"
                )
        if arguments.sweep:
            planning.say_sweep(recipe, compile_it, arguments.price_per_hour)
            return
        made = planning.make(recipe, card, compile_it, arguments.price_per_hour)
    planning.say(made)
    if arguments.out is not None:
        if sized is not None and arguments.out.suffix == ".py":
            text = sizing.recipe_source(sized, made.choice, card)
        else:
            text = _json(made.facts())
        _write(arguments.out, text)


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    from lmjax.runtime import console

    path.write_text(text)
    console.say(f"written: {path}")


def _recipe(arguments: Arguments, overrides: Sequence[str]) -> Recipe | None:
    if (arguments.config is None) == (arguments.size is None):
        raise ConfigError("--config: expected a recipe file, or --size auto; give one of them")
    if arguments.config is None:
        if overrides:
            raise ConfigError(f"--size auto: expected no settings, found {' '.join(overrides)}")
        return None
    budget = () if arguments.budget is None else ("--budget", arguments.budget)
    return configuration.load_recipe(arguments.config, [*budget, *overrides])


if __name__ == "__main__":
    main()
