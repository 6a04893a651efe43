"""The schema: what goes in comes out, and what cannot work is refused by its name."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax import config as configuration
from lmjax.config import (
    BatchConfig,
    CheckpointConfig,
    CleaningConfig,
    Config,
    ConfigError,
    EvaluationConfig,
    LogConfig,
    LSTMConfig,
    NPLMConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RampConfig,
    SampleConfig,
    ScheduleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    parse_quantity,
)

RECIPE = """
from lmjax.config import Config, TransformerConfig

def get_config():
    return Config(budget="7steps", model=TransformerConfig(width=64, heads=4))

def make_optimizer(config):
    return ("chain", config.optimizer.learning_rate)
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def refused(key: str):
    return pytest.raises(ConfigError, match="^" + re.escape(key) + r": ")


# ---- JSON

CONFIGS = st.builds(
    Config,
    seed=st.integers(0, 2**31 - 1),
    data=st.text(),
    optimizer=st.builds(
        OptimizerConfig,
        learning_rate=st.floats(0, allow_infinity=False),
        clip_norm=st.none() | st.floats(1e-9, 1e9),
    ),
    model=st.builds(
        TransformerConfig,
        vocab_size=st.none() | st.integers(1),
        window_pattern=st.sampled_from(["L", "SL", "SSL"]),
        window=st.integers(1),
        bias=st.booleans(),
        dtype=st.sampled_from(["auto", "float32", "bfloat16"]),
        remat=st.sampled_from(["auto", "none", "full"]),
    )
    | st.builds(
        LSTMConfig, truncate=st.none() | st.integers(1), dropout=st.floats(0, 1, exclude_max=True)
    )
    | st.builds(NPLMConfig, context=st.integers(1), direct=st.booleans()),
    batch=st.builds(BatchConfig, rows=st.just(8), micro_rows=st.sampled_from([None, 1, 4, "auto"])),
    objective=st.builds(
        ObjectiveConfig,
        kind=st.sampled_from(["next_token", "masked"]),
        mask_id=st.none() | st.integers(0),
    ),
    ramp=st.builds(
        RampConfig,
        rows=st.just(()) | st.tuples(st.tuples(st.floats(0.1, 0.9), st.sampled_from([4, 16]))),
        momentum=st.just(()) | st.just(((0.0, 0.5), (1.0, 0.9))),
    ),
    sample=st.builds(SampleConfig, prompts=st.lists(st.text()).map(tuple)),
)


@given(config=CONFIGS)
def test_a_config_survives_json(config):
    text = configuration.to_json(config)
    assert configuration.from_json(text) == config
    assert configuration.to_json(configuration.from_json(text)) == text


def test_a_whole_number_may_stand_for_a_float():
    config = configuration.from_json('{"optimizer": {"weight_decay": 1}}')
    assert type(config.optimizer.weight_decay) is float


def test_what_json_leaves_out_keeps_its_default():
    config = configuration.from_json('{"model": {"depth": 3}}')
    assert config == Config(model=TransformerConfig(depth=3))


