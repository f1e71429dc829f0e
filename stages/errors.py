"""The error a user can mend."""


class InputError(ValueError):
    """Bad input: says what was wrong, where, and what to do, in one line."""
