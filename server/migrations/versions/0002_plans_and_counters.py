"""Plans, counters that tell who is due, provenance of versions, progress of refreshes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def user_columns() -> list[sa.Column]:
    return [
        sa.Column("text_count", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("new_texts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("last_text_at", sa.DateTime(), nullable=True),
        sa.Column("last_message_at", sa.DateTime(), nullable=True),
        sa.Column("last_refresh_at", sa.DateTime(), nullable=True),
        sa.Column("waiting_since", sa.DateTime(), nullable=True),
    ]


def adapter_columns() -> list[sa.Column]:
    return [
        sa.Column("data_fingerprint", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("settings", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("code_version", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("erased_at", sa.DateTime(), nullable=True),
    ]


def refresh_columns() -> list[sa.Column]:
    return [
        sa.Column("origin", sa.String(length=16), nullable=False, server_default="manual"),
        sa.Column(
            "plan_id", sa.Integer(), sa.ForeignKey("plans.id", ondelete="SET NULL"), nullable=True
        ),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("tokens_per_s", sa.Double(), nullable=True),
        sa.Column("seconds_left", sa.Double(), nullable=True),
    ]


# The data of a version are the texts that were there when its refresh started.
BACK_FILL = """
UPDATE users SET
  text_count = (SELECT count(*) FROM texts t WHERE t.user_id = users.id),
  new_texts = (
    SELECT count(*) FROM texts t WHERE t.user_id = users.id AND NOT EXISTS (
      SELECT 1 FROM adapters a LEFT JOIN refreshes r ON r.adapter_id = a.id
      WHERE a.user_id = users.id AND coalesce(r.started_at, a.created_at) >= t.created_at
    )
  ),
  last_text_at = (SELECT max(t.created_at) FROM texts t WHERE t.user_id = users.id),
  last_message_at = (SELECT max(i.created_at) FROM interactions i WHERE i.user_id = users.id),
  last_refresh_at = (SELECT max(r.finished_at) FROM refreshes r WHERE r.user_id = users.id)
"""


def upgrade() -> None:
    op.create_table(
        "plans",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run", sa.String(length=128), nullable=False),
        sa.Column("window_until", sa.DateTime(), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("run"),
    )
    op.create_table(
        "plan_entries",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("fleet", sa.Integer(), nullable=True),
        sa.Column("expected_s", sa.Double(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("plan_id", "rank"),
    )
    op.create_index("ix_plan_entries_user_id", "plan_entries", ["user_id"])
    # Plain ALTERs: a table that SQLite copies would take all rows that refer to it with it.
    for table, columns in (
        ("users", user_columns()),
        ("adapters", adapter_columns()),
        ("refreshes", refresh_columns()),
    ):
        for column in columns:
            op.add_column(table, column, inline_references=True)
    op.create_index(
        "ix_users_due",
        "users",
        ["consent", "new_texts", "text_count", "last_message_at", "last_refresh_at"],
    )
    op.create_index("ix_refreshes_plan_id", "refreshes", ["plan_id"])
    op.create_index("ix_refreshes_origin_created", "refreshes", ["origin", "created_at"])
    op.create_index("ix_refreshes_finished", "refreshes", ["finished_at"])
    op.execute(BACK_FILL)


def downgrade() -> None:
    for name, table in (
        ("ix_refreshes_finished", "refreshes"),
        ("ix_refreshes_origin_created", "refreshes"),
        ("ix_refreshes_plan_id", "refreshes"),
        ("ix_users_due", "users"),
    ):
        op.drop_index(name, table_name=table)
    for table, columns in (
        ("refreshes", refresh_columns()),
        ("adapters", adapter_columns()),
        ("users", user_columns()),
    ):
        for column in columns:
            op.drop_column(table, column.name)
    op.drop_index("ix_plan_entries_user_id", table_name="plan_entries")
    op.drop_table("plan_entries")
    op.drop_table("plans")
