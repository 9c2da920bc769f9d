"""Tests of the errors: each owns the status that the contract gives it."""

from __future__ import annotations

import inspect

import pytest

from captioner import errors
from common.errors import SettingsError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NoPictureError, 400),
        (errors.PictureTooLargeError, 413),
        (errors.UnsupportedPictureError, 415),
        (errors.BrokenPictureError, 422),
        (errors.ModelFolderError, 500),
        (errors.TokenizerError, 500),
    ],
)
def test_status(error: type[errors.CaptionerError], status: int) -> None:
    assert error.status == status
    assert str(error("Do this next.")) == "Do this next."


def test_every_error_has_a_title_of_its_own() -> None:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    found = [error for error in classes if issubclass(error, errors.CaptionerError)]
    assert found == classes
    assert len({error.title for error in found}) == len(found)


def test_settings_errors_end_a_program_with_status_2() -> None:
    assert SettingsError.exit_status == 2
