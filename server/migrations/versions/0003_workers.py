"""Workers that take over from lost ones, engines that sleep, and refreshes that back off."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("users", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("users", sa.Column("retry_at", sa.DateTime(), nullable=True))
    op.add_column(
        "refreshes",
        sa.Column("workflow_id", sa.String(length=160), nullable=False, server_default=""),
    )
    op.add_column("refreshes", sa.Column("worker", sa.String(length=96), nullable=True))
    op.add_column(
        "refreshes", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0")
    )
    op.execute("UPDATE refreshes SET workflow_id = id")
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("token", sa.String(length=96), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("beats", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "engine_naps",
        sa.Column("url", sa.String(length=255), nullable=False),
        sa.Column("worker", sa.String(length=96), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("url"),
    )


def downgrade() -> None:
    op.drop_table("engine_naps")
    op.drop_table("workers")
    op.drop_column("refreshes", "attempts")
    op.drop_column("refreshes", "worker")
    op.drop_column("refreshes", "workflow_id")
    op.drop_column("users", "retry_at")
    op.drop_column("users", "failures")
