"""The table that says which encoder made the vectors of facts and texts."""

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from server.store.tables.base import Base


class VectorEncoder(Base):
    """The one encoder whose vectors the store holds; the only row has the id 1.

    `fingerprint` is empty while nobody may add vectors: those of another encoder are being
    removed.
    """

    __tablename__ = "vector_encoder"

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text)