def test_the_kind_tells_which_model_it_is():
    config = configuration.from_json('{"model": {"kind": "lstm", "truncate": 3}}')
    assert config == Config(model=LSTMConfig(truncate=3))
    with pytest.raises(ConfigError, match="one of transformer, lstm, nplm, found 'rnn'"):
        configuration.from_json('{"model": {"kind": "rnn"}}')


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"speed": 1}, "speed"),
        ({"model": {"layers": 3}}, "model.layers"),
        ({"text": {"cleaning": {"upper": True}}}, "text.cleaning.upper"),
        ({"model": 3}, "model"),
        ({"model": {"depth": "3"}}, "model.depth"),
        ({"model": {"depth": 3.0}}, "model.depth"),
        ({"model": {"depth": True}}, "model.depth"),
        ({"model": {"depth": None}}, "model.depth"),
        ({"model": {"bias": 1}}, "model.bias"),
        ({"model": {"vocab_size": "64"}}, "model.vocab_size"),
        ({"model": {"norm": "batch"}}, "model.norm"),
        ({"optimizer": {"beta1": "0.9"}}, "optimizer.beta1"),
        ({"optimizer": {"beta1": True}}, "optimizer.beta1"),
        ({"sample": {"prompts": "one"}}, "sample.prompts"),
        ({"sample": {"prompts": ["one", 2]}}, "sample.prompts[1]"),
        ({"batch": {"micro_rows": "many"}}, "batch.micro_rows"),
        ({"batch": {"micro_rows": 1.0}}, "batch.micro_rows"),
        ({"model": {"remat": "some"}}, "model.remat"),
        ({"ramp": {"rows": [[0.5, "2"]]}}, "ramp.rows[0][1]"),
        ({"ramp": {"rows": [[0.5, 2, 3]]}}, "ramp.rows[0]"),
        ({"model": {"kv_heads": 4}}, "model.kv_heads"),
        ({"model": {"kind": "rnn"}}, "model.kind"),
        ({"model": {"kind": 3}}, "model.kind"),
        ({"model": {"kind": ["lstm"]}}, "model.kind"),
        ({"model": {"kind": "lstm", "heads": 2}}, "model.heads"),
        ({"model": {"kind": "nplm", "context": 0}}, "model.context"),
        ({"model": {"vocab_size": {}}}, "model.vocab_size"),
        ([], "config"),
    ],
)
def test_json_that_does_not_fit_is_refused(data, key):
    with refused(key):
        configuration.from_json(json.dumps(data))


def test_a_refusal_of_an_unknown_name_tells_the_names():
    with pytest.raises(ConfigError, match=r"model.dept: unknown; the names are .*\bdepth\b"):
        configuration.from_json('{"model": {"dept": 3}}')


def test_what_is_not_json_is_refused():
    with refused("config.json"):
        configuration.from_json("{")


# ---- Impossible values


