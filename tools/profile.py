"""Where a train step spends its time: by place in the model, and kernel by kernel.

    python -m tools.profile --config configs/gpt2_small.py --steps 5 --top 30
    python -m tools.profile --config configs/gpt2.py --out trace

Runs the real step on random tokens under `jax.profiler`. A kernel's time is its own, without that
of kernels inside it; threads of a CPU are added up, so that the sum may exceed the step's. Beside
each kernel that XLA's text tells the work of stands what it reached. `--out` keeps the trace, which
Perfetto and XProf can show.
"""

import collections
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
from rich.table import Table

from lmjax.config import load_recipe, parse_with_overrides
from lmjax.runtime import blueprint, console, device, measuring, memory, program


@dataclass(frozen=True)
class Arguments:
    config: Path
    """The recipe whose step is run."""
    steps: int = 5
    """How many are traced, after two that are not."""
    top: int = 25
    """Kernels to show."""
    out: Path | None = None
    """A folder to keep the trace in."""


class Spent(NamedTuple):
    """Nanoseconds of a kernel and the number of its calls."""

    nanoseconds: float
    calls: int


def own_times(events: Iterable[tuple[str, float, float]]) -> Iterator[tuple[str, float]]:
    """Name and own duration of events (name, start, duration) that may lie within each other."""
    inside: list[tuple[str, float, float]] = []  # name, end, own duration so far
    for name, start, duration in sorted(events, key=lambda event: (event[1], -event[2])):
        while inside and inside[-1][1] <= start:
            ended = inside.pop()
            yield ended[0], ended[2]
        if inside:
            inside[-1] = (*inside[-1][:2], inside[-1][2] - duration)
        inside.append((name, start + duration, duration))
    for name, _, own in inside:
        yield name, own


def read(trace: Path, known: set[str]) -> dict[str, Spent]:
    """What each of the `known` instructions took, by the newest trace in a folder."""
    (newest,) = sorted(trace.rglob("*.xplane.pb"))[-1:]
    spent: dict[str, Spent] = {}
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        gpu = plane.name.startswith("/device:GPU")
        if not gpu and plane.name != "/host:CPU":
            continue
        for line in plane.lines:
            events = [
                (
                    str(dict(event.stats).get("hlo_op", event.name)) if gpu else event.name,
                    event.start_ns,
                    event.duration_ns,
                )
                for event in line.events
            ]
            for name, own in own_times(events):
                if name in known:
                    before = spent.get(name, Spent(0, 0))
                    spent[name] = Spent(before.nanoseconds + own, before.calls + 1)
    return spent


_NOISE = re.compile(r"^(jit\(.*\)|while|body|closed_call|cond|branch_\d+_fun|checkpoint|remat.*|)$")


def place(op_name: str) -> str:
    """Of `jit(f)/while/body/transpose(jvp())/Block/up/dot`: `backward Block/up/dot`."""
    parts = [part for part in op_name.split("/") if not _NOISE.match(part)]
    backward = any(part.startswith("transpose(") for part in parts)
    parts = [part for part in parts if not part.startswith(("transpose(", "jvp("))]
    return ("backward " if backward else "") + "/".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    memory.keep()  # as training does
    arguments, overrides = parse_with_overrides(Arguments, "profile", __doc__, argv)
    recipe = load_recipe(arguments.config, overrides)
    drawn = blueprint.draw(recipe.config, recipe.make_optimizer, device.platform())
    step, (state, batch, half) = measuring.ready(drawn, seed=0)
    text = step.as_text() or ""

    def take(steps: int) -> float:
        nonlocal state
        begun = time.perf_counter()
        for _ in range(steps):
            state, _ = step(state, batch, half)
        jax.block_until_ready(state)
        return (time.perf_counter() - begun) / steps

    take(2)
    untraced = take(arguments.steps)
    names = dict(re.findall(r'%([\w.\-]+) = .*?metadata=\{[^}]*?op_name="([^"]*)"', text))
    known = set(re.findall(r"%([\w.\-]+) = ", text))
    with tempfile.TemporaryDirectory() as folder:
        trace = arguments.out or Path(folder)
        with jax.profiler.trace(str(trace)):
            traced = take(arguments.steps)
        spent = read(trace, known)
    console.say(
        f"{device.describe().name}: {1e3 * untraced:.1f} ms a step, {1e3 * traced:.1f} traced"
    )
    _show(spent, names, {work.name: work for work in program.works(text)}, arguments)


def _show(
    spent: dict[str, Spent],
    names: dict[str, str],
    works: dict[str, program.Work],
    arguments: Arguments,
) -> None:
    total = sum(one.nanoseconds for one in spent.values())
    places: dict[str, float] = collections.defaultdict(float)
    for name, one in spent.items():
        kind = works[name].kind if name in works else "other"
        places[f"{kind} {place(names.get(name, ''))}".strip()] += one.nanoseconds

    table = Table("by place", "ms a step", "share")
    for where, nanoseconds in sorted(places.items(), key=lambda item: -item[1])[: arguments.top]:
        table.add_row(
            where, f"{nanoseconds / 1e6 / arguments.steps:.2f}", f"{nanoseconds / total:.1%}"
        )
    console.terminal.print(table)

    table = Table("kernel", "place", "calls", "ms a step", "share", "GFLOP/s", "GB/s")
    ranked = sorted(spent.items(), key=lambda item: -item[1].nanoseconds)
    for name, (nanoseconds, calls) in ranked[: arguments.top]:
        work = works.get(name)
        rate, moved = (
            (work.flops * calls / nanoseconds, work.bytes * calls / nanoseconds)
            if work
            else (0.0, 0.0)
        )
        table.add_row(
            name,
            place(names.get(name, "")),
            f"{calls / arguments.steps:.0f}",
            f"{nanoseconds / 1e6 / arguments.steps:.2f}",
            f"{nanoseconds / total:.1%}",
            f"{rate:.0f}" if rate else "",
            f"{moved:.1f}" if moved else "",
        )
    console.terminal.print(table)


if __name__ == "__main__":
    main()
