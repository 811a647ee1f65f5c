"""A workshop with people who share their texts, and the population's refreshes."""

from collections.abc import Callable, Sequence
from types import MethodType

from refresh_workshop import Workshop
from sqlalchemy import select

from adapt import workflow
from server import permissions, population, withdrawal
from server.store.tables.adapters import Adapter, AdapterMember
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh


class SharedWorkshop(Workshop):
    """What there is of a workshop, and who is in the population."""

    def sharing(self, *names: str, texts: int = 16) -> list[User]:
        """Add users who share their texts."""
        return [self.share(self.user(name, texts)) for name in names]

    def share(self, user: User) -> User:
        """Let a user share, and return the user as stored then."""
        with self.database.write() as session:
            permissions.change(session, user, shares=True)
        return self.read(user)

    def leave(self, user: User) -> None:
        """Let a user leave the population, as an erasure does first."""
        with self.database.write() as session:
            withdrawal.leave(session, user.id)

    def read(self, user: User) -> User:
        """The user's row as it stands now."""
        with self.database.read() as session:
            return session.get_one(User, user.id)

    def population(self) -> User:
        """The population's row."""
        with self.database.write() as session:
            return population.ensure(session)

    def refreshed(self, user: User) -> Refresh:
        """Refresh a user, or the population, to the end; a worker must be running."""
        return self.ended(self.open(user)[0])

    def members(self, adapter: Adapter) -> Sequence[int]:
        """Whose texts a version was trained on."""
        with self.database.read() as session:
            return session.scalars(
                select(AdapterMember.user_id)
                .where(AdapterMember.adapter_id == adapter.id)
                .order_by(AdapterMember.user_id)
            ).all()

    def files(self) -> list[str]:
        """The folder of each file of versions and of unfinished refreshes."""
        roots = (self.home / "adapters", self.home / "work")
        return sorted(
            str(path.parent.relative_to(self.home))
            for root in roots
            for path in root.rglob("*")
            if path.is_file()
        )


def before(part: str, name: str, act: Callable[[], None]) -> Callable[[workflow.Steps], None]:
    """Do something right before a step."""

    def fragile(steps: workflow.Steps) -> None:
        owner = getattr(steps, part)
        original = getattr(owner, name)

        def step(_owner: object, *args: object) -> object:
            act()
            return original(*args)

        setattr(owner, name, MethodType(step, owner))

    return fragile