@pytest.mark.parametrize(
    ("kind", "numbers", "key"),
    [
        (Config, {"budget": "10"}, "budget"),
        (Config, {"budget": "10%"}, "budget"),
        (Config, {"seed": -1}, "seed"),
        (Config, {"seed": 2**31}, "seed"),
        (CleaningConfig, {"min_chars": -1}, "text.cleaning.min_chars"),
        (TokenizerConfig, {"vocab_size": 299}, "text.tokenizer.vocab_size"),
        (TokenizerConfig, {"sample_bytes": 0}, "text.tokenizer.sample_bytes"),
        (TextConfig, {"sources": ()}, "text.sources"),
        (TextConfig, {"validation": 0.0}, "text.validation"),
        (TextConfig, {"validation": 1.0}, "text.validation"),
        (TextConfig, {"document_chars": 99}, "text.document_chars"),
        (TextConfig, {"shard_tokens": 999}, "text.shard_tokens"),
        (TextConfig, {"processes": 0}, "text.processes"),
        *(
            (TransformerConfig, {name: 0}, f"model.{name}")
            for name in ("vocab_size", "length", "depth", "width", "heads", "kv_heads")
        ),
        *(
            (TransformerConfig, {name: 0}, f"model.{name}")
            for name in ("head_width", "ff_width", "window", "unroll")
        ),
        (TransformerConfig, {"width": 100, "heads": 6}, "model.heads"),
        (TransformerConfig, {"heads": 6, "kv_heads": 4}, "model.kv_heads"),
        (TransformerConfig, {"head_width": 5}, "model.head_width"),
        (TransformerConfig, {"window_pattern": ""}, "model.window_pattern"),
        (TransformerConfig, {"window_pattern": "LX"}, "model.window_pattern"),
        (TransformerConfig, {"window_pattern": "LLLL"}, "model.window_pattern"),
        (TransformerConfig, {"window_pattern": "SL"}, "model.window"),
        (TransformerConfig, {"softcap": 0.0}, "model.softcap"),
        (TransformerConfig, {"dropout": 1.0}, "model.dropout"),
        (TransformerConfig, {"token_types": -1}, "model.token_types"),
        (TransformerConfig, {"matrix_std": -0.1}, "model.matrix_std"),
        (TransformerConfig, {"value_embeddings": True, "depth": 3}, "model.depth"),
        (TransformerConfig, {"backout": True, "depth": 3}, "model.depth"),
        (TransformerConfig, {"smear": True, "causal": False}, "model.smear"),
        *(
            (LSTMConfig, {name: 0}, f"model.{name}")
            for name in ("vocab_size", "length", "truncate", "depth", "width")
        ),
        (LSTMConfig, {"dropout": -0.1}, "model.dropout"),
        (LSTMConfig, {"head_std": -1.0}, "model.head_std"),
        *(
            (NPLMConfig, {name: 0}, f"model.{name}")
            for name in ("vocab_size", "length", "context", "width", "hidden")
        ),
        (NPLMConfig, {"embedding_std": -1.0}, "model.embedding_std"),
        (ObjectiveConfig, {"mask_rate": 0.0}, "objective.mask_rate"),
        (ObjectiveConfig, {"mask_rate": 1.0}, "objective.mask_rate"),
        (BatchConfig, {"rows": 0}, "batch.rows"),
        (BatchConfig, {"rows": 6, "micro_rows": 4}, "batch.micro_rows"),
        (BatchConfig, {"rows": 6, "micro_rows": 0}, "batch.micro_rows"),
        (OptimizerConfig, {"momentum": 1.0}, "optimizer.momentum"),
        (OptimizerConfig, {"beta1": -0.1}, "optimizer.beta1"),
        (OptimizerConfig, {"beta2": float("nan")}, "optimizer.beta2"),
        (OptimizerConfig, {"head_learning_rate": -1.0}, "optimizer.head_learning_rate"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "optimizer.learning_rate"),
        (OptimizerConfig, {"weight_decay": -1.0}, "optimizer.weight_decay"),
        (OptimizerConfig, {"epsilon": -1.0}, "optimizer.epsilon"),
        (OptimizerConfig, {"clip_norm": 0.0}, "optimizer.clip_norm"),
        (ScheduleConfig, {"warmup": 1.1}, "schedule.warmup"),
        (ScheduleConfig, {"peak": -0.1}, "schedule.peak"),
        (ScheduleConfig, {"floor": 2.0}, "schedule.floor"),
        (ScheduleConfig, {"warmup": 0.5, "cooldown": 0.6}, "schedule.cooldown"),
        (EvaluationConfig, {"every": "10m"}, "evaluation.every"),
        (EvaluationConfig, {"rows": 0}, "evaluation.rows"),
        (EvaluationConfig, {"max_rows": 0}, "evaluation.max_rows"),
        (CheckpointConfig, {"every": "1Mtokens"}, "checkpoint.every"),
        (CheckpointConfig, {"keep": 0}, "checkpoint.keep"),
        (LogConfig, {"every": 0}, "log.every"),
        (SampleConfig, {"max_tokens": 0}, "sample.max_tokens"),
        (SampleConfig, {"temperature": -0.1}, "sample.temperature"),
        (SampleConfig, {"top_k": 0}, "sample.top_k"),
    ],
)
def test_an_impossible_value_is_refused_by_its_name(kind, numbers, key):
    with refused(key):
        kind(**numbers)


@given(hundredths=st.integers(0, 100))
def test_a_warmup_and_cooldown_that_fill_the_run_are_taken(hundredths):
    ScheduleConfig(warmup=hundredths / 100, cooldown=(100 - hundredths) / 100)


def test_widths_follow_from_one_another():
    plain, given = (
        TransformerConfig(width=96, heads=4),
        TransformerConfig(width=96, heads=4, head_width=10, kv_heads=2, ff_width=50),
    )
    assert (plain.K, plain.KV, plain.F) == (24, 4, 384)
    assert (given.K, given.KV, given.F) == (10, 2, 50)


