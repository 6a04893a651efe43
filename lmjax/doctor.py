"""Look at what a run needs of this machine, and say what to fix: `python -m lmjax.doctor`.

Exit code 0 where nothing is to be fixed, else 1. `--determinism` takes 20 steps in two processes
instead and says whether they agree in every bit.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmjax.config import parse_arguments
from lmjax.train import exit_codes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    runs: Path = Path("runs")
    """Where run folders will be."""
    determinism: bool = False
    """Compare two processes of 20 steps."""
    config: Path | None = None
    """The recipe that takes these steps, on random tokens; none means a small decoder."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(Arguments, "doctor", __doc__, argv)
    with exit_codes():
        well = _determinism(arguments.config) if arguments.determinism else _health(arguments.runs)
        if not well:
            sys.exit(1)


def _health(runs: Path) -> bool:
    from lmjax.runtime import console, health

    fixes = 0
    for finding in health.examine(runs):
        console.say(f"{'ok ' if finding.fix is None else 'FIX'}  {finding.name}: {finding.found}")
        if finding.fix is not None:
            fixes += 1
            console.say(f"     {finding.fix}")
    console.say(f"\n{fixes} to fix" if fixes else "\nnothing to fix")
    return fixes == 0


def _determinism(recipe: Path | None) -> bool:
    from lmjax.runtime import console, determinism
    from lmjax.runtime.determinism import FLAGS, STEPS

    def say(found: determinism.Comparison, how: str) -> bool:
        agree = f"bit-exact: {STEPS} steps in two processes, every metric and every array"
        told = agree if found.difference is None else f"differs: {found.difference}"
        console.say(f"{found.device}, {how}: {told}")
        return found.difference is None

    try:
        plain = determinism.compare(recipe)
        exact = say(plain, "as it is")
        if plain.platform == "cpu":
            return exact
        try:
            option, fixed = "", say(determinism.compare(recipe, FLAGS), f"with {FLAGS}")
        except determinism.ProbeError as error:  # so does cuDNN's attention under jax 0.11.2
            console.say(f"with {FLAGS}: {error}")
            option = " and --model.attention xla"
            how = f"with {FLAGS}{option}"
            fixed = say(determinism.compare(recipe, FLAGS, attention="xla"), how)
    except determinism.ProbeError as error:
        console.say(f"lmjax: {error}")
        return False
    console.say(f"\n{determinism.WHY}.")
    if fixed:
        console.say(
            "To have every start of a run compute the same bits:\n"
            f'  export XLA_FLAGS="{FLAGS}"{option}'
        )
    return exact or fixed


if __name__ == "__main__":
    main()
