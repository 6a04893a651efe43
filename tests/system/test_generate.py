"""`lmjax.generate`: text on standard output, the same for the same seed."""

import pytest

from lmjax.generate import main


@pytest.fixture
def write(finished, in_process, capsys):
    def write(*arguments, prompt="The "):
        main(["--run", str(finished.run), "--prompt", prompt, "--max-tokens", "20", *arguments])
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return write


def test_the_command_prints_text_alone(finished, write):
    arguments = ["--run", "run", "--prompt", "The ", "--max-tokens", "20"]
    ended = finished.commands.run("generate", *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("The ") and ended.out.endswith("\n")
    assert ended.out == write()


def test_the_seed_decides(write):
    first = write("--seed", "1")
    assert first == write("--seed", "1")
    assert first != write("--seed", "2")


def test_temperature_0_knows_no_chance(write):
    assert write("--temperature", "0") == write("--temperature", "0", "--seed", "5")


def test_samples_are_told_apart(write):
    text = write("--samples", "3")
    assert [line for line in text.splitlines() if line.startswith("---")] == [
        "--- 1 of 3",
        "--- 2 of 3",
        "--- 3 of 3",
    ]
    assert text.count("The ") >= 3


def test_an_empty_prompt_and_a_short_text(write):
    assert len(write(prompt="")) > 1
    short = write("--max-tokens", "1", "--temperature", "0")
    assert len(short) < len(write("--temperature", "0"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "-1"), ("top-p", "0"), ("top-k", "0"), ("max-tokens", "0"), ("samples", "0")],
)
def test_settings_out_of_range_are_refused(finished, in_process, capsys, name, value):
    with pytest.raises(SystemExit) as stop:
        main(["--run", str(finished.run), "--prompt", "The", f"--{name}", value])
    assert stop.value.code == 78
    assert f"{name.replace('-', '_')}: expected" in capsys.readouterr().err
