"""An hour of random faults on small runs: each is told of, and a run ends as if there were none.

    python -m tools.soak --minutes 60

A decoder with ramps, an LSTM and an encoder are first trained without faults. Then they are trained
again and again while faults of `tools.faults` are done to them, most of them kills at random
instants. A fault's verdict is one JSON object on a line, given when a checkpoint beyond it has been
held against the undisturbed run: `metrics.jsonl` byte for byte, every array of parameters and
optimizer bit for bit. A table follows; the exit code is 1 if a fault was silent or a run inexact.
The same seed gives the same faults in the same order, though not at the same instants. Faults of
the file system need the right to mount one.
"""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import tyro

from lmjax.runtime import checkpoint, journal
from lmjax.text.errors import DataError
from tools import faults
from tools.faults import Fault, Hang, Scene, Struck

RECIPE = '''"""A run that is small enough to be broken often."""

from lmjax.config import *


def get_config():
    return Config(
        budget="{steps}steps",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=512), validation=0.01),
        model={model},
        batch=BatchConfig(rows=4),
        evaluation=EvaluationConfig(every="{evaluate}steps", max_rows=32),
        checkpoint=CheckpointConfig(every="{save}steps"),
        log=LogConfig(every=1),
        {more}
    )
'''
KINDS = {
    "decoder": (
        'TransformerConfig(length=32, depth=1, width=32, heads=2, window=16, window_pattern="S")',
        "ramp=RampConfig(rows=((0.3, 2),), length=((0.3, 16),), window=((0.3, 8),)),",
    ),
    "lstm": ("LSTMConfig(length=16, depth=1, width=32, dropout=0.1)", ""),
    "encoder": (
        "TransformerConfig(length=32, depth=1, width=32, heads=2, causal=False, dropout=0.1)",
        'objective=ObjectiveConfig(kind="masked"),',
    ),
}
_KEPT_FAILURES = 5
_MOST_STARTS = 5


@dataclasses.dataclass
class Reference:
    """What a run comes to that nothing happens to."""

    recipe: Path
    metrics: bytes
    arrays: dict[int, str]
    """Digest of each saved step."""
    start_up: float


@dataclasses.dataclass
class Verdict:
    """What came of a fault."""

    kind: str
    run: str
    step: int
    """The last step before it, by the metrics."""
    struck: Struck
    exact: bool | None = None
    problem: str = ""

    @property
    def silent(self) -> bool:
        return self.struck.told is False

    def line(self, number: int) -> str:
        facts = {
            "fault": number,
            "kind": self.kind,
            "run": self.run,
            "step": self.step,
            "what": self.struck.what,
            "told": self.struck.told,
            "answer": self.struck.answer,
            "exact": self.exact,
            "seconds_lost": round(self.struck.lost, 2),
        }
        return json.dumps(facts | ({"problem": self.problem} if self.problem else {}))


