"""The errors a user can cause, each saying what was expected, what was found and what to do."""

from __future__ import annotations


class MMRecError(Exception):
    """Base of all errors that the user's input or environment caused.

    Args:
        expected: What would have been right.
        found: What was there instead, with names and values.
        do: The next step that puts it right, a command where there is one.
    """

    def __init__(self, expected: str, found: str, do: str) -> None:
        super().__init__(f"expected: {expected}\n   found: {found}\n do this: {do}")
        self.expected = expected
        self.found = found
        self.do = do


class ConfigError(MMRecError):
    """A config file, an option or a name that cannot be used."""


class DataError(MMRecError):
    """Tables, splits or datasets that cannot be used."""


class FeatureError(MMRecError):
    """Item features, or what they are made from, that cannot be used."""


class NotFittedError(MMRecError):
    """A run or model that is not trained, or whose checkpoint is damaged."""


class BundleError(MMRecError):
    """A bundle that is damaged, or that asks for what a bundle may not do."""


class DiskError(MMRecError):
    """A disk that is full or may not be written."""


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint such as ``did you mean 'dropout'?``, or the whole list where nothing is close."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(sorted(known))}"
