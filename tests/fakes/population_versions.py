"""Versions of persons and of the population that nobody trained, with parents and members."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from server import adapter_store, pointer, population, registry
from server.store import memory
from server.store.database import Database
from server.store.memory import NewText
from server.store.tables.adapters import Adapter
from server.store.tables.people import User
from server.store.users import add_user, find_user


@dataclass(frozen=True, slots=True)
class PopulationVersions:
    """Makes users and versions in a store.

    Attributes:
        database: The store.
        adapters_dir: Folder of all published adapters.
        base_model: Hash of the base model that all are trained on.
    """

    database: Database
    adapters_dir: Path
    base_model: str = "sha256:base"

    def person(self, name: str, texts: int = 10, shares: bool = True) -> User:
        """A person with texts."""
        with self.database.write() as session:
            user, _ = add_user(session, name, shares=shares)
            rows = [NewText("q", f"{name} wrote {i}", float(i)) for i in range(texts)]
            memory.add_texts(session, user, rows)
        return self.read(name)

    def read(self, name: str) -> User:
        """A person, or the population, as it stands now."""
        with self.database.read() as session:
            found = population.find(session)
            return found if found and name == population.NAME else find_user(session, name)

    def owner(self) -> User:
        """The population."""
        with self.database.write() as session:
            return population.ensure(session)

    def candidate(
        self, user: User, parent: Adapter | None = None, members: Iterable[User] = ()
    ) -> Adapter:
        """A version with files that is not active yet."""
        parent_id = parent.id if parent else None
        provenance = registry.Provenance(self.base_model, "perce", parent_id)
        with self.database.write() as session:
            made = registry.add_candidate(session, user, provenance, {}, self.adapters_dir)
            population.record_members(session, made.id, [member.id for member in members])
        source = self.adapters_dir.parent / "source" / made.name
        source.mkdir(parents=True)
        (source / "adapter_config.json").write_text("{}")
        placed = adapter_store.place(source, Path(made.folder))
        with self.database.write() as session:
            registry.attach_files(session, made.id, placed.checksums, placed.size_bytes)
        return made

    def publish(
        self, user: User, parent: Adapter | None = None, members: Iterable[User] = ()
    ) -> Adapter:
        """A version that is active, in place of the one before."""
        made = self.candidate(user, parent, members)
        with self.database.write() as session:
            pointer.promote(session, made.id)
        return made

    def shared(self, *members: User) -> Adapter:
        """A version of the population that is active, trained on some persons."""
        return self.publish(self.owner(), members=members)

    def states(self, user: User) -> list[str]:
        """The states of a user's versions, oldest first."""
        with self.database.read() as session:
            return [adapter.state for adapter in registry.versions(session, user)][::-1]
