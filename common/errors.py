"""The root of all errors meant for a person, and the error of a wrong setting.

Errors of pictures and models are in `captioner.errors`, errors of a server beside that server.
"""

from __future__ import annotations


class CaptionerError(Exception):
    """The root of all errors meant for a person.

    `str(error)` is one sentence for the sender of a picture or the operator of the program, and
    names the next step.

    Attributes:
        status: the HTTP status that fits.
        title: the short name of the kind of problem (RFC 9457's `title`, which is the same for each
            occurrence).
        exit_status: of a program that ends with this error.
    """

    status: int = 500
    title: str = "The captioner failed"
    exit_status: int = 1


class SettingsError(CaptionerError):
    """A setting is unknown or malformed; the program ends with status 2."""

    title = "A setting is wrong"
    exit_status = 2
