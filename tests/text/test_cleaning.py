"""Cleaning: what each step does, that doing it twice does no more, and that the report adds up."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.config import CleaningConfig
from lmjax.text.cleaning import STEPS, Cleaner, merge, table

# Letters with accents, capitals that lengthen, line ends of all kinds, blanks, symbols, stop words.
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            [
                *(
                    "\r\n",
                    "\r",
                    "\n",
                    "\u2028",
                    "\x85",
                    "\t",
                    "  ",
                    "\u3000",
                    "\x00",
                    "\ufeff",
                    "\f",
                ),
                *(
                    "e",
                    "\u0301",
                    "\u0130",
                    "\u1e9e",
                    "\u03a3",
                    "\u212a",
                    "\u0958",
                    "the",
                    "The ",
                    "of",
                ),
                *("'", "\u2019", "-", "_", "don't", "\u4e2d\u6587", "\U0001f600"),
            ]
        ),
    ),
    max_size=30,
).map("".join)

ALL_ON = CleaningConfig(lower=True, symbols=True, stop_words=True, min_chars=0)


def clean(text: str, config: CleaningConfig = CleaningConfig(min_chars=0)) -> str:  # noqa: B008
    cleaner = Cleaner(config)
    return cleaner(text, cleaner.new_report()) or ""


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
@given(text=TEXTS)
def test_a_step_twice_is_the_step_once(step, text):
    once = step(text)
    assert step(once) == once


@pytest.mark.parametrize("config", [CleaningConfig(min_chars=0), ALL_ON], ids=["default", "all"])
@given(text=TEXTS)
def test_cleaning_twice_is_cleaning_once(config, text):
    once = clean(text, config)
    assert clean(once, config) == once


@pytest.mark.parametrize(
    ("config", "dirty", "expected"),
    [
        ({}, "cafe\u0301", "caf\xe9"),
        ({"nfc": False}, "cafe\u0301", "cafe\u0301"),
        ({}, "a\x00b\x1b[0m\ufeff", "ab[0m"),
        ({"controls": False}, "a\x00b", "a\x00b"),
        ({}, "\n\nif x:\r\n    y \t\r\n\r\n\r\n\r\n\tz\n", "if x:\n    y\n\n\tz"),
        ({}, "    indented first line", "    indented first line"),
        ({}, "old\rmac", "old\nmac"),
        ({"whitespace": False}, "a \r\n\n\n\n", "a \r\n\n\n\n"),
        ({"lower": True}, "The CAT", "the cat"),
        ({"symbols": True}, "don't: 3+4, \u4e2d\u6587\u3002", "dont  3 4  \u4e2d\u6587"),
        ({"symbols": True}, "\u0928\u0938\u094d\u0924\u0947!", "\u0928\u0938\u094d\u0924\u0947"),
        ({"stop_words": True}, "The cat and the hat; theory", "cat hat; theory"),
    ],
)  # fmt: skip
def test_what_a_step_does(config, dirty, expected):
    assert clean(dirty, CleaningConfig(min_chars=0, **config)) == expected


def test_blanks_do_not_take_quadratic_time():
    text = " " * 2_000_000 + "x"
    assert clean(text) == text


def test_short_documents_are_dropped_and_counted():
    cleaner = Cleaner(CleaningConfig(min_chars=5))
    report = cleaner.new_report()
    assert cleaner("four", report) is None
    assert cleaner("fives", report) == "fives"
    assert vars(report["min_chars"]) == {
        "documents_kept": 1,
        "documents_dropped": 1,
        "characters_kept": 5,
        "characters_dropped": 4,
    }


def test_empty_documents_are_dropped_whatever_the_minimum():
    cleaner = Cleaner(CleaningConfig(min_chars=0))
    assert cleaner("\x00 \n", cleaner.new_report()) is None


@given(texts=st.lists(TEXTS, max_size=5))
def test_each_step_gets_what_the_one_before_kept(texts):
    cleaner = Cleaner(dataclasses.replace(ALL_ON, min_chars=8))
    report = cleaner.new_report()
    kept = [cleaned for text in texts if (cleaned := cleaner(text, report)) is not None]
    documents, characters = len(texts), sum(map(len, texts))
    for count in report.values():
        assert count.documents_kept + count.documents_dropped == documents
        assert count.characters_kept + count.characters_dropped == characters
        documents, characters = count.documents_kept, count.characters_kept
    assert (documents, characters) == (len(kept), sum(map(len, kept)))


def test_reports_add_up_and_print_one_line_a_step():
    cleaner = Cleaner(CleaningConfig())
    one, total = cleaner.new_report(), {}
    cleaner("a text that is long enough", one)
    merge(total, one)
    merge(total, one)
    assert total["nfc"].characters_kept == 2 * one["nfc"].characters_kept > 0
    assert [line.split()[0] for line in table(total)] == ["step", *one]
