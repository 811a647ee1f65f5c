"""The active pointer: which of a user's adapter versions answers, and every way to flip it.

Flips of one user take turns, and each sees the pointer as it stands then. What a version is
and which states it goes through is `server.registry`.
"""

from sqlalchemy.orm import Session

from server import registry
from server.errors import ConflictError, NotFoundError
from server.store.tables.adapters import Adapter
from server.store.tables.people import User
from server.store.users import lock_user


def promote(session: Session, adapter_id: int) -> bool:
    """Make a candidate the active version, once and never again.

    A step that is repeated after a crash changes nothing: it must not undo a rollback that
    was made since.

    Returns:
        True if it became active now, False if it was promoted before.

    Raises:
        ConflictError, NotFoundError: See `activate`.
    """
    adapter = session.get_one(Adapter, adapter_id)
    lock_user(session, adapter.user_id)
    if registry.fresh(session, Adapter.id == adapter_id, Adapter.state.in_(("active", "retired"))):
        return False
    activate(session, adapter)
    return True


def activate(session: Session, adapter: Adapter) -> Adapter | None:
    """Make a version the active one, and return the one that it replaces.

    Raises:
        IllegalTransitionError: It was rejected, erased or withdrawn.
        NotFoundError: It is gone, because its user was erased.
        ConflictError: Its files were never placed.
    """
    lock_user(session, adapter.user_id)
    wanted = registry.fresh(session, Adapter.id == adapter.id)
    if wanted is None:
        raise NotFoundError(f"Adapter {adapter.name} is gone: its user was erased.")
    if wanted.state == "active":
        return None
    if not wanted.checksums:
        raise ConflictError(f"Adapter {wanted.name} has no files yet: wait for its refresh.")
    old = _retire_active(session, wanted.user_id)
    registry.move(wanted, "active")
    session.flush()
    return old


def deactivate(session: Session, user: User) -> Adapter | None:
    """Retire the user's active version and return it; the user has none of their own then.

    What answers is the population's version, or without one the base model (`leases.choose`).
    """
    lock_user(session, user.id)
    return _retire_active(session, user.id)


def previous(session: Session, user: User) -> Adapter | None:
    """Return the version that a rollback without a target goes to; None is none of their own.

    Raises:
        ConflictError: The user has no active version.
    """
    versions = registry.lineage(session, user)
    if not versions:
        raise ConflictError(f"{user.name} has no active adapter: there is nothing to roll back.")
    return versions[1] if len(versions) > 1 else None


def rollback(
    session: Session, user: User, target: Adapter | None, seen: Adapter | None
) -> Adapter | None:
    """Flip the user to an earlier version, or to none of their own, in this transaction.

    Args:
        session: A writing transaction.
        user: Whose active version.
        target: The version to go to; None for none: see `deactivate`.
        seen: The version that was active when the target was chosen as "the one before";
            None where the target was named.

    Returns:
        The version that was active until now, if it is another one.

    Raises:
        ConflictError: Another version became active meanwhile: "the one before" changed.
        IllegalTransitionError: The target was erased or withdrawn meanwhile.
    """
    lock_user(session, user.id)
    current = registry.fresh(session, Adapter.user_id == user.id, Adapter.state == "active")
    at, to = (adapter.id if adapter else None for adapter in (current, target))
    if at == to:
        return None
    if seen is not None and at != seen.id:
        raise ConflictError(
            f"{current.name if current else 'No version'} became active meanwhile, in "
            f"place of {seen.name}: look at the versions and roll back again."
        )
    return deactivate(session, user) if target is None else activate(session, target)


def _retire_active(session: Session, user_id: int) -> Adapter | None:
    old = registry.fresh(session, Adapter.user_id == user_id, Adapter.state == "active")
    if old is not None:
        registry.move(old, "retired")
        # Now: the database refuses a moment with two active versions.
        session.flush()
    return old