# ---- Quantities


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("500steps", 500, "steps"),
        ("1step", 1, "steps"),
        ("1.5ksteps", 1500, "steps"),
        ("20Mtokens", 20_000_000, "tokens"),
        ("0.1Btokens", 100_000_000, "tokens"),
        ("1.234567Mtokens", 1_234_567, "tokens"),
        ("90s", 90, "seconds"),
        ("20m", 1200, "seconds"),
        ("1.5h", 5400, "seconds"),
        (".5h", 1800, "seconds"),
        (" 24 h ", 86400, "seconds"),
        ("10%", 0.1, "progress"),
        ("0.7%", 0.007, "progress"),
        ("100%", 1, "progress"),
    ],
)
def test_a_number_with_a_unit(text, value, kind):
    found = parse_quantity(text, "budget", ("steps", "tokens", "seconds", "progress"))
    assert (found.value, found.kind) == (value, kind)


@pytest.mark.parametrize(
    "text",
    "|10|h|ten steps|-5m|0s|0steps|1e3s|nanh|1.5steps|5d|1m30s|"
    "5Ksteps|0.0001ktokens|1_000steps|10%%|10%|5kh|2Mm".split("|"),
)
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ConfigError, match=r"^budget: expected a.* number"):
        parse_quantity(text, "budget", ("steps", "tokens", "seconds"))


@pytest.mark.parametrize("text", ["101%", "5k%"])
def test_more_than_the_whole_is_refused(text):
    with refused("evaluation.every"):
        parse_quantity(text, "evaluation.every", ("steps", "progress"))


# ---- Recipes and overrides


def test_overrides_come_on_top_of_the_recipe(recipe):
    config = configuration.load_config(
        recipe,
        "--model.depth 2 --model.kv-heads 2 --model.bias --budget 20m "
        "--sample.prompts one two --optimizer.clip-norm None".split(),
    )
    model = TransformerConfig(width=64, heads=4, depth=2, kv_heads=2, bias=True)
    assert config == Config(budget="20m", model=model, sample=SampleConfig(prompts=("one", "two")))


@pytest.fixture
def lstm(tmp_path: Path) -> Path:
    path = tmp_path / "lstm.py"
    path.write_text(RECIPE.replace("heads=4", "depth=3").replace("TransformerConfig", "LSTMConfig"))
    return path


def test_a_recipe_of_another_kind_has_its_own_names(lstm, capsys):
    config = configuration.load_config(lstm, ["--model.truncate", "9", "--model.width", "32"])
    assert config.model == LSTMConfig(width=32, depth=3, truncate=9)
    with pytest.raises(ConfigError, match=re.escape("model.heads")):
        configuration.load_config(lstm, ["--model.heads", "2"])
    assert capsys.readouterr() == ("", "")


def test_names_may_be_written_as_in_python(recipe):
    assert configuration.load_config(recipe, ["--model.kv_heads", "2"]).model.kv_heads == 2


