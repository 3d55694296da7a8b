"""What a user can mend is a UserError; everything else is a bug and crashes loudly."""


class UserError(Exception):
    """One line for the user: what was expected and seen, and how to mend it. Exit code 2, no traceback."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message
