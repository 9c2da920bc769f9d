"""Errors of pictures and models. Each owns its HTTP status; its sentence names the next step.

Errors of the web (a full queue, too many requests) are with the servers.
"""

from __future__ import annotations

from common.errors import CaptionerError as CaptionerError


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


class MissingLibraryError(CaptionerError):
    """A library that this program needs is not installed on this machine."""

    title = "A library is missing"
