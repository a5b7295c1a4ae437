"""The one error that is the user's to mend."""


class UserError(ValueError):
    """Bad input: one line that says what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2; in Python it is an
    ordinary ``ValueError``.
    """
