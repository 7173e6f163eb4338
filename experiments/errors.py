"""What a user can do something about."""


class UserError(Exception):
    """Something that cannot be done as it was asked for; the message says why, and what to do."""


class UsageError(UserError):
    """A value on the command line that cannot be used."""
