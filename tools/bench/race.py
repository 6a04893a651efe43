"""A race on two cores: what `speedrun_cpu` takes to the loss that `baseline_cpu` ends with.

    python -m tools.bench.race --seeds 0 1 2 --json

Both read `python:source`, and no token twice. The baseline gets the best of a few learning rates.
The ratio is of the seconds spent on data and steps, of runs that follow each other. Then each
ingredient is taken out of the faster side, at the same tokens.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import tyro

from tools.bench.training import RECIPES, Trained, train

BASELINE, OURS = RECIPES / "baseline_cpu.py", RECIPES / "speedrun_cpu.py"
INGREDIENTS = {
    "value embeddings": ["--model.no-value-embeddings"],
    "smear": ["--model.no-smear"],
    "window": ["--model.window-pattern", "L"],
    "batch ramp": ["--ramp.rows"],
    "long cooldown": ["--schedule.kind", "cosine"],
    "rates by group": ["--optimizer.embedding-learning-rate", "0.02"],
}
WITHOUT_MUON = '''"""`speedrun_cpu` with Adam for the matrices too."""

import runpy

import optax

from lmjax.learning import optimizers, schedules

get_config = runpy.run_path({path!r})["get_config"]


def make_optimizer(config):
    adam = optax.chain(
        optax.scale_by_adam(0.9, 0.95),
        optimizers.descend(0.004, schedules.make(config.schedule)),
    )
    return optimizers.with_adam_for_the_rest(config, adam)
'''


def show(name: str, row: Trained, note: str = "") -> None:
    print(
        f"{name:34}{row.parameters:11,}{row.tokens:11,}{row.seconds:9.1f}{row.loss:9.4f}  {note}",
        flush=True,
    )


def main(
    data: Path = Path("corpora/python-source"),
    rates: tuple[float, ...] = (0.001, 0.002, 0.004),
    seeds: tuple[int, ...] = (0,),
    json_line: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    print(f"{'':34}{'parameters':>11}{'tokens':>11}{'seconds':>9}{'loss':>9}")

    def baseline(rate: float, seed: int) -> Trained:
        words = ["--optimizer.learning-rate", str(rate), "--seed", str(seed)]
        row = train(BASELINE, data, words)
        show(f"baseline, rate {rate}, seed {seed}", row)
        return row

    swept = {rate: baseline(rate, seeds[0]) for rate in rates}
    best = min(swept, key=lambda rate: swept[rate].loss)
    ours, ratios = {}, []
    for seed in seeds:
        ours[seed] = train(OURS, data, ["--seed", str(seed)])
        peer = swept[best] if seed == seeds[0] and len(rates) == 1 else baseline(best, seed)
        ratios.append(ours[seed].seconds / peer.seconds)
        reached = "reached" if ours[seed].loss <= peer.loss else "not reached"
        show(f"speedrun, seed {seed}", ours[seed], f"{ratios[-1]:.3f} of the time, {reached}")

    lost = {}
    with tempfile.TemporaryDirectory() as folder:
        adam = Path(folder) / "without_muon.py"
        adam.write_text(WITHOUT_MUON.format(path=str(OURS)))
        kinds = {name: (OURS, words) for name, words in INGREDIENTS.items()}
        for name, (recipe, words) in {**kinds, "Muon": (adam, [])}.items():
            losses = []
            for seed in seeds:
                row = train(recipe, data, [*words, "--seed", str(seed)])
                losses.append(row.loss - ours[seed].loss)
                show(f"without {name}, seed {seed}", row)
            lost[name] = losses
    print(f"\n{'without':34}{'mean':>9}{'least':>9}{'most':>9}   nats a token more")
    for name, losses in lost.items():
        print(f"{name:34}{statistics.mean(losses):9.4f}{min(losses):9.4f}{max(losses):9.4f}")
    if json_line:
        print(json.dumps({"ratio": statistics.median(ratios), "ratios": ratios, "lost": lost}))


if __name__ == "__main__":
    tyro.cli(main)
