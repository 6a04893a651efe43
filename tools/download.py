"""Fetch text from the Hugging Face hub: the first shards of a dataset, each one verified.

    python -m tools.download fineweb-edu --tokens 10B --to texts/fineweb-edu
    python -m tools.download --repo OWNER/NAME --pattern 'data/*.parquet' --shards 3 --to texts/name

Shards come in the order of their names until they hold what was asked for. `sources.json` keeps
the commit they are from: the same command, or one that asks for more, verifies what is there and
goes on with the rest. Exit codes: 65 bad data, 75 the hub failed (run it again), 78 bad config.
"""

import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

import tyro

from lmjax.config import ConfigError, parse_quantity
from lmjax.text.errors import DataError
from lmjax.text.sources import SUFFIXES

HUB = "https://huggingface.co"


class Dataset(NamedTuple):
    repo: str
    pattern: str = ""
    license: str | None = None
    bytes_per_token: float = 0.0  # of a shard, in tokens of GPT-2; 0 is unknown


# From the dataset cards and listings. FineWeb-Edu's 10BT is 28.5 GB with the columns beside the
# text. This ClimbMix is nvidia/ClimbMix as shuffled text, 6,543 shards of about 0.1 GB for 400 B.
DATASETS = {
    "climbmix": Dataset("karpathy/climbmix-400b-shuffle", "shard_*.parquet", "cc-by-nc-4.0", 1.5),
    "fineweb": Dataset("HuggingFaceFW/fineweb", "sample/10BT/*.parquet", "odc-by", 2.9),
    "fineweb-edu": Dataset("HuggingFaceFW/fineweb-edu", "sample/10BT/*.parquet", "odc-by", 2.9),
}


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    dataset: Annotated[str, tyro.conf.Positional] = ""  # climbmix, fineweb or fineweb-edu
    to: Path  # the folder to make or to go on with
    tokens: str | None = None  # how much, such as 10B: an estimate, in tokens of GPT-2
    gigabytes: float | None = None  # how much, as files on the disk
    shards: int | None = None  # how much, as a number of files
    repo: str = ""  # another dataset of the hub, OWNER/NAME
    pattern: str = ""  # other files, such as sample/100BT/*.parquet
    revision: str | None = None  # a commit, branch or tag; none: the folder's commit, else main
    endpoint: str = HUB  # the address of the hub


class Shard(NamedTuple):
    path: str
    bytes: int
    sha256: str


def main(argv: Sequence[str] | None = None) -> int:
    codes = {DataError: 65, ConnectionError: 75, ConfigError: 78, KeyboardInterrupt: 130}
    try:
        download(tyro.cli(CommandLine, args=argv, prog="tools.download", description=__doc__))
    except SystemExit as stop:
        return 78 if stop.code else 0
    except tuple(codes) as error:
        print(f"download: {str(error) or 'interrupted; the same command goes on'}", file=sys.stderr)
        return next(code for kind, code in codes.items() if isinstance(error, kind))
    return 0


def download(line: CommandLine) -> None:
    """Bring what is asked for into the folder; print the line for a recipe."""
    dataset, wanted = _asked(line)
    pinned = _pinned(line.to, dataset)
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ConfigError('needs huggingface_hub; pip install "lmjax[hf]"') from None
    # A saved token is for the public hub, not for whoever answers at another address.
    api = HfApi(endpoint=line.endpoint, token=None if line.endpoint == HUB else False)
    with _asking(api, dataset.repo):
        info = api.dataset_info(dataset.repo, revision=line.revision or pinned or "main")
    commit = info.sha or ""
    if not re.fullmatch("[0-9a-f]{40}", commit) or pinned not in (None, commit):
        raise ConfigError(f"{line.to}: expected commit {pinned or 'digits'}, found {commit!r}")
    if info.card_data is not None:
        dataset = dataset._replace(license=info.card_data.get("license", dataset.license))
    shards, held = [], 0.0
    for shard in _list(api, dataset, commit):
        if held < wanted or (line.to / shard.path).exists():  # a recipe reads all that is there
            shards.append(shard)
            held += shard.bytes if line.shards is None else 1
    if held < wanted:
        print(f"{dataset.repo}: has less than you asked for, taken whole", file=sys.stderr)
    there = [shard for shard in shards if _is_there(line.to / shard.path, shard)]
    missing = [shard for shard in shards if shard not in there]
    shutil.rmtree(line.to / ".download", ignore_errors=True)  # what a killed one left: no use now
    _check_disk(line.to, sum(shard.bytes for shard in missing))
    _write_sources(line.to, dataset, commit, there)
    for shard in missing:
        _fetch(api, dataset.repo, commit, shard, line.to)
        there.append(shard)
        _write_sources(line.to, dataset, commit, there)
    shutil.rmtree(line.to / ".download", ignore_errors=True)
    license = dataset.license or "unknown"
    print(f"{line.to}: {len(there)} shards, verified; license {license}", file=sys.stderr)
    source = f"{glob.escape(str(line.to))}/{dataset.pattern}"
    print(f'text=TextConfig(sources=("{source}",), field="text"),  # the column of the text')


