"""Faults that are really done to a run: signals, damaged files, full disks, other processes.

A fault is a function of a Scene: it does one thing to the run, or to the process that trains it,
and says what it did and whether the run told of it as promised. Used by tools.soak.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from lmjax.runtime import checkpoint, journal
from lmjax.text.errors import DataError

LIMIT = 240.0
"""Seconds after which a process that should have ended hangs."""


class Hang(RuntimeError):
    """A process did not end, or a run did not move, within LIMIT."""


class Struck(NamedTuple):
    """What was done, and whether the run told of it as promised; None where it need not."""

    what: str
    told: bool | None = None
    answer: str = ""
    """Exit code or message, for a person to read."""
    lost: float = 0.0
    """Seconds of training that have to be done again."""


@dataclass
class Scene:
    """A run, the process that trains it if there is one, and all that faults can reach."""

    run: Path
    recipe: Path
    corpus: Path
    environment: dict[str, str]
    random: random.Random
    mount: Path | None
    """The small file system that holds the run, if one could be mounted."""
    start_up: float
    """Seconds to the first step, about."""
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    damaged: set[int] = field(default_factory=set)
    """Steps that faults have damaged; some have been saved anew since."""
    _said_from: int = 0

    @property
    def log(self) -> Path:
        return self.run.parent.with_suffix(".log")  # not on the small file system

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    def start(self) -> None:
        """Train in a process of its own, a group of its own."""
        assert self.process is None
        self._said_from = self.log.stat().st_size if self.log.exists() else 0
        self.began = time.time()
        with self.log.open("ab") as log:
            self.process = self.command("train", *self.arguments(), stderr=log)

    def arguments(self) -> list[str]:
        """Of the command that trains the run."""
        named = {"--config": self.recipe, "--data": self.corpus, "--run": self.run}
        return [str(word) for pair in named.items() for word in pair]

    def command(self, verb: str, *words: str, stderr: IO[bytes] | int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"lmjax.{verb}", *words],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )

    def said(self) -> str:
        """What the last training process has printed."""
        with self.log.open("rb") as log:
            log.seek(self._said_from)
            return log.read().decode(errors="replace")

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def end(self) -> tuple[int, float]:
        """Wait for the process: its exit code, and the seconds since its last sealed step."""
        assert self.process is not None
        try:
            code = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Hang(f"{self.run}: no end within {LIMIT:.0f} s") from None
        finally:
            self.process = None
        return code, time.time() - max(self.began, self._sealed_at())

    def kill(self) -> float:
        """SIGKILL; the seconds of training it lost."""
        assert self.process is not None
        self.process.kill()
        _, lost = self.end()
        return lost

    def wait(self, condition: Callable[[], bool], seconds: float = LIMIT) -> bool:
        """Wait for a condition; whether it came true before the process ended."""
        limit = time.monotonic() + seconds
        while not condition():
            if self.ended():
                return condition()
            if time.monotonic() > limit:
                raise Hang(f"{self.run}: it did not move within {seconds:.0f} s")
            time.sleep(0.01)
        return True

    def resumed(self) -> bool:
        """Start if need be and wait until the state is restored; whether it came to that."""
        if not self.ended():
            return True
        self.process = None
        before = lines(self.run / "events.jsonl")
        self.start()
        return self.wait(lambda: lines(self.run / "events.jsonl") > before)

    def stepping(self) -> bool:
        """Start if need be and wait for some steps; whether it came to that, and goes on."""
        before = lines(self.run / "timing.jsonl")
        if not self.resumed():
            return False
        if not self.wait(lambda: lines(self.run / "timing.jsonl") > before):
            return False
        time.sleep(self.random.uniform(0, 1.5))
        return not self.ended()

    def stopped(self) -> None:
        """No process, by SIGKILL if need be, and a checkpoint or two."""
        if not self.ended() or self.process is not None:
            self.kill()

    def whole(self) -> list[int]:
        """Steps that a start could go on from, newest first."""

        def verifies(step: int) -> bool:
            with contextlib.suppress(DataError):
                return bool(checkpoint.verify(self.checkpoints / str(step)))
            return False

        return [step for step in checkpoint.steps(self.checkpoints) if verifies(step)]

    def phase(self) -> str:
        """What the process is doing, told from the files it leaves."""
        assert self.process is not None
        with contextlib.suppress(OSError, ValueError):
            if json.loads((self.run / "lock").read_text())["pid"] == self.process.pid:
                if any(self.checkpoints.glob(".trash-*")):
                    return "delete"
                if any(self.checkpoints.glob(".saving-*")):
                    return "save"
                written = [p.stat().st_mtime for p in self.run.glob("timing.jsonl")]
                if written and written[0] > self.began and " tok/s" in self.said():
                    return "step"
                if (self.run / "events.jsonl").stat().st_mtime > self.began:
                    return "compile"
                return "restore"
        return "import"

    def _sealed_at(self) -> float:
        seals = [p.stat().st_mtime for p in self.checkpoints.glob("[0-9]*/seal.json")]
        return max(seals, default=0.0)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# ---- The process


def kill(scene: Scene) -> Struck | None:
    """SIGKILL at a random instant of a start, or of the steps after it."""
    if scene.random.random() < 0.5:
        scene.stopped()
        scene.start()
        time.sleep(scene.random.uniform(0, 1.5 * scene.start_up))
    else:
        scene.stepping()
    if scene.ended():
        return None
    phase = scene.phase()
    lost = scene.kill()
    return Struck(f"SIGKILL in {phase}", lost=lost)


def _asked(scene: Scene, number: signal.Signals, group: bool) -> Struck | None:
    if scene.ended():
        scene.process = None
        scene.start()
        time.sleep(scene.random.uniform(0, 1.5 * scene.start_up))
    else:
        time.sleep(scene.random.uniform(0, 1.5))
    if scene.ended():
        return None
    assert scene.process is not None
    phase = scene.phase()
    (os.killpg if group else os.kill)(scene.process.pid, number)
    code, lost = scene.end()
    # Before it listens, and after it is done, a signal ends it as it ends any program.
    promised = {75, -number} if phase == "import" else {75}
    told = code in promised or finished(scene)
    to = "the group" if group else "the process"
    return Struck(f"{number.name} to {to} in {phase}", told, f"exit {code}", lost)


def terminate(scene: Scene) -> Struck | None:
    """SIGTERM or SIGINT, to the process or to its group."""
    number = scene.random.choice((signal.SIGTERM, signal.SIGINT))
    return _asked(scene, number, group=scene.random.random() < 0.5)


def terminate_twice(scene: Scene) -> Struck | None:
    """A second SIGTERM ends it at once."""
    if not scene.stepping():
        return None
    assert scene.process is not None
    scene.process.terminate()
    time.sleep(scene.random.uniform(0, 0.1))
    scene.process.terminate()
    asked = time.monotonic()
    code, lost = scene.end()
    told = (code in (75, 128 + signal.SIGTERM) and time.monotonic() - asked < 2) or finished(scene)
    return Struck("SIGTERM twice", told, f"exit {code}", lost)


def suspend(scene: Scene) -> Struck | None:
    """SIGSTOP, some seconds of nothing, SIGCONT."""
    if not scene.stepping():
        return None
    assert scene.process is not None
    scene.process.send_signal(signal.SIGSTOP)
    time.sleep(scene.random.uniform(0.5, 3))
    scene.process.send_signal(signal.SIGCONT)
    return Struck("SIGSTOP, SIGCONT")


def second_trainer(scene: Scene) -> Struck | None:
    """The same command again while the first still trains."""
    if not scene.stepping():
        return None
    assert scene.process is not None
    second = scene.command("train", *scene.arguments(), stderr=subprocess.PIPE)
    err = second.communicate(timeout=LIMIT)[1].decode()
    named = f'"pid": {scene.process.pid}' in err
    if scene.ended() or finished(scene):  # the second came too late to be refused
        return None
    return Struck(
        "a second trainer", second.returncode == 73 and named, f"exit {second.returncode}"
    )


def reader(scene: Scene) -> Struck | None:
    """Evaluate or generate while it trains; an encoder generates nothing, and says so."""
    if not scene.stepping():
        return None
    verb, words = scene.random.choice(
        (("evaluate", ["--json"]), ("generate", ["--prompt", "The", "--max-tokens", "4"]))
    )
    other = scene.command(verb, "--run", str(scene.run), *words, stderr=subprocess.PIPE)
    err = other.communicate(timeout=LIMIT)[1].decode()
    told = other.returncode == 0
    if verb == "generate" and "causal=False" in scene.recipe.read_text():
        told = other.returncode == 78 and "model.causal: expected" in err
    return Struck(f"{verb} on the live run", told, err.strip()[-200:])


def drift(scene: Scene) -> Struck | None:
    """Started again with another setting: refused with both values, and nothing is changed."""
    scene.stopped()
    if finished(scene) or not (scene.run / "config.json").exists():
        return None
    key, value = scene.random.choice(
        (("optimizer.learning-rate", "0.123"), ("seed", "123"), ("model.width", "64"))
    )
    before = {path: path.read_bytes() for path in scene.run.glob("*.json")}
    refused = scene.command("train", *scene.arguments(), f"--{key}", value, stderr=subprocess.PIPE)
    err = refused.communicate(timeout=LIMIT)[1].decode()
    named = key.replace("-", "_") in err and value in err and "other settings" in err
    same = before == {path: path.read_bytes() for path in scene.run.glob("*.json")}
    told = refused.returncode == 78 and named and same
    return Struck(f"started with {key} {value}", told, f"exit {refused.returncode}")


# ---- Checkpoints


def _damage(scene: Scene, name: str, do: Callable[[Path], str]) -> Struck | None:
    """Stop the run, do something to its newest step, and see whether it is passed over."""
    scene.stopped()
    if finished(scene):
        return None
    whole = scene.whole()
    if not whole:
        return None
    step = scene.checkpoints / str(whole[0])
    before = _elapsed(step)
    copy = scene.run.with_name("step-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(step, copy)
    what = do(step)
    scene.damaged.add(whole[0])
    came_on = scene.resumed()
    said = scene.said()
    told = "passed over: " in said and f"{step.name}" in said and what.split(":")[0] in said
    if came_on and len(whole) > 1:
        return Struck(
            f"{name}: {step.name}/{what}",
            told,
            "",
            before - _elapsed(step.with_name(str(whole[1]))),
        )
    code, _ = scene.end()
    told = code == 65 and what.split(":")[0] in said and "nothing was deleted" in said
    shutil.rmtree(step, ignore_errors=True)
    copy.rename(step)
    return Struck(f"{name}, the only step: {step.name}/{what}", told, f"exit {code}")


def _any_file(scene: Scene, step: Path) -> Path:
    return scene.random.choice(sorted(p for p in step.rglob("*") if p.is_file()))


def flip(scene: Scene) -> Struck | None:
    """One bit of any file of the newest step."""

    def do(step: Path) -> str:
        path = scene.random.choice(
            [p for p in sorted(step.rglob("*")) if p.is_file() and p.stat().st_size]
        )
        return f"{path.relative_to(step)}: {flip_bit(path, scene.random)}"

    return _damage(scene, "bit flip", do)


def cut(scene: Scene) -> Struck | None:
    """The end of any file of the newest step is missing."""

    def do(step: Path) -> str:
        path = scene.random.choice(
            [p for p in sorted(step.rglob("*")) if p.is_file() and p.stat().st_size]
        )
        size = scene.random.randrange(path.stat().st_size)
        os.truncate(path, size)
        return f"{path.relative_to(step)}: cut to {size} bytes"

    return _damage(scene, "cut", do)


def delete(scene: Scene) -> Struck | None:
    """A file of the newest step is gone."""

    def do(step: Path) -> str:
        path = _any_file(scene, step)
        path.unlink()
        return f"{path.relative_to(step)}: deleted"

    return _damage(scene, "delete", do)


def half_delete(scene: Scene) -> Struck | None:
    """Half of the newest step's files are gone, as if `rm -r` had been stopped."""

    def do(step: Path) -> str:
        files = sorted(p for p in step.rglob("*") if p.is_file())
        for path in files[: len(files) // 2]:
            path.unlink()
        return f": the first {len(files) // 2} of {len(files)} files deleted"

    return _damage(scene, "half deleted", do)


def lose_power(scene: Scene) -> Struck | None:
    """JSON files of the newest step are there and empty, as after a crash of the machine."""

    def do(step: Path) -> str:
        names = [p for p in sorted(step.rglob("*.json")) if p.is_file()]
        for path in names:
            os.truncate(path, 0)
        return f": {len(names)} JSON files emptied"

    return _damage(scene, "power loss", do)


def stray(scene: Scene) -> Struck | None:
    """An empty folder that looks like a newer step, and leftovers of a killed save."""
    scene.stopped()
    if finished(scene) or not scene.checkpoints.is_dir():
        return None
    folder = scene.checkpoints / str(10**9)
    folder.mkdir()
    for name in (".saving-77", ".trash-78"):
        (scene.checkpoints / name / "params").mkdir(parents=True)
    whole = scene.whole()
    came_on = scene.resumed()
    said = scene.said()
    told = f"{folder}: expected a sealed checkpoint" in said
    if not came_on:
        code, _ = scene.end()
        told = told and code == 65 and not whole
    folder.rmdir()
    left = [name for name in (".saving-77", ".trash-78") if (scene.checkpoints / name).exists()]
    return Struck("stray and half-written folders", told and not (came_on and left), f"left {left}")


# ---- Other files


def tear(scene: Scene) -> Struck | None:
    """Half a line at the end of a journal."""
    scene.stopped()
    path = scene.run / scene.random.choice(("metrics.jsonl", "events.jsonl", "timing.jsonl"))
    if finished(scene) or not path.exists():
        return None
    with path.open("ab") as file:
        file.write(b'{"step": 12, "lo')
    return Struck(f"half a line at the end of {path.name}", scene.resumed())


def damage_corpus(scene: Scene) -> Struck | None:
    """One bit of a shard, the tokenizer or the manifest: refused before a step is taken."""
    scene.stopped()
    if finished(scene):
        return None
    path = scene.random.choice(sorted(p for p in scene.corpus.iterdir() if p.is_file()))
    good = path.read_bytes()
    what = flip_bit(path, scene.random)
    scene.start()
    code, _ = scene.end()
    said = scene.said()
    path.write_bytes(good)
    # A manifest still a manifest after the flip is another corpus than the run was begun with.
    told = code == 65 and path.name in said
    if path.name == "manifest.json":
        told = code in (65, 78)
    return Struck(f"corpus, {path.name}: {what}", told, f"exit {code}")


def damage_cache(scene: Scene) -> Struck | None:
    """Bits of the compiled programs: compiled again, with the same result."""
    scene.stopped()
    entries = sorted(Path(scene.environment["XDG_CACHE_HOME"]).rglob("*-cache"))
    if finished(scene) or not entries:
        return None
    for path in entries:
        flip_bit(path, scene.random)
    return Struck(f"bit flips in {len(entries)} compiled programs", scene.resumed())


# ---- The file system


def _ended_by_itself(scene: Scene, what: str, undo: Callable[[], object]) -> Struck | None:
    asked = time.monotonic()
    try:
        code, lost = scene.end()
    finally:
        undo()
    if finished(scene):
        return None
    seconds = time.monotonic() - asked
    return Struck(what, code == 75, f"exit {code} after {seconds:.1f} s", lost)


def fill_disk(scene: Scene) -> Struck | None:
    """No byte is left on the file system."""
    if scene.mount is None or not scene.stepping():
        return None
    filler = scene.mount / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 20)):
            pass
    return _ended_by_itself(scene, "disk full", filler.unlink)