def arrays(step: Path) -> str:
    """SHA-256 over every array of a checkpoint, those of the optimizer included."""
    found = hashlib.sha256()
    for item in ("params", "rest"):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(step / item).item_metadata.tree
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            arguments = ocp.args.PyTreeRestore(restore_args=plain)
            restored = checkpointer.restore(step / item, args=arguments)
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
            found.update(f"{path}{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return found.hexdigest()


class Soak:
    """A stream of faults; use `fault` until it is enough, then `close`."""

    def __init__(self, folder: Path, seed: int, steps: int) -> None:
        self.folder, self.random = folder, random.Random(seed)  # noqa: S311
        self.verdicts: list[Verdict] = []
        self.failures = folder / "failures"
        self.pending: list[Verdict] = []
        self._runs = 0
        self._corpus = folder / "corpus"
        self._environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XDG_CACHE_HOME": str(folder / "cache"),
            # Which core computes a sum does not matter, only that the same one always does.
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        }
        self._references = {kind: self._undisturbed(kind, steps) for kind in KINDS}
        self._scene: Scene | None = None
        self._name = ""

    def fault(self, kills: float) -> None:
        """Do one fault, on a run of any kind; `kills` is the share of plain kills."""
        if self._scene is None:
            self.begin(self.random.choice(list(KINDS)), small=self.random.random() < 0.4)
        kill = self.random.random() < kills
        self.strike(faults.kill if kill else self.random.choice(faults.OTHERS))

    def begin(self, kind: str, small: bool) -> bool:
        """Make ready to train anew; `small` on a small file system of its own, if one can be had.

        Returns whether the file system is as asked.
        """
        assert self._scene is None
        self._runs += 1
        self._name = f"{kind}-{self._runs}"
        place = self.folder / self._name
        mounted = faults.mount_small(place) if small else None
        place.mkdir(exist_ok=True)
        reference = self._references[kind]
        self._scene = Scene(
            place / "run",
            reference.recipe,
            self._corpus,
            self._environment,
            self.random,
            mounted,
            reference.start_up,
        )
        return small == (mounted is not None)

    def take_steps(self) -> None:
        """Let the run that was begun come to some steps."""
        assert self._scene is not None
        self._scene.stepping()

    def strike(self, do: Fault) -> bool:
        """Do a fault to the run that was begun; whether there was a run left to do it to."""
        scene = self._scene
        if scene is None:
            return False
        step = faults.last_step(scene.run) if scene.ended() else 0
        try:
            struck = do(scene)
        except (Hang, subprocess.TimeoutExpired) as error:
            self._hung(do, str(error))
            return True
        if struck is not None:
            step = max(step, faults.last_step(scene.run))
            self.pending.append(Verdict(do.__name__, self._name, step, struck))
            if struck.told is False:
                self._keep("silent")
        if scene.ended():
            self._judge()
        return True

    def close(self) -> None:
        """Let the run end that is under way, judge it, and give back what was mounted."""
        starts = 0
        while self._scene is not None and self.pending:
            starts += 1
            if starts > _MOST_STARTS:
                self._hung(faults.kill, f"not done after {_MOST_STARTS} starts without a fault")
                return
            if self._scene.ended():
                self._scene.process = None
                self._scene.start()
            try:
                self._scene.end()
            except Hang as error:
                self._hung(faults.kill, str(error))
                return
            self._judge()
        if self._scene is not None:
            self._leave()

    def _undisturbed(self, kind: str, steps: int) -> Reference:
        model, more = KINDS[kind]
        recipe = self.folder / f"{kind}.py"
        recipe.write_text(
            RECIPE.format(
                model=model, more=more, steps=steps, evaluate=steps // 4, save=steps // 50
            )
        )
        run, again = (self.folder / "undisturbed" / name for name in (kind, f"{kind}-again"))
        run.parent.mkdir(exist_ok=True)
        for place, words in ((run, ["--checkpoint.keep", "1000"]), (again, [])):
            scene = Scene(place, recipe, self._corpus, self._environment, self.random, None, 0.0)
            begun = time.monotonic()
            with scene.log.open("ab") as log:
                done = scene.command("train", *scene.arguments(), *words, stderr=log)
                if done.wait() != 0:
                    raise SystemExit(f"{place}: training failed:\n{scene.log.read_text()[-2000:]}")
        # The second found everything compiled.
        timing = journal.read(again / "timing.jsonl")
        start_up = time.monotonic() - begun - (timing[-1]["elapsed"] - timing[0]["elapsed"])
        metrics = (run / "metrics.jsonl").read_bytes()
        if metrics != (again / "metrics.jsonl").read_bytes():
            raise SystemExit(
                f"{run}: two undisturbed runs differ; nothing can be held against them"
            )
        folder = run / "checkpoints"
        digests = {step: arrays(folder / str(step)) for step in checkpoint.steps(folder)}
        say(f"{kind}: {steps} undisturbed steps, {len(digests)} saved, {start_up:.1f} s to start")
        return Reference(recipe, metrics, digests, start_up)

    def _judge(self) -> None:
        """Hold what the run has come to against the undisturbed one."""
        scene = self._scene
        assert scene is not None
        reference = self._references[self._name.split("-")[0]]
        problem, reached = difference(scene, reference)
        done = faults.finished(scene)
        if done and not problem:
            if (scene.run / "metrics.jsonl").read_bytes() != reference.metrics:
                problem = "metrics.jsonl: shorter than the undisturbed run's"
            left = [p.name for p in scene.run.rglob(".*")]
            if left:
                problem = f"left behind: {', '.join(left)}"
        waiting = []
        for verdict in self.pending:
            if problem or done or reached > verdict.step:
                verdict.exact, verdict.problem = not problem, problem
                self._tell(verdict)
            else:
                waiting.append(verdict)
        self.pending = waiting
        if problem:
            self._keep("inexact")
        if problem or done:
            self._leave()

    def _hung(self, do: Fault, problem: str) -> None:
        verdict = Verdict(do.__name__, self._name, 0, Struck("hang", told=False))
        verdict.exact, verdict.problem = False, problem
        for each in (*self.pending, verdict):
            each.exact, each.problem = False, problem
            self._tell(each)
        self.pending = []
        self._keep("hang")
        self._leave()

    def _tell(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        print(verdict.line(len(self.verdicts)), flush=True)

    def _keep(self, why: str) -> None:
        """Copy a run that went wrong, to be looked at."""
        assert self._scene is not None
        self.failures.mkdir(exist_ok=True)
        kept = len(list(self.failures.iterdir()))
        if kept < _KEPT_FAILURES:
            place = self.failures / f"{kept}-{why}-{self._name}"
            shutil.copytree(self._scene.run.parent, place)
            shutil.copy(self._scene.log, place)
            say(f"kept: {place}")

    def _leave(self) -> None:
        assert self._scene is not None
        if self._scene.process is not None:
            self._scene.process.kill()
            self._scene.process.wait()
        place = self._scene.run.parent
        if self._scene.mount is not None:
            faults.unmount(place)
        shutil.rmtree(place)
        self._scene.log.unlink()
        self._scene, self.pending = None, []


def difference(scene: Scene, reference: Reference) -> tuple[str, int]:
    """What differs from the undisturbed run, and the newest step that was held against it."""
    path = scene.run / "metrics.jsonl"
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    if not reference.metrics.startswith(whole):
        return "metrics.jsonl: another line than in the undisturbed run", 0
    try:
        saved, rejected = checkpoint.newest(scene.checkpoints)
    except DataError as error:
        return str(error), 0
    for reason in rejected:
        if not any(f"/{step}" in reason for step in scene.damaged):
            return reason, 0
    if saved is None or saved.step not in reference.arrays:
        return "", 0  # a signal stopped it between two saves: the next one will tell
    if arrays(saved.folder.absolute()) != reference.arrays[saved.step]:
        return f"step {saved.step}: other arrays than in the undisturbed run", 0
    return "", saved.step


def table(verdicts: list[Verdict]) -> str:
    """A row for each kind of fault."""
    kinds = defaultdict(list)
    for verdict in verdicts:
        kinds[verdict.kind.replace("_", " ")].append(verdict)
    rows = [
        "| fault | times | exact | told | seconds lost, mean | most |",
        "| --- " + "| ---: " * 5 + "|",
    ]
    for kind, some in [*kinds.items(), ("all", verdicts)]:
        must_tell = [v for v in some if v.struck.told is not None]
        lost = [v.struck.lost for v in some]
        told = f"{sum(not v.silent for v in must_tell)} of {len(must_tell)}" if must_tell else ""
        exact = f"{sum(bool(v.exact) for v in some)}"
        rows.append(
            f"| {kind} | {len(some)} | {exact} | {told} | {statistics.mean(lost):.1f} "
            f"| {max(lost):.1f} |"
        )
    return "\n".join(rows)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(
    minutes: float = 60.0,
    kills: float = 0.6,
    seed: int | None = None,
    steps: int = 600,
    folder: Path | None = None,
) -> None:
    """Break runs for so many minutes; `kills` is the share of plain kills among the faults."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    say(f"seed {seed}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    place = Path(tempfile.mkdtemp(prefix="soak-")) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    soak = Soak(place, seed, steps)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        soak.fault(kills)
    soak.close()
    print(f"\n{table(soak.verdicts)}\n\nseed {seed}, {time.strftime('%Y-%m-%d')}")
    wrong = [v for v in soak.verdicts if v.silent or not v.exact]
    if wrong:
        say(f"{len(wrong)} faults were silent or inexact; see {soak.failures}")
        sys.exit(1)
    if folder is None:
        shutil.rmtree(place)


if __name__ == "__main__":
    tyro.cli(main)
