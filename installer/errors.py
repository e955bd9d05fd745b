"""What can go wrong in a setup, as one line for the person who runs it."""


class SetupError(Exception):
    """A setup that cannot go on; the text says what, which and what was expected."""


class SourceUnavailable(SetupError):
    """A source that gave no answer, so that another one may be asked."""