def test_a_recipe_is_read_as_it_is_now_and_leaves_nothing_beside_it(recipe, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as Python has it by default
    before, stat = recipe.read_text(), recipe.stat()
    for seed in (1, 2):
        recipe.write_text(before.replace("Config(", f"Config(seed={seed}, ", 1))
        os.utime(recipe, (stat.st_atime, stat.st_mtime))  # within one second
        assert configuration.load_config(recipe).seed == seed
    assert not (recipe.parent / "__pycache__").exists()


def test_an_overridden_number_reaches_a_composed_optimizer(recipe):
    loaded = configuration.load_recipe(recipe, ["--optimizer.learning_rate", "0.5"])
    assert loaded.make_optimizer is not None
    assert loaded.make_optimizer(loaded.config) == ("chain", 0.5)


def test_the_config_of_a_run_is_a_recipe(recipe, tmp_path):
    config = configuration.load_config(recipe)
    saved = tmp_path / "config.json"
    saved.write_text(configuration.to_json(config))
    assert configuration.load_recipe(saved) == (config, None, ())


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["--model.dept", "3"], "model.dept"),
        (["--model.depth", "three"], "model.depth"),
        (["--model.norm", "batch"], "model.norm"),
        (["--model.heads", "7"], "model.heads"),
        (["--budget", "soon"], "budget"),
        (["--model.window-pattern", "SL"], "model.window"),
    ],
)
def test_an_override_that_cannot_work_is_refused(recipe, capsys, overrides, key):
    with pytest.raises(ConfigError, match=re.escape(key)):
        configuration.load_config(recipe, overrides)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.py", None, "expected a recipe file, found none at"),
        ("recipe.yaml", "", "expected a .py or .json file"),
        ("empty.py", "", r"expected a function get_config\(\)"),
        ("wrong.py", "get_config = lambda: {}", r"get_config\(\) must return a Config"),
        ("config.json", '{"speed": 1}', "speed: unknown"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        configuration.load_config(tmp_path / name)


# ---- The command line


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lmjax.train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_lists_the_settings_and_exits_with_0(recipe):
    done = train("--config", str(recipe), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--model.window-pattern" in done.stdout
    assert "7steps" in done.stdout  # the recipe's own numbers are the defaults


def test_help_lists_the_settings_of_the_kind(lstm):
    done = train("--config", str(lstm), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--model.truncate" in done.stdout and "--model.heads" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model.dept", "3"], "model.dept"),
        (["--model.heads=7"], "model.heads: expected a divisor of model.width (64)"),
    ],
)
def test_a_bad_command_line_exits_with_78(recipe, arguments, named):
    done = train("--config", str(recipe), *arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert named in " ".join(re.sub("[^ -~]", " ", done.stderr).split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["--config"], ["--config", "missing.py"], ["--config=missing.py"]]
)
def test_a_command_line_without_a_recipe_exits_with_78(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        configuration.parse_command_line("train", "About.", arguments)
    assert stop.value.code == 78
    assert "--config" in capsys.readouterr().err


def test_a_command_line_gives_what_python_gives(recipe):
    arguments = ["--model.depth", "3", "--budget=1h"]
    found = configuration.parse_command_line("train", "", [f"--config={recipe}", *arguments])
    assert found.config == configuration.load_config(recipe, arguments)
    assert found.make_optimizer is not None


def test_settings_that_may_differ_are_named_to_train_alone(recipe, capsys):
    arguments = ["--config", str(recipe), "--allow-drift", "seed", "budget", "--model.depth", "3"]
    found = configuration.parse_command_line("train", "", arguments)
    assert found.allow_drift == ("seed", "budget")
    assert found.config == configuration.load_config(recipe, ["--model.depth", "3"])
    with pytest.raises(SystemExit) as stop:
        configuration.parse_command_line("prepare", "", arguments)
    assert stop.value.code == 78 and "--allow-drift" in capsys.readouterr().err


# ---- Differences


def test_a_difference_names_the_keys_and_both_values():
    old = Config(seed=1, model=TransformerConfig(depth=2))
    new = dataclasses.replace(old, model=TransformerConfig(depth=4, kv_heads=3), budget="1h")
    assert configuration.difference(old, new) == [
        ("budget", "20m", "1h"),
        ("model.depth", 2, 4),
        ("model.kv_heads", None, 3),
    ]
    assert configuration.difference(old, old) == []


def test_differences_from_json_come_back():
    old = Config(ramp=RampConfig(rows=((0.5, 4),)))
    new = dataclasses.replace(
        old,
        budget="1h",
        optimizer=OptimizerConfig(clip_norm=1.0),
        ramp=RampConfig(rows=((0.25, 4), (0.5, 8))),
    )
    rows = json.loads(json.dumps(configuration.difference(old, new)))
    assert configuration.changed(old, {key: value for key, _, value in rows}) == new
    assert {key for key, _, _ in rows} < set(configuration.keys(old))
    with refused("budget"):
        configuration.changed(old, {"budget": 3})


def test_a_difference_of_kind_names_what_either_has():
    old, new = Config(model=NPLMConfig(length=8)), Config(model=LSTMConfig(length=9, truncate=4))
    rows = configuration.difference(old, new)
    assert rows[:2] == [("model.kind", "nplm", "lstm"), ("model.length", 8, 9)]
    assert ("model.context", 8, None) in rows and ("model.truncate", None, 4) in rows


def test_the_vocabulary_is_spelt_out():
    config = configuration.with_vocabulary(Config(seed=3), 8192)
    assert configuration.difference(Config(), config) == [
        ("seed", 0, 3),
        ("model.vocab_size", None, 8192),
    ]
