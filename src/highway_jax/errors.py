"""The one exception that means "the person running this can mend it"."""


class UserError(Exception):
    """Bad input or a bad environment; its message is one line for the user.

    The message names the key or file, the value found, and what is allowed. The command line
    prints it without a traceback and exits with status 2.
    """
