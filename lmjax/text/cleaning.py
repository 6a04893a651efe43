"""Cleaning: small pure functions `str -> str`, composed in a fixed order, each of them counted."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lmjax.config import CleaningConfig

Step = Callable[[str], str]

# Tab, line feed and what `whitespace` makes a line feed of stay. The byte-order mark goes.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")
_LINE_ENDS = ("\r\n", "\r", "\x85", "\u2028", "\u2029")
_APOSTROPHES = re.compile("(?<=[^\\W\\d_])['\u2019](?=[^\\W\\d_])")
_STOP_WORDS = (
    "a about after all also an and any are as at be because been but by can could did do does for "
    "from had has have he her him his how i if in into is it its may me more most my no not of on "
    "one only or other our out over she should so some such than that the their them then there "
    "these they this those to under up us was we were what when where which who will with would "
    "you your"
).split()
# A word stands between blanks or punctuation, not beside letters or marks of any script; the space
# after it goes with it.
_APART = r"\s!-&(-/:-@\[-^`{-~\u2000-\u2018\u201a-\u206f"
_STOP_WORD = re.compile(
    rf"(?<![^{_APART}])(?:{'|'.join(_STOP_WORDS)})(?![^{_APART}])(?: (?=[!-~]))?", re.IGNORECASE
)


def controls(text: str) -> str:
    """Drop control characters and byte-order marks; tab and line ends stay."""
    return _CONTROLS.sub("", text)


def lower(text: str) -> str:
    """Lower-case everything."""
    return text.lower()


class _Symbols(dict[int, str]):
    """For `str.translate`: letters, marks, digits and blanks as they are, a space for the rest."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        keep = unicodedata.category(character)[0] in "LMN" or character.isspace()
        self[code] = character if keep else " "
        return self[code]


_SYMBOLS = _Symbols()


def symbols(text: str) -> str:
    """Put a space for all but letters, digits and spaces; apostrophes inside words just go."""
    return _APOSTROPHES.sub("", text).translate(_SYMBOLS)


def stop_words(text: str) -> str:
    """Remove frequent English words."""
    return _STOP_WORD.sub("", text)


def nfc(text: str) -> str:
    """Unicode normal form C."""
    return unicodedata.normalize("NFC", text)


def whitespace(text: str) -> str:
    """One kind of line end, no blanks at line ends, at most one empty line; indentation stays."""
    # Plain string methods: regular expressions took four times as long here.
    for end in _LINE_ENDS:
        text = text.replace(end, "\n")
    text = "\n".join(map(str.rstrip, text.split("\n")))
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip("\n")


# Normal form comes after the steps that can bring a letter and its accent together, and before the
# one that looks for words. Blanks come last, since other steps leave some at line ends.
STEPS: tuple[Step, ...] = (controls, lower, symbols, nfc, stop_words, whitespace)


@dataclass
class Count:
    """What one step kept and dropped. A step that lengthens a text drops less than nothing."""

    documents_kept: int = 0
    documents_dropped: int = 0
    characters_kept: int = 0
    characters_dropped: int = 0

    def add(self, before: int, after: int | None) -> None:
        """Count a document of `before` characters that left with `after`, or not at all."""
        self.documents_kept += after is not None
        self.documents_dropped += after is None
        self.characters_kept += after or 0
        self.characters_dropped += before - (after or 0)


Report = dict[str, Count]
"""The count of each step, in the order they ran."""


class Cleaner:
    """The steps that are switched on, composed."""

    def __init__(self, config: CleaningConfig) -> None:
        self._steps = [step for step in STEPS if getattr(config, step.__name__)]
        self._min_chars = max(1, config.min_chars)

    def new_report(self) -> Report:
        """A report with nothing counted yet."""
        return {name: Count() for name in (*(s.__name__ for s in self._steps), "min_chars")}

    def __call__(self, text: str, report: Report) -> str | None:
        """The cleaned text, or none if too little is left; counts into `report`."""
        for step in self._steps:
            before = len(text)
            text = step(text)
            report[step.__name__].add(before, len(text))
        kept = len(text) >= self._min_chars
        report["min_chars"].add(len(text), len(text) if kept else None)
        return text if kept else None


def merge(total: Report, part: Report) -> None:
    """Add the counts of `part` to those of `total`."""
    for step, count in part.items():
        into = total.setdefault(step, Count())
        for name, value in vars(count).items():
            setattr(into, name, getattr(into, name) + value)


def table(report: Report) -> Iterable[str]:
    """The report as lines to print."""
    yield f"{'step':<12}{'documents':>12}{'dropped':>10}{'characters':>16}{'dropped':>14}"
    for step, c in report.items():
        yield (
            f"{step:<12}{c.documents_kept:>12,}{c.documents_dropped:>10,}"
            f"{c.characters_kept:>16,}{c.characters_dropped:>14,}"
        )
