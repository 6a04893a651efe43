"""A flipped bit, a file cut short, gone or never there: it is found, named and survived."""

import random
import re
import shutil
from pathlib import Path

import pytest

from lmjax.data import corpus as corpora
from lmjax.runtime import checkpoint
from lmjax.text.errors import DataError

POSITIONS = 12
DIGESTS = r"expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flips(path: Path):
    """The file with one bit flipped, at its ends and at places drawn between; then as it was."""
    good = path.read_bytes()
    draw = random.Random(path.name)  # noqa: S311
    inner = range(1, max(1, len(good) - 1))
    places = {0, len(good) - 1, *draw.sample(inner, min(POSITIONS - 2, len(inner)))}
    for place in sorted(places):
        bad = bytearray(good)
        bad[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        yield
    path.write_bytes(good)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, to damage."""
    return shutil.copytree(finished.run, tmp_path / "damaged")


def passed_over(run: Path, named: Path) -> str:
    """Why the newest step was rejected; the one before must have been taken."""
    newest, before, *_ = checkpoint.steps(run / "checkpoints")
    saved, rejected = checkpoint.newest(run / "checkpoints")
    assert saved is not None and saved.step == before != newest
    (reason,) = rejected
    assert str(named) in reason
    return reason


def test_a_flipped_bit_in_any_file_of_a_checkpoint(run):
    newest = run / "checkpoints" / str(checkpoint.steps(run / "checkpoints")[0])
    assert len(files(newest)) > 15
    for path in files(newest):
        for _ in flips(path):
            if path.name == "seal.json":  # its damage may show at the file it speaks of
                passed_over(run, newest)
            else:
                assert re.search(DIGESTS, passed_over(run, path))
    saved, rejected = checkpoint.newest(run / "checkpoints")
    assert saved is not None and saved.folder == newest and rejected == []


@pytest.mark.parametrize("damage", ["cut", "emptied", "deleted"])
def test_a_file_of_a_checkpoint_that_is_not_whole(run, damage):
    newest = run / "checkpoints" / str(checkpoint.steps(run / "checkpoints")[0])
    for path in files(newest):
        good = path.read_bytes()
        if not good and damage != "deleted":
            continue
        path.unlink() if damage == "deleted" else path.write_bytes(
            good[: len(good) // 2 if damage == "cut" else 0]
        )
        passed_over(run, newest if path.name == "seal.json" else path)
        path.write_bytes(good)


def test_half_of_a_checkpoint_and_folders_that_are_none(run):
    folder = run / "checkpoints"
    newest = folder / str(checkpoint.steps(folder)[0])
    for number in range(len(files(newest))):
        half = shutil.copytree(newest, folder / "100")
        for path in files(half)[: number + 1]:
            path.unlink()
        saved, rejected = checkpoint.newest(folder)
        assert saved is not None and saved.folder == newest
        assert len(rejected) == 1 and str(half) in rejected[0]
        shutil.rmtree(half)
    (folder / "0070").mkdir()
    (folder / "80").write_text("a file")
    (folder / ".saving-90").mkdir()
    saved, rejected = checkpoint.newest(folder)
    assert saved is not None and saved.folder == newest
    assert all("70" in reason for reason in rejected)


def test_a_flipped_bit_in_any_file_of_a_corpus(corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    assert len(files(copy)) == 5
    for path in files(copy):
        for _ in flips(path):
            named = "manifest.json" if path.name == "manifest.sha256" else path.name
            with pytest.raises(DataError, match=re.escape(named)) as error:
                corpora.open_corpus(copy)
            if path.suffix in (".bin", ".model"):
                assert re.search(DIGESTS, str(error.value))
    assert corpora.open_corpus(copy).digest == corpora.open_corpus(corpus).digest


@pytest.mark.parametrize("damage", ["cut", "emptied", "deleted"])
def test_a_file_of_a_corpus_that_is_not_whole(corpus, tmp_path, damage):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    for path in files(copy):
        if path.name.startswith("manifest") and damage == "deleted":
            continue
        good = path.read_bytes()
        path.unlink() if damage == "deleted" else path.write_bytes(
            good[: len(good) // 2 if damage == "cut" else 0]
        )
        with pytest.raises(DataError, match="manifest" if "manifest" in path.name else path.name):
            corpora.open_corpus(copy)
        path.write_bytes(good)


def test_another_dtype_in_the_manifest_is_refused_before_the_first_step(commands, corpus):
    copy = shutil.copytree(corpus, commands.folder / "other")
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"uint16"', '"uint32"'))
    ended = commands.run("train", "--config", "default.py", "--data", str(copy))
    assert (ended.code, ended.out) == (65, "")
    assert "manifest.json" in ended.err and "Traceback" not in ended.err
    assert not (commands.folder / "run" / "checkpoints").exists()
