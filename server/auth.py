"""Who a request speaks for: keys, their roles, and the user they act for.

A user's key acts for that user; a service key for the one in OpenAI's `user` field; an
admin key manages users too.
"""

import hmac
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from server.errors import BadRequestError, ForbiddenError, WrongKeyError
from server.settings import Settings
from server.store.tables.people import ApiKey, User
from server.store.users import digest, find_user


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a valid key."""

    role: str
    user_name: str | None = None

    def require_admin(self) -> None:
        """Let only admin keys pass.

        Raises:
            ForbiddenError: The key is a user's or a service's.
        """
        if self.role != "admin":
            raise ForbiddenError("This needs an admin key.")

    def acting_for(self, named: str | None) -> str:
        """Return the name of the user whom a request acts for.

        Args:
            named: The user that the request names, if any.

        Raises:
            ForbiddenError: A user's key names another user.
            BadRequestError: A service or admin key names nobody.
        """
        if self.role == "user":
            assert self.user_name is not None
            if named not in (None, self.user_name):
                raise ForbiddenError(
                    f"This key belongs to {self.user_name!r} and cannot act for {named!r}."
                )
            return self.user_name
        if not named:
            raise BadRequestError(
                "A service or admin key acts for a user: name one in the field 'user'."
            )
        return named


def authenticate(session: Session, settings: Settings, header: str | None) -> Principal:
    """Return who sent the `Authorization` header.

    Raises:
        WrongKeyError: There is no such key.
    """
    scheme, _, key = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise WrongKeyError("No key was sent: add the header 'Authorization: Bearer KEY'.")
    admin = settings.admin_key.get_secret_value()
    if admin and hmac.compare_digest(key.encode(), admin.encode()):
        return Principal("admin")
    row = session.execute(
        select(ApiKey, User.name)
        .outerjoin(User, ApiKey.user_id == User.id)
        .where(ApiKey.digest == digest(key))
    ).first()
    if row is None:
        raise WrongKeyError("This key is unknown or was revoked: ask an admin for a new one.")
    api_key, name = row
    return Principal(api_key.role, name)


def user_of(session: Session, principal: Principal, named: str | None) -> User:
    """Return the person whom a request acts for.

    Raises:
        ForbiddenError, BadRequestError, ReservedUserError, UnknownUserError: See
            `Principal.acting_for` and `find_user`.
    """
    return find_user(session, principal.acting_for(named))
