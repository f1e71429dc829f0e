"""What users are told: an error they can mend, and what they should know."""


class InputError(ValueError):
    """Bad input: says what was wrong, where, and what to do, in one line."""


class SaidElsewhere(InputError):
    """An `InputError` that another process of the same run reports."""


class Remark(UserWarning):
    """Not an error, but something a user should know, in one line."""
