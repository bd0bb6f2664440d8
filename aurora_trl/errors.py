"""The error that names what is wrong with an input."""


class DataError(ValueError):
    """Bad input. The message is one line that names the file, row or key and the way out."""
