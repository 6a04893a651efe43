"""The downloader against a hub on this machine: real requests, real Parquet files, no network."""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.utils import logging

from lmjax.config import TextConfig, TokenizerConfig
from lmjax.text.corpus import prepare
from tools import download

REPO, FOLDER, COMMIT = "HuggingFaceFW/fineweb-edu", "sample/10BT", "c0ffee" * 6 + "beef"
NAMES = [f"{FOLDER}/00{i}_00000.parquet" for i in range(3)]


class Hub(ThreadingHTTPServer):
    """The few endpoints that a download asks; what it lists and what it sends can differ."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commit = COMMIT
        self.sent = dict(files)
        self.listed = [
            {
                "type": "file",
                "path": path,
                "size": len(data),
                "oid": "0" * 40,
                "lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134},
            }
            for path, data in reversed(files.items())
        ]
        self.gets: list[str] = []
        self.ranges: list[str] = []
        self.break_off = False  # the next file, in its middle

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.split("?")[0].replace("%2F", "/")
        if path.startswith(f"/api/datasets/{REPO}/revision/"):
            info = {"id": REPO, "sha": hub.commit, "cardData": {"license": "of-the-card"}}
            self.reply(200, json.dumps(info).encode(), Content_Type="application/json")
        elif path.startswith(f"/api/datasets/{REPO}/tree/{COMMIT}"):
            folder = {"type": "directory", "path": "sample", "oid": "0" * 40}
            tree = json.dumps([folder, *hub.listed]).encode()
            self.reply(200, tree, Content_Type="application/json")
        elif path.startswith(start := f"/datasets/{REPO}/resolve/{COMMIT}/"):
            self.send_file(path.removeprefix(start))
        else:
            self.reply(404, X_Error_Code="RepoNotFound")

    def send_file(self, name: str) -> None:
        hub, data = self.server, self.server.sent[name]
        etag = next(file["lfs"]["oid"] for file in hub.listed if file["path"] == name)
        facts = {
            "ETag": f'"{etag}"',
            "X_Linked_Etag": f'"{etag}"',
            "X_Linked_Size": str(len(data)),
            "X_Repo_Commit": COMMIT,
        }
        if self.command == "HEAD":
            self.reply(200, data, **facts)
            return
        hub.gets.append(name)
        if hub.break_off:
            hub.break_off = False
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        asked = self.headers.get("Range")
        if asked is None:
            self.reply(200, data, **facts)
            return
        hub.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.reply(206, data[start:], Content_Range=span, **facts)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    folder, made = tmp_path_factory.mktemp("hub"), {}
    for shard, name in enumerate(NAMES):
        rows = [
            f"Shard {shard}, row {row}: ships that pass at night {row * row}." for row in range(900)
        ]
        table = pyarrow.table({"text": rows, "id": [str(row) for row in range(900)]})
        pyarrow.parquet.write_table(table, folder / "shard.parquet")
        made[name] = (folder / "shard.parquet").read_bytes()
    return made


@pytest.fixture
def hub(files):
    logging.set_verbosity_error()  # its handler keeps one test's stderr
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(hub: Hub, to: Path, *words: str, dataset: tuple[str, ...] = ("fineweb-edu",)) -> int:
    return download.main([*dataset, "--to", str(to), "--endpoint", hub.address, *words])


def shards(to: Path) -> list[str]:
    return sorted(str(path.relative_to(to)) for path in to.rglob("*.parquet"))


def test_shards_come_in_order_as_they_are_and_become_a_corpus(hub, files, tmp_path, capsys):
    to = tmp_path / "texts"
    assert run(hub, to, "--shards", "2") == 0
    assert shards(to) == NAMES[:2]
    assert all((to / name).read_bytes() == files[name] for name in NAMES[:2])
    assert sorted(path.name for path in to.iterdir()) == ["sample", "sources.json"]

    sources = json.loads((to / "sources.json").read_text())
    assert (sources["repo"], sources["revision"]) == (REPO, COMMIT)
    assert sources["license"] == "of-the-card"
    assert sources["files"] == [
        {"path": name, "bytes": len(files[name]), "sha256": sha256(files[name])}
        for name in NAMES[:2]
    ]

    printed = capsys.readouterr().out
    config = eval(f"dict({printed.splitlines()[0]}\n)", {"TextConfig": TextConfig})  # noqa: S307
    text = TextConfig(
        sources=config["text"].sources,
        field=config["text"].field,
        tokenizer=TokenizerConfig(vocab_size=300),
        processes=1,
    )
    made = prepare(text, tmp_path / "corpus")
    assert made.train.documents + made.val.documents == 1800


def test_a_second_call_fetches_only_what_is_missing(hub, tmp_path, capsys):
    assert run(hub, tmp_path / "texts", "--shards", "1") == 0
    assert hub.gets == NAMES[:1]
    assert run(hub, tmp_path / "texts", "--shards", "1") == 0
    assert hub.gets == NAMES[:1]
    assert f"{NAMES[0]}: verified" in capsys.readouterr().err
    assert run(hub, tmp_path / "texts", "--shards", "3") == 0
    assert hub.gets == NAMES
    assert run(hub, tmp_path / "texts", "--shards", "1") == 0  # what is there stays on the record
    files = json.loads((tmp_path / "texts" / "sources.json").read_text())["files"]
    assert [file["path"] for file in files] == NAMES


@pytest.mark.parametrize(("size", "count"), [(0.5, 1), (1.0, 1), (1.5, 2), (2.9, 3), (99.0, 3)])
def test_a_size_is_reached_by_the_fewest_shards(hub, files, tmp_path, capsys, size, count):
    each = len(files[NAMES[0]])
    assert all(abs(len(data) - each) < 0.05 * each for data in files.values())
    assert run(hub, tmp_path / "size", "--gigabytes", str(size * each / 1e9)) == 0
    assert shards(tmp_path / "size") == NAMES[:count]
    assert ("less than you asked for" in capsys.readouterr().err) == (size > 3)
    tokens = size * each / download.DATASETS["fineweb-edu"].bytes_per_token
    assert run(hub, tmp_path / "tokens", "--tokens", f"{round(tokens)}") == 0
    assert shards(tmp_path / "tokens") == NAMES[:count]


def test_a_shard_with_a_flipped_byte_is_refused_and_removed(hub, files, tmp_path, capsys):
    flipped = bytearray(files[NAMES[1]])
    flipped[100] ^= 1
    hub.sent[NAMES[1]] = bytes(flipped)
    assert run(hub, tmp_path, "--shards", "3") == 65
    error = capsys.readouterr().err
    assert all(part in error for part in (NAMES[1], sha256(files[NAMES[1]]), sha256(flipped)))
    assert shards(tmp_path) == NAMES[:1]

    hub.sent = dict(files)
    assert run(hub, tmp_path, "--shards", "3") == 0
    assert shards(tmp_path) == NAMES
    assert hub.gets.count(NAMES[0]) == 1


def test_a_shard_that_rotted_on_the_disk_is_removed_and_comes_again(hub, files, tmp_path):
    assert run(hub, tmp_path, "--shards", "2") == 0
    (tmp_path / NAMES[0]).write_bytes(files[NAMES[0]][:-1])
    assert run(hub, tmp_path, "--shards", "2") == 65
    assert shards(tmp_path) == NAMES[1:2]
    assert run(hub, tmp_path, "--shards", "2") == 0
    assert (tmp_path / NAMES[0]).read_bytes() == files[NAMES[0]]


def break_off(hub: Hub, monkeypatch, then: BaseException | None) -> None:
    """Close the connection in the middle of the next shard; `then` comes before the next try."""

    def wait(seconds: float) -> None:
        if then is not None:
            raise then

    hub.break_off = True
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", wait)


def test_a_broken_connection_is_taken_up_where_it_broke(hub, files, tmp_path, monkeypatch):
    break_off(hub, monkeypatch, then=None)
    assert run(hub, tmp_path, "--shards", "1") == 0
    assert hub.ranges == [f"bytes={len(files[NAMES[0]]) // 2 // 1000 * 1000}-"]
    assert (tmp_path / NAMES[0]).read_bytes() == files[NAMES[0]]


def test_after_an_interrupt_the_same_command_goes_on(hub, tmp_path, monkeypatch, capsys):
    assert run(hub, tmp_path, "--shards", "1") == 0
    break_off(hub, monkeypatch, then=KeyboardInterrupt())
    assert run(hub, tmp_path, "--shards", "2") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert shards(tmp_path) == NAMES[:1]
    (tmp_path / ".download" / "left.incomplete").write_text("by a kill")
    assert run(hub, tmp_path, "--shards", "2") == 0
    assert hub.gets == [NAMES[0], NAMES[1], NAMES[1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample", "sources.json"]


@pytest.mark.parametrize(
    "name",
    ["../evil.parquet", "/evil.parquet", f"{FOLDER}/../../../evil.parquet", "..\\evil.parquet"],
)
def test_a_name_that_leaves_the_folder_is_refused(hub, tmp_path, capsys, name):
    hub.listed.append({**hub.listed[0], "path": name})
    assert run(hub, tmp_path / "a" / "b", "--shards", "1") == 65
    assert repr(name) in capsys.readouterr().err
    assert hub.gets == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_digest_is_refused(hub, tmp_path, capsys):
    del hub.listed[0]["lfs"]
    assert run(hub, tmp_path, "--shards", "1") == 65
    assert f"SHA-256 of {NAMES[2]}" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(hub, tmp_path, capsys):
    hub.listed[1]["size"] = 10**18
    assert run(hub, tmp_path / "texts", "--shards", "2") == 78
    assert "expected 1000000000.00 GB free" in capsys.readouterr().err
    assert hub.gets == []
    assert list(tmp_path.iterdir()) == []


def test_another_dataset_of_the_hub(hub, tmp_path, capsys):
    words = ("--repo", REPO, "--pattern", "*/*/00[12]_*.parquet")
    assert run(hub, tmp_path / "texts", *words, "--shards", "5", dataset=()) == 0
    assert shards(tmp_path / "texts") == NAMES[1:]
    assert f"{tmp_path}/texts/*/*/00[12]_*.parquet" in capsys.readouterr().out
    nothing = ("--repo", REPO, "--pattern", "*.parquet")
    assert run(hub, tmp_path / "none", *nothing, "--shards", "1", dataset=()) == 78
    absent = ("--repo", "no/where", "--pattern", "*.parquet")
    assert run(hub, tmp_path / "none", *absent, "--shards", "1", dataset=()) == 78
    assert "no/where" in capsys.readouterr().err


def test_a_folder_holds_one_commit_of_one_dataset_and_nothing_else(hub, tmp_path, capsys):
    to = tmp_path / "texts"
    assert run(hub, to, "--shards", "1") == 0
    assert run(hub, to, "--shards", "1", "--pattern", "sample/100BT/*.parquet") == 78
    assert "sample/100BT/*.parquet" in capsys.readouterr().err
    assert run(hub, to, "--shards", "1", dataset=("climbmix",)) == 78
    assert f"{to} is of {REPO}" in capsys.readouterr().err
    hub.commit = "f" * 40
    assert run(hub, to, "--shards", "2", "--revision", "main") == 78
    assert COMMIT in capsys.readouterr().err
    assert shards(to) == NAMES[:1]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    hub.commit = COMMIT
    assert run(hub, tmp_path / "other", "--shards", "1") == 78
    assert "found other things" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--shards", "0"),
        ("--shards", "-1"),
        ("--gigabytes", "nan"),
        ("--tokens", "ten"),
        ("--shards", "1", "--tokens", "1B"),
        ("--shards", "1", "--repo", REPO),
        ("--shards", "1", "--pattern", "sample/*.py"),
        ("--wrong", "1"),
    ],
)
def test_what_cannot_be_meant_is_refused(hub, tmp_path, words):
    assert run(hub, tmp_path / "texts", *words) == 78
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_does_not_answer_is_worth_another_try(hub, tmp_path, capsys):
    words = ["fineweb-edu", "--to", str(tmp_path), "--shards", "1"]
    assert download.main([*words, "--endpoint", "http://127.0.0.1:9"]) == 75
    assert "http://127.0.0.1:9" in capsys.readouterr().err


def test_a_missing_library_is_named_with_its_extra(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run(hub, tmp_path, "--shards", "1") == 78
    assert 'pip install "lmjax[hf]"' in capsys.readouterr().err
