"""What routes ask for: the services, and who is asking."""

from typing import Annotated

from fastapi import Depends, Request

from server import population
from server.auth import Principal, authenticate, user_of
from server.services import Services
from server.store.tables.people import User


def services(request: Request) -> Services:
    """Return the parts that the application was built with."""
    found: Services = request.app.state.services
    return found


Parts = Annotated[Services, Depends(services)]


def principal(request: Request, parts: Parts) -> Principal:
    """Return the holder of the request's key."""
    with parts.database.read() as session:
        return authenticate(session, parts.settings, request.headers.get("authorization"))


Caller = Annotated[Principal, Depends(principal)]


def admin(caller: Caller) -> Principal:
    """Let only admin keys pass."""
    caller.require_admin()
    return caller


Admin = Annotated[Principal, Depends(admin)]


def acting_user(parts: Services, caller: Principal, named: str | None) -> User:
    """Return the user whom a request acts for, if the caller may."""
    with parts.database.read() as session:
        return user_of(session, caller, named)


def path_user(user: str, caller: Caller, parts: Parts) -> User:
    """Return the user whom the path names, if the caller may act for that user."""
    return acting_user(parts, caller, user)


PathUser = Annotated[User, Depends(path_user)]


def path_owner(user: str, caller: Caller, parts: Parts) -> User:
    """Return who owns the adapters that the path names: a person, or for admins the population."""
    if user != population.NAME:
        return acting_user(parts, caller, user)
    caller.require_admin()
    with parts.database.read() as session:
        found = population.find(session)
    if found is not None:
        return found
    with parts.database.write() as session:
        return population.ensure(session)


PathOwner = Annotated[User, Depends(path_owner)]
