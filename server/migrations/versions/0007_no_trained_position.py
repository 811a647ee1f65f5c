"""No position of a version's newest text: what it has learnt is told by the ids in its metrics."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # A plain ALTER: a table that SQLite copies would take all rows that refer to it with it.
    op.drop_column("adapters", "trained_position")


def downgrade() -> None:
    op.add_column(
        "adapters",
        sa.Column("trained_position", sa.Double(), nullable=False, server_default="0"),
    )
