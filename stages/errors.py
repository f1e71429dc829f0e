"""Errors and warnings that are written for the user of the package."""


class InputError(ValueError):
    """Wrong input: one line that says what is wrong, where, and how to correct it."""


class ReportedElsewhere(InputError):
    """An `InputError` that another process of the same run reports to the user."""


class InputWarning(UserWarning):
    """Not an error, but something the user should know, in one line."""
