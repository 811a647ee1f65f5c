"""Errors of the offline side. Their messages end up in the refresh that failed."""

from perce.errors import AttuneError


class NothingToLearnError(AttuneError):
    """No text is left to train on: import more, or shorter, texts."""


class UserErasedError(AttuneError):
    """The user was erased while the refresh ran; nothing of it is kept."""
