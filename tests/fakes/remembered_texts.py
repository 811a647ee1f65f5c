"""Texts of mina's that nobody has embedded yet."""

from server.services import Services
from server.store import memory
from server.store.tables.people import User
from server.store.users import find_user


def remember(services: Services, count: int, start: int = 0) -> User:
    """Give mina texts that have no vectors yet."""
    with services.database.write() as session:
        user = find_user(session, "mina")
        new = [memory.NewText("q", f"text {i}", 9.0 + i) for i in range(start, start + count)]
        memory.add_texts(session, user, new)
        return user