def _asked(line: CommandLine) -> tuple[Dataset, float]:
    """What is asked for, and how much: shards, or else bytes."""
    if bool(line.dataset) == bool(line.repo) or line.dataset not in ("", *DATASETS):
        raise ConfigError(f"expected {', '.join(DATASETS)} or --repo, found {line.dataset!r}")
    dataset = DATASETS.get(line.dataset, Dataset(line.repo))
    dataset = dataset._replace(pattern=line.pattern or dataset.pattern)
    if not dataset.pattern.endswith(SUFFIXES):
        raise ConfigError(f"--pattern: expected an end of {SUFFIXES}, found {dataset.pattern!r}")
    sizes = [size for size in (line.tokens, line.gigabytes, line.shards) if size is not None]
    if len(sizes) != 1 or (line.tokens is not None and line.repo):
        raise ConfigError("expected one of --gigabytes, --shards and, without --repo, --tokens")
    wanted = line.shards or (line.gigabytes or 0) * 1e9
    if line.tokens is not None:
        tokens = parse_quantity(f"{line.tokens}tokens", "--tokens", ["tokens"])
        wanted = tokens.value * dataset.bytes_per_token
    if not wanted > 0:
        raise ConfigError(f"--gigabytes, --shards: expected more than 0, found {sizes[0]}")
    return dataset, wanted


def _pinned(to: Path, dataset: Dataset) -> str | None:
    """The commit that the folder is from; none for a new folder."""
    path = to / "sources.json"
    if not path.exists():
        if to.is_file() or any(to.glob("[!.]*")):
            raise ConfigError(f"--to: expected a new or empty folder, found other things at {to}")
        return None
    try:
        had = json.loads(path.read_text())
        repo, pattern, commit = had["repo"], had["pattern"], had["revision"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: expected what this tool wrote, found else; delete it") from None
    if (repo, pattern) != dataset[:2]:
        raise ConfigError(f"--to: {to} is of {repo} {pattern}, not {dataset[:2]}; take another")
    return commit


@contextlib.contextmanager
def _asking(api: Any, what: str) -> Iterator[None]:
    """Tell what is not on the hub from a hub that fails, where another try helps."""
    from huggingface_hub import errors as hub

    absent = hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError
    try:
        yield
    except (OSError, ValueError, hub.HTTPError) as error:
        kind = ConfigError if isinstance(error, (ValueError, *absent)) else ConnectionError
        raise kind(f"{api.endpoint}, {what}: {' '.join(str(error).split())}") from None


def _list(api: Any, dataset: Dataset, commit: str) -> list[Shard]:
    """The shards of the dataset, in the order of their names."""
    folders = dataset.pattern.split("/")[:-1]
    folder = "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), folders))
    where = {"revision": commit, "repo_type": "dataset"}
    with _asking(api, f"{dataset.repo}/{folder} at {commit}"):
        tree = list(api.list_repo_tree(dataset.repo, folder, recursive=True, **where))
    shards = []
    for file in (entry for entry in tree if hasattr(entry, "lfs")):
        if "\\" in file.path or {"", ".", ".."} & set(file.path.split("/")):
            raise DataError(f"{dataset.repo}: expected a name in its folder, found {file.path!r}")
        if PurePosixPath("/", file.path).match(f"/{dataset.pattern}"):
            if file.lfs is None:
                raise DataError(f"{dataset.repo}: expected a SHA-256 of {file.path}, found none")
            shards.append(Shard(file.path, file.size, file.lfs.sha256))
    if not shards:
        raise ConfigError(
            f"{dataset.repo}: no {dataset.pattern} in {len(tree)} files of {folder!r}"
        )
    return sorted(shards)


def _is_there(path: Path, shard: Shard) -> bool:
    """Whether the file is there with the bytes that the hub told; one with others is removed."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        path.unlink()
        message = f"expected SHA-256 {shard.sha256}, found {found}; removed, run the command again"
        raise DataError(f"{path}: {message}")
    print(f"{path}: verified", file=sys.stderr)
    return True


def _check_disk(to: Path, size: int) -> None:
    free = shutil.disk_usage(next(p for p in (to / "_").absolute().parents if p.exists())).free
    if size > free:
        found = f"expected {size / 1e9:.2f} GB free, found {free / 1e9:.2f}"
        raise ConfigError(f"--to: {to}: {found}; free some, ask for less or take another disk")


def _fetch(api: Any, repo: str, commit: str, shard: Shard, to: Path) -> None:
    """Download aside, verify, move: what stands in the folder is whole."""
    side, path = to / ".download", to / shard.path
    where = {"revision": commit, "repo_type": "dataset", "local_dir": side, "cache_dir": side}
    with _asking(api, f"{repo}/{shard.path}"):
        got = Path(api.hf_hub_download(repo, shard.path, **where))
    _is_there(got, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(got, path)


def _write_sources(to: Path, dataset: Dataset, commit: str, shards: Sequence[Shard]) -> None:
    """What the folder is; renamed into place, so that it is never half-written."""
    fields = {**dataset._asdict(), "revision": commit, "files": [s._asdict() for s in shards]}
    to.mkdir(parents=True, exist_ok=True)
    (to / ".sources.json").write_text(json.dumps(fields, indent=2) + "\n")
    os.replace(to / ".sources.json", to / "sources.json")


if __name__ == "__main__":
    sys.exit(main())
