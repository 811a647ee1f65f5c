"""Which encoder made the vectors, what has none, and ids of facts that are never used again."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
_BARE = sa.text("embedding IS NULL")


def upgrade() -> None:
    encoder = op.create_table(
        "vector_encoder",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    # Nobody's: which encoder made the vectors of an older store is not known.
    op.bulk_insert(encoder, [{"id": 1, "fingerprint": ""}])
    # PostgreSQL's sequences never go back; SQLite would give the newest id again once it is free.
    _rebuild_facts_on_sqlite(autoincrement=True)
    for table in ("facts", "texts"):
        op.create_index(
            f"ix_{table}_bare",
            table,
            ["user_id", "id"],
            sqlite_where=_BARE,
            postgresql_where=_BARE,
        )
    # Contexts that are never used again may hold what the user had removed.
    op.execute(
        "DELETE FROM conversations WHERE memory_version <>"
        " (SELECT memory_version FROM users WHERE users.id = conversations.user_id)"
    )


def downgrade() -> None:
    for table in ("facts", "texts"):
        op.drop_index(
            f"ix_{table}_bare", table_name=table, sqlite_where=_BARE, postgresql_where=_BARE
        )
    _rebuild_facts_on_sqlite(autoincrement=False)
    op.drop_table("vector_encoder")


def _rebuild_facts_on_sqlite(autoincrement: bool) -> None:
    if op.get_bind().dialect.name == "sqlite":
        with op.batch_alter_table(
            "facts", recreate="always", table_kwargs={"sqlite_autoincrement": autoincrement}
        ):
            pass
