"""Users with adapter versions that nobody trained, in a real registry on SQLite."""

from dataclasses import dataclass, field
from pathlib import Path

from server import adapter_store, pointer, registry
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.base import Base
from server.store.tables.people import User
from server.store.users import add_user

BASE_MODEL = "sha256:base"


@dataclass
class Shelf:
    """Adapters of one installation whose home is a folder of a test."""

    home: Path
    made: int = field(default=0)

    def __post_init__(self) -> None:
        self.database = Database(f"sqlite:///{self.home / 'attune.db'}")
        Base.metadata.create_all(self.database.engine)

    @property
    def adapters_dir(self) -> Path:
        return self.home / "adapters"

    def user(self, name: str = "mina") -> User:
        with self.database.write() as session:
            return add_user(session, name)[0]

    def source(self, weights: bytes) -> Path:
        """A folder with an adapter's two files."""
        self.made += 1
        folder = self.home / "sources" / str(self.made)
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(weights)
        return folder

    def candidate(self, user: User, weights: bytes = b"weights", base: str = BASE_MODEL) -> Adapter:
        """A version with files that is not active yet."""
        provenance = registry.Provenance(base, "perce", None)
        with self.database.write() as session:
            adapter = registry.add_candidate(session, user, provenance, {}, self.adapters_dir)
        placed = adapter_store.place(self.source(weights), Path(adapter.folder))
        with self.database.write() as session:
            registry.attach_files(session, adapter.id, placed.checksums, placed.size_bytes)
        return self.read(adapter)

    def publish(self, user: User, weights: bytes = b"weights", base: str = BASE_MODEL) -> Adapter:
        """A version that is active, in place of the one before."""
        adapter = self.candidate(user, weights, base)
        with self.database.write() as session:
            pointer.promote(session, adapter.id)
        return self.read(adapter)

    def read(self, adapter: Adapter) -> Adapter:
        """The version as it stands now."""
        with self.database.read() as session:
            return session.get_one(Adapter, adapter.id)

    def states(self, user: User) -> list[str]:
        """The states of a user's versions, oldest first."""
        with self.database.read() as session:
            return [adapter.state for adapter in registry.versions(session, user)][::-1]
