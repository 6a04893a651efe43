"""A plan: the choice of micro-batch and rung, the predicted step, and what the budget buys."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.table import Table

from lmjax.config import Config, Recipe
from lmjax.learning import objective
from lmjax.models.build import build
from lmjax.runtime import blueprint, console, device, devices, measuring, roofline, sizing
from lmjax.runtime.compiling import Compiled
from lmjax.runtime.devices import Card
from lmjax.runtime.forecast import LAW, Forecast, forecast

Compile = Callable[[Config, Card], Compiled]
_FORMULA_MFU = 0.40  # what a plan without a compiled program assumes; see `sizing.size`


class Plan(NamedTuple):
    """What `lmjax.plan` says of a recipe on a card."""

    config: Config
    card: Card
    choice: sizing.Choice
    parameters: int
    state_bytes: float
    compiled: Compiled | None
    times: roofline.Times | None
    forecast: Forecast

    def collectives(self) -> dict[str, dict[str, float]]:
        """Calls a step and bytes a device, of each kind of exchange between devices."""
        found: dict[str, dict[str, float]] = {}
        for one in self.compiled.collectives if self.compiled else ():
            of_kind = found.setdefault(one.kind, {"calls": 0.0, "bytes": 0.0})
            of_kind["calls"] += one.times
            of_kind["bytes"] += one.times * one.bytes
        return found

    def facts(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {
            "device": self.card.key,
            "budget": self.config.budget,
            "batch.micro_rows": self.choice.micro_rows,
            "model.remat": self.choice.remat,
            "peak_bytes": self.choice.peak,
            "state_bytes": self.state_bytes,
            "parameters": self.parameters,
            "compiled": self.compiled is not None,
            "path": self.compiled.path if self.compiled else None,
            "mesh": dataclasses.asdict(self.config.mesh),
            "collectives": self.collectives(),
            "step_seconds": self.times._asdict() if self.times else None,
            "forecast": self.forecast._asdict(),
        }


def make(recipe: Recipe, card: Card, compile_it: Compile | None, price: float | None) -> Plan:
    """The plan of a recipe on a card; from formulas where nothing compiles.

    Raises ConfigError where the model cannot run there, or not a single row fits.
    """
    config = sizing.opened(blueprint.with_vocabulary(recipe.config))
    model = build(config.model, "gpu")
    parameters = blueprint.parameters(config)
    limit = sizing.MARGIN * card.memory_gib * 2**30

    def formula(config: Config) -> float:
        return sum(sizing.formula_parts(config, parameters))

    compiled_for: Callable[[Config], Compiled] | None = None
    if compile_it is not None:
        compiled_for = functools.cache(functools.partial(_compile, compile_it, card))

    def peak(config: Config) -> float:
        estimate = formula(config)
        # Far from the limit the formula is enough; near it, or where it fits, XLA decides.
        if compiled_for is None or estimate > 2 * limit:
            return estimate
        return compiled_for(config).peak

    choice = sizing.choose(config, limit, peak)
    config = sizing.applied(config, choice.micro_rows, choice.remat)
    compiled = compiled_for(config) if compiled_for is not None else None
    length = config.model.length
    flops = model.flops_per_token(objective.predicted(config.objective, length) / length)
    if compiled is None:
        spent = None
        tokens = config.batch.rows * config.model.length
        seconds = flops * tokens / (_FORMULA_MFU * card.tflops * 1e12 * config.mesh.devices)
        state_bytes = sizing.formula_parts(config, parameters)[0]
    else:
        spent = roofline.times(compiled.works, roofline.stated(card))
        seconds, state_bytes = spent.total, float(compiled.state)
    bought = forecast(
        config,
        card,
        parameters=parameters,
        state_bytes=state_bytes,
        flops_per_token=flops,
        step_seconds=seconds,
        price_per_hour=price,
    )
    return Plan(config, card, choice, parameters, state_bytes, compiled, spent, bought)


def _compile(compile_it: Compile, card: Card, config: Config) -> Compiled:
    return compile_it(config, card)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def say(plan: Plan) -> None:
    """Print a plan as a table, and the overrides that give it to `lmjax.train`."""
    bought, choice, compiled = plan.forecast, plan.choice, plan.compiled
    mesh = plan.config.mesh
    many = f"{mesh.devices} x " if mesh.devices > 1 else ""
    table = Table("", f"{many}{plan.card.name}, {plan.config.budget}")
    table.add_row("parameters", console.count(plan.parameters))
    how = "compiled" if compiled else "by formula"
    table.add_row(
        f"peak memory ({how})",
        f"{_gib(choice.peak)} of {plan.card.memory_gib:.1f}: state {_gib(plan.state_bytes)}, "
        f"within a step {_gib(choice.peak - plan.state_bytes)}",
    )
    if compiled is not None and plan.times is not None:
        table.add_row("attention path", compiled.path)
        slow = roofline.large_float32(compiled.works)
        names = ", ".join(work.name for work in slow)
        table.add_row("large products in float32", names or "none")
        for kind, of_kind in plan.collectives().items():
            sums = f"{of_kind['calls']:.0f} a step, {_gib(of_kind['bytes'])} on each device"
            table.add_row(kind, sums)
        t = plan.times
        table.add_row(
            "step (roofline)",
            f"{t.total:.3f} s: products {t.products:.3f}, attention {t.attention:.3f}, "
            f"the rest {t.fusions:.3f}" + (", without the network" if mesh.devices > 1 else ""),
        )
    else:
        table.add_row("step", f"assumed at {_FORMULA_MFU:.0%} MFU")
    for name, value in _bought(bought).items():
        table.add_row(name, value)
    console.terminal.print(table)
    console.say(
        f"give to train: --batch.micro-rows {choice.micro_rows} --model.remat {choice.remat}"
    )
    if bought.loss is not None:
        console.say(f"loss by {LAW}; another corpus or tokenizer has another.")
    if choice.peak > 0.75 * plan.card.memory_gib * 2**30:
        console.say("JAX takes 75% of a card by itself: set XLA_PYTHON_CLIENT_MEM_FRACTION=0.92")


def _bought(bought: Forecast) -> dict[str, str]:
    return {
        "tokens/s": f"{console.count(bought.tokens_per_second)}, MFU {bought.mfu:.0%}",
        "budget": f"{bought.hours:.3g} h: {console.count(bought.steps)} steps, "
        f"{console.count(bought.tokens)} tokens",
        "loss": "unknown" if bought.loss is None else f"{bought.loss:.2f}",
        "disk": f"{_gib(bought.data_bytes)} of tokens, {_gib(bought.checkpoint_bytes)} of "
        "checkpoints",
        "energy": f"at most {bought.kwh:.3g} kWh",
        "cost": "give --price-per-hour" if bought.cost is None else f"{bought.cost:.2f}",
    }


def say_sweep(recipe: Recipe, compile_it: Compile | None, price: float | None) -> None:
    """Print what the budget buys on every card.

    Programs are compiled once, for an A100: their memory and kernels are taken to be alike.
    """
    shared = None
    if compile_it is not None:
        first = devices.find("a100-80")
        once = functools.cache(functools.partial(_compile, compile_it, first))

        def shared_compile(config: Config, card: Card) -> Compiled:
            del card
            return once(config)

        shared = shared_compile
        console.say("compiled once, for an A100; memory and kernels taken to be alike elsewhere")
    table = Table(
        "device", "micro rows", "remat", "peak", "tokens/s", "MFU", "tokens", "loss", "kWh"
    )
    for card in devices.cards().values():
        try:
            made = make(recipe, card, shared, price)
        except ValueError as error:
            table.add_row(card.key, "does not fit", str(error).split(";")[0], *[""] * 6)
            continue
        bought = made.forecast
        table.add_row(
            card.key,
            str(made.choice.micro_rows),
            made.choice.remat,
            _gib(made.choice.peak),
            console.count(bought.tokens_per_second),
            f"{bought.mfu:.0%}",
            console.count(bought.tokens),
            "" if bought.loss is None else f"{bought.loss:.2f}",
            f"{bought.kwh:.3g}",
        )
    console.terminal.print(table)


class Comparison(NamedTuple):
    """Seconds a step on the attached device, and bytes of memory."""

    predicted: float
    measured: float
    predicted_peak: int
    measured_peak: int

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def compare(recipe: Recipe, steps: int = 20) -> Comparison:
    """The roofline with measured rates against real steps on random tokens."""
    platform = device.platform()
    config = blueprint.with_vocabulary(recipe.config)
    drawn = blueprint.draw(config, recipe.make_optimizer, platform)
    found = measuring.steps(drawn, config.seed, steps)
    rates = measuring.rates(platform, found.compiled.works)
    predicted = roofline.times(found.compiled.works, rates).total
    return Comparison(predicted, found.seconds, found.compiled.peak, found.peak)


def say_measured(recipe: Recipe, price: float | None) -> dict[str, Any]:
    """Measure the attached device and twenty steps; print both beside the prediction.

    What is `auto` is chosen as `lmjax.train` would. Returns the facts, for a file.
    """
    here = device.describe()
    config = blueprint.with_vocabulary(recipe.config)
    choice = sizing.settle(config, here.platform, device.memory_bytes())
    if choice is not None:
        config = sizing.applied(config, choice.micro_rows, choice.remat)
        console.say(f"auto: {sizing.in_words(config, choice)}")
    found = compare(recipe._replace(config=config))
    model = build(config.model, here.platform)
    parameters = blueprint.parameters(config)
    length = config.model.length
    flops = model.flops_per_token(objective.predicted(config.objective, length) / length)
    card = dataclasses.replace(
        devices.find("h100"), key="here", name=here.name, tflops=here.peak_flops / 1e12, watts=0.0
    )
    table = Table("", "predicted", "measured")
    both = [
        forecast(
            config,
            card,
            parameters=parameters,
            state_bytes=12.0 * parameters,
            flops_per_token=flops,
            step_seconds=seconds,
            price_per_hour=price,
        )
        for seconds in (found.predicted, found.measured)
    ]
    table.add_row(
        "step", f"{found.predicted:.4f} s ({found.error:+.0%})", f"{found.measured:.4f} s"
    )
    whole = "" if here.platform == "gpu" else ", the whole process"
    table.add_row("peak memory", _gib(found.predicted_peak), _gib(found.measured_peak) + whole)
    for name in _bought(both[0]):
        if name != "energy":
            table.add_row(name, *(_bought(one)[name] for one in both))
    console.say(f"{here.name}: rates and 20 steps measured")
    console.terminal.print(table)
    return {
        "device": here.name,
        "budget": config.budget,
        "auto": None if choice is None else choice._asdict(),
        "parameters": parameters,
        "predicted": {
            "step_seconds": found.predicted,
            "peak_bytes": found.predicted_peak,
            "forecast": both[0]._asdict(),
        },
        "measured": {
            "step_seconds": found.measured,
            "peak_bytes": found.measured_peak,
            "forecast": both[1]._asdict(),
        },
    }
