"""The tables of a database: made where there are none, taken to the present form where older."""

from pathlib import Path

from sqlalchemy import Connection, delete, insert, inspect, select, table, text
from sqlalchemy import column as named_column

from modelyard._core.errors import StorageError
from modelyard.storage.tables import HEAD, append_only_ddl, metadata

FIRST = "0001"
_REVISION = "alembic_version"


def is_present(connection: Connection) -> bool:
    """Whether the tables have the present form; changes nothing.

    Raises:
        StorageError: A newer modelyard made them.
    """
    revision = _revision(connection)
    if revision is not None and revision > HEAD:
        raise StorageError(
            f"The database has schema {revision}; this modelyard knows up to {HEAD}. "
            "Upgrade modelyard; nothing was changed."
        )
    return revision == HEAD


def make_tables(connection: Connection) -> None:
    """Make the tables, or bring older ones to the present form.

    To be called inside the writing transaction, so that of many processes that open a new
    registry at once one makes the tables and the others find them.
    """
    if is_present(connection):
        return
    names = set(inspect(connection).get_table_names())
    if "version" in names:
        _migrate(connection, _revision(connection) or FIRST)
        return
    metadata.create_all(connection)
    for statement in append_only_ddl(connection.dialect.name):
        connection.exec_driver_sql(statement)
    _stamp(connection, HEAD)


def _revision(connection: Connection) -> str | None:
    """Alembic's number of the tables, or None where there is none."""
    if not inspect(connection).has_table(_REVISION):
        return None
    revision: str | None = connection.execute(
        select(named_column("version_num")).select_from(table(_REVISION))
    ).scalar()
    return revision


def _stamp(connection: Connection, revision: str) -> None:
    connection.execute(
        text(f"CREATE TABLE IF NOT EXISTS {_REVISION} (version_num VARCHAR(32) PRIMARY KEY)")
    )
    row = table(_REVISION, named_column("version_num"))
    connection.execute(delete(row))
    connection.execute(insert(row), {"version_num": revision})


def _migrate(connection: Connection, revision: str) -> None:
    # Brings a third of a second, which only an old registry pays.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    _stamp(connection, revision)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
