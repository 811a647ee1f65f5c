"""The population's adapter: who shares texts, who is in which version, what was withdrawn."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # Plain ALTERs: a table that SQLite copies would take all rows that refer to it with it.
    op.add_column(
        "users", sa.Column("kind", sa.String(length=16), nullable=False, server_default="person")
    )
    op.add_column(
        "users", sa.Column("shares", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("users", sa.Column("unlearnt_at", sa.DateTime(), nullable=True))
    op.create_table(
        "adapter_members",
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("adapter_id", "user_id"),
    )
    op.create_index("ix_adapter_members_user_id", "adapter_members", ["user_id"])
    op.create_index("ix_adapters_parent_id", "adapters", ["parent_id"])


def downgrade() -> None:
    # An older Attune would serve the population as a person, and knows no withdrawn version.
    op.execute("UPDATE adapters SET state = 'erased' WHERE state = 'withdrawn'")
    op.execute("DELETE FROM users WHERE kind = 'population'")
    op.drop_index("ix_adapters_parent_id", table_name="adapters")
    op.drop_index("ix_adapter_members_user_id", table_name="adapter_members")
    op.drop_table("adapter_members")
    for column in ("unlearnt_at", "shares", "kind"):
        op.drop_column("users", column)
