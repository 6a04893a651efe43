"""The one error of this room."""


class DataError(ValueError):
    """Text or a corpus that cannot be used: where, what was expected and found. Exit code 65."""
