"""Plan a run before the GPU is there: memory, speed, and what a budget buys.

`python -m lmjax.plan --config FILE --device h100 --budget 24h`. Neither a GPU nor data is needed.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmjax import config as configuration
from lmjax.config import Config, ConfigError, Recipe, parse_arguments
from lmjax.train import exit_codes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    config: Path | None = None
    """The recipe file; its numbers can be overridden by a copy, or by what train is given."""
    device: str | None = None
    """A short name of `devices.toml`, such as h100; none means the attached device, measured."""
    budget: str | None = None
    """How long to train, such as 24h; none means the recipe's."""
    size: Literal["auto"] | None = None
    """Choose the model from the budget and the device, instead of --config."""
    sweep: Literal["devices"] | None = None
    """One table of all devices."""
    rows: int | None = None
    """Rows of a batch; none means the recipe's."""
    price_per_hour: float | None = None
    """What an hour costs."""
    formulas: bool = False
    """Do not compile: estimate from sizes alone."""
    out: Path | None = None
    """Where to write the plan (.json), or the recipe of --size auto (.py)."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(Arguments, "plan", __doc__, argv)
    with exit_codes():
        plan(arguments)


def plan(arguments: Arguments) -> None:
    """Print the plan that the arguments ask for. Raises ConfigError."""
    from lmjax.runtime import compiling, console, devices, planning, sizing

    recipe = _recipe(arguments)
    if arguments.device is None and arguments.sweep is None:
        if recipe is None:
            raise ConfigError("--device: expected a card for --size auto, such as h100, found none")
        planning.say_measured(recipe, arguments.price_per_hour)
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
            text = json.dumps(made.facts(), indent=2) + "\n"
        arguments.out.write_text(text)
        console.say(f"written: {arguments.out}")


def _recipe(arguments: Arguments) -> Recipe | None:
    if (arguments.config is None) == (arguments.size is None):
        raise ConfigError("--config: expected a recipe file, or --size auto; give one of them")
    if arguments.config is None:
        return None
    recipe = configuration.load_recipe(arguments.config)
    changes: dict[str, Any] = {}
    if arguments.budget is not None:
        changes["budget"] = arguments.budget
    if arguments.rows is not None:
        batch = dataclasses.replace(recipe.config.batch, rows=arguments.rows, micro_rows=None)
        changes["batch"] = batch
    return recipe._replace(config=dataclasses.replace(recipe.config, **changes))


if __name__ == "__main__":
    main()
