"""What the profiler's table is made of, and the table of a real step."""

import pytest

from tools import profile


def test_a_kernel_is_charged_its_own_time_alone():
    events = [
        ("outer", 0, 10),
        ("inner", 2, 3),
        ("innermost", 3, 1),
        ("inner", 6, 4),
        ("next", 10, 5),
    ]
    spent = {}
    for name, own in profile.own_times(events):
        spent[name] = spent.get(name, 0) + own
    assert spent == {"outer": 3, "inner": 6, "innermost": 1, "next": 5}


@pytest.mark.parametrize(
    ("op_name", "place"),
    [
        ("jit(step)/while/body/jvp()/closed_call/Block/up/dot_general", "Block/up/dot_general"),
        ("jit(step)/transpose(jvp())/Block/up/dot_general", "backward Block/up/dot_general"),
        ("", ""),
    ],
)
def test_a_place_is_told_without_what_jax_wraps_it_in(op_name, place):
    assert profile.place(op_name) == place


def test_the_products_of_a_real_step_are_in_the_table(tmp_path, capsys):
    trace = tmp_path / "trace"
    sizes = {"vocab-size": 64, "depth": 2, "width": 32, "heads": 2, "length": 16}
    words = [f"--model.{name}={value}" for name, value in sizes.items()]
    rows = ["--batch.rows=2", "--batch.micro-rows=2"]
    recipe = ["--config", "configs/gpt2_small.py", "--steps", "2", "--out", str(trace)]
    profile.main([*recipe, *words, *rows])
    table = capsys.readouterr().err
    assert "ms a step" in table
    assert "dot_general" in table and "backward" in table
    assert list(trace.rglob("*.xplane.pb"))
