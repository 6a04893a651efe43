"""The real train step compiled for a card that is not there, by XLA alone: no GPU, no data.

It runs in a process of its own, `python -m lmjax.runtime.compiling`, since it needs environment
variables and another JAX platform than the caller may use. One JSON object a line goes in and out.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict

from lmjax import config as configuration
from lmjax.config import Config, ConfigError
from lmjax.runtime import devices, program
from lmjax.runtime.program import Collective, Work

_IN_A_MACHINE = 8  # cards, from which on a mesh is taken to span several
INSTALL = 'pip install "lmjax[cuda12]" (or [cuda13]); no GPU is needed for it'


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """Bytes of a device's memory, by XLA's buffer assignment, and its kernels of one step."""

    state: int
    """Parameters, optimizer state and the batch; new state takes the place of the old."""
    temporary: int
    """Activations, gradients, logits: all that lives within a step."""
    path: str
    works: tuple[Work, ...]
    collectives: tuple[Collective, ...] = ()
    """What the devices of a mesh exchange."""

    @property
    def peak(self) -> int:
        return self.state + self.temporary


def available() -> bool:
    """Whether JAX's CUDA plugin is installed, which holds XLA's compiler for GPUs."""
    names = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    return any(importlib.util.find_spec(name) is not None for name in names)


class CompileError(RuntimeError):
    """XLA could not compile the step for the card."""


class Compiler:
    """Compiles one recipe for cards, in a process of its own; use it in a `with`."""

    def __init__(self, recipe: Path | None) -> None:
        self._recipe = recipe
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()

    def compile(self, config: Config, card: devices.Card) -> Compiled:
        """The step of `config` for `card`. Raises ConfigError or CompileError."""
        if self._process is None:
            asked = {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lmjax.runtime.compiling"],
                env={**os.environ, **asked, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        recipe = None if self._recipe is None else str(self._recipe)
        request = {"recipe": recipe, "config": configuration.to_json(config), "card": card.key}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise CompileError(f"the compiler for {card.name} ended with code {process.wait()}")
        answer = json.loads(line)
        if "config_error" in answer:
            raise ConfigError(answer["config_error"])
        if "error" in answer:
            raise CompileError(f"{card.name}: {answer['error']}")
        works = tuple(program.from_plain(work) for work in answer.pop("works"))
        exchanged = tuple(Collective(*one) for one in answer.pop("collectives"))
        return Compiled(works=works, collectives=exchanged, **answer)


class _Request(NamedTuple):
    recipe: str | None
    config: str
    card: str


def _answer(request: _Request) -> dict[str, Any]:
    import jax
    from jax.experimental import topologies

    from lmjax.models import sharding
    from lmjax.runtime import blueprint

    config = configuration.from_json(request.config)
    make_optimizer = None
    if request.recipe is not None:
        make_optimizer = configuration.load_recipe(request.recipe).make_optimizer
    text = devices.target(devices.find(request.card))
    count = config.mesh.devices
    machines = -(-count // _IN_A_MACHINE)
    there = topologies.get_topology_desc(
        platform="cuda", target_config=text, topology=f"1x{machines}x{-(-count // machines)}"
    )
    mesh = sharding.mesh(config.mesh, there.devices)
    drawn = blueprint.draw(config, make_optimizer, "gpu")
    state, batch, progress = drawn.shapes
    whole, lies = sharding.whole(mesh), sharding.of_state(mesh, state)
    shapes = (
        sharding.shaped(state, lies),
        sharding.shaped(batch, jax.tree.map(lambda _: sharding.of_rows(mesh, 1), batch)),
        sharding.shaped(progress, whole),
    )
    step = jax.jit(drawn.train_step, donate_argnums=0, out_shardings=(lies, whole))
    # Not set as a mesh to run on: what is computed while tracing would be sent to its devices.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = step.lower(*shapes).compile()
    written = compiled.as_text() or ""
    return {
        **memory(compiled),
        "path": drawn.model.path,
        "works": program.works(written),
        "collectives": program.collectives(written),
    }


class Memory(TypedDict):
    """The fields of `Compiled` that `memory` finds."""

    state: int
    temporary: int


def memory(compiled: Any) -> Memory:
    """The two parts of a compiled step's peak, in bytes."""
    found = compiled.memory_analysis()
    state = found.argument_size_in_bytes
    return {
        "state": state + found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }


def _serve() -> None:
    # Standard output is the answers' alone; whatever libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import jax  # noqa: F401
    import jax._src.cudnn.fused_attention_stablehlo as cudnn

    # cuDNN itself is not there to be asked; the target says which one there will be.
    cudnn.check_cudnn_version = lambda: 91000
    for line in sys.stdin:
        try:
            answer = _answer(_Request(**json.loads(line)))
        except ConfigError as error:
            answer = {"config_error": str(error)}
        except Exception as error:  # told to the caller, which knows what was asked
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