def take_inodes(scene: Scene) -> Struck | None:
    """No file can be made on the file system."""
    if scene.mount is None or not scene.stepping():
        return None
    folder = scene.mount / "many"
    folder.mkdir()
    with contextlib.suppress(OSError):
        for number in range(10**6):
            (folder / str(number)).touch()
    return _ended_by_itself(scene, "no inodes left", lambda: shutil.rmtree(folder))


def read_only(scene: Scene) -> Struck | None:
    """The checkpoints' folder becomes read-only under the run."""
    if scene.mount is None or not scene.stepping():
        return None
    folder = str(scene.checkpoints)
    _mount("--bind", folder, folder)
    _mount("-o", "remount,ro,bind", folder)
    return _ended_by_itself(scene, "checkpoints read-only", lambda: unmount(scene.checkpoints))


def read_only_start(scene: Scene) -> Struck | None:
    """The run is started on a file system that cannot be written."""
    scene.stopped()
    if scene.mount is None or finished(scene) or not scene.run.exists():
        return None
    _mount("-o", "remount,ro", str(scene.mount))
    scene.began = time.time()
    refused = scene.command("train", *scene.arguments(), stderr=subprocess.PIPE)
    err = refused.communicate(timeout=LIMIT)[1].decode()
    _mount("-o", "remount,rw", str(scene.mount))
    told = refused.returncode == 73 and "Traceback" not in err
    return Struck("read-only from the start", told, f"exit {refused.returncode}")


