"""The errors of this package: each owns its HTTP status and says, in one sentence, what to do next.

Errors of the web (a full queue, too many requests) live with the servers, not here.
"""

from __future__ import annotations


class CaptionerError(Exception):
    """The root of all errors meant for a person.

    `str(error)` is one sentence for whoever sent the picture or set the program up, and says what
    to do next. `status` is the HTTP status that fits, `title` the short name of the kind of problem
    (RFC 9457's `title`, which does not change from one occurrence to the next).
    """

    status: int = 500
    title: str = "The captioner failed"


class PictureError(CaptionerError):
    """Something is wrong with one picture; other pictures are not concerned."""

    status = 400
    title = "The picture could not be read"


class NoPictureError(PictureError):
    """There is no picture where one was expected: no file, no bytes, no permission to read it."""

    status = 400
    title = "No picture"


class PictureTooLargeError(PictureError):
    """The picture has more bytes or more pixels than the limits allow."""

    status = 413
    title = "The picture is too large"


class UnsupportedPictureError(PictureError):
    """Not a kind of image that we read."""

    status = 415
    title = "Not a kind of picture that we read"


class BrokenPictureError(PictureError):
    """A kind of image that we read, but this one is damaged or cut short."""

    status = 422
    title = "The picture is broken"


class ModelFolderError(CaptionerError):
    """A model folder is missing, incomplete, altered, or does not fit this program."""

    title = "The model folder cannot be used"


class TokenizerError(ModelFolderError):
    """A tokenizer file is missing, damaged, or holds what a tokenizer does not need."""

    title = "The tokenizer cannot be used"


class SettingsError(CaptionerError):
    """A setting is unknown or malformed; a program that meets it exits with status 2."""

    title = "A setting is wrong"
    exit_status = 2


class MissingLibraryError(CaptionerError):
    """A library that this program needs is not installed on this machine."""

    title = "A library is missing"
