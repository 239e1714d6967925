"""The one exception for mistakes that the person at the keyboard can mend."""

from __future__ import annotations


class UserError(Exception):
    """One line that names the record, file or key and says what to do; the command exits with 2."""


class BadRecordError(UserError):
    """A data record that cannot be used; `gradients` rows of such records are stored with valid = false."""