def mount_small(folder: Path) -> Path | None:
    """A tmpfs of 24 MiB and 600 inodes at `folder`; None where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", "size=24m,nr_inodes=600", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        return None
    return folder


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)  # noqa: S607


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)  # noqa: S607


# ---- Helpers


def finished(scene: Scene) -> bool:
    """Whether the run is done."""
    with contextlib.suppress(OSError):
        return b'"event": "done"' in (scene.run / "events.jsonl").read_bytes()
    return False


def flip_bit(path: Path, choose: random.Random) -> str:
    """Flip one bit of a file in place; which."""
    size = path.stat().st_size
    position, bit = choose.randrange(size), choose.randrange(8)
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))
    return f"bit {bit} of byte {position} of {size}"


def _elapsed(step: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        return float(json.loads((step / "numbers.json").read_bytes())["elapsed"])
    return 0.0


def last_step(run: Path) -> int:
    """The last step that the metrics tell of."""
    entries = journal.read(run / "metrics.jsonl")
    return max((entry["step"] for entry in entries), default=0)


Fault = Callable[[Scene], Struck | None]
"""None where it could not be done: the run was over, or has no file system of its own."""

OTHERS: tuple[Fault, ...] = (
    terminate,
    terminate_twice,
    suspend,
    second_trainer,
    reader,
    drift,
    flip,
    cut,
    delete,
    half_delete,
    lose_power,
    stray,
    tear,
    damage_corpus,
    damage_cache,
    fill_disk,
    take_inodes,
    read_only,
    read_only_start,
)
