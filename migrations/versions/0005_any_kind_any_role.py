"""any kind of run, any role in an audit: the schema checks what a name looks like, the code knows which there are"""

from alembic import op
from alembic.util.exc import CommandError
from sqlalchemy import text

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NAME = "^[a-z][a-z_]{0,31}$"
BEFORE = {
    ("runs", "kind"): ("trace", "compare"),
    ("audit_runs", "role"): ("candidate", "reference", "control", "compare"),
}
"""Table and column -> the only values that the code before this migration knew. Tables in the order in which the
service comes to them: locks on both are held until the end."""


def upgrade() -> None:
    for table, column in BEFORE:
        _check(table, column, f"{column} ~ '{NAME}'")


def downgrade() -> None:
    for (table, column), known in BEFORE.items():
        listed = ",".join(f"'{name}'" for name in known)
        others = op.get_bind().execute(
            text(f"SELECT string_agg(DISTINCT {column}, ', ') FROM {table} WHERE {column} NOT IN ({listed})")  # noqa: S608  constants of this module
        )
        found = others.scalar()
        if found is not None:
            raise CommandError(
                f"{table} has rows whose {column} the release before does not know: {found}. They hold results that it "
                "could not read: stay at this migration, or restore a backup from before they were made"
            )
        _check(table, column, f"{column} IN ({listed})")


def _check(table: str, column: str, condition: str) -> None:
    name = op.f(f"ck_{table}_{column}")
    op.drop_constraint(name, table, type_="check")
    op.create_check_constraint(name, table, condition)
