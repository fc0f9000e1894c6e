"""The error that a user is meant to read."""


class RamifyError(ValueError):
    """One sentence that says what was seen, what was expected and what to do."""
