"""Ids of texts that are never used again: what a version has learnt is told by them."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # PostgreSQL's sequences never go back; SQLite would give the newest id again once it is free.
    _rebuild_on_sqlite(autoincrement=True)


def downgrade() -> None:
    _rebuild_on_sqlite(autoincrement=False)


def _rebuild_on_sqlite(autoincrement: bool) -> None:
    if op.get_bind().dialect.name == "sqlite":
        with op.batch_alter_table(
            "texts", recreate="always", table_kwargs={"sqlite_autoincrement": autoincrement}
        ):
            pass
