"""The error that a user is meant to read, and words that its messages share."""


class RamifyError(ValueError):
    """One sentence that says what was seen, what was expected and what to do.

    Example:
        >>> import ramify
        >>> try:
        ...     ramify.Knapsack()
        ... except ramify.RamifyError as error:
        ...     print(error)
        a knapsack takes one budget or more: give params, macs, flops, energy or latency
    """


def module_in_words(name: str) -> str:
    """A module of the user's model as a message names it; the empty name is the model itself."""
    return f"module '{name}'" if name else "the model's own forward"
