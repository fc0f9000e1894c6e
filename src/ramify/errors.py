"""The error that a user is meant to read."""


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
