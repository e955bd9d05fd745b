"""Errors of a setup. Each message is one line for the person who runs it."""


class SetupError(Exception):
    """The setup cannot continue; the message says what, which and what was expected."""


class SourceUnavailable(SetupError):
    """A source does not answer, so another one can be tried."""
