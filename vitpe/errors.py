"""The one exception for what a user did or has; anything else that is raised is a bug and keeps its traceback."""


class VitpeError(Exception):
    """Something the user can repair.

    message: one line of fact with the offending value.
    hint: one line saying what to do, may be empty.
    exit_code: 1 when the run failed, 2 when the command was used wrongly.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class UsageError(VitpeError):
    """Wrong usage: exit code 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, exit_code=2)
