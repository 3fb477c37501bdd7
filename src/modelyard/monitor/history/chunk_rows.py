"""Rows of what was recorded since the last flush."""

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from modelyard._core.errors import IntegrityError
from modelyard.monitor.history.chunks import Chunk, pack, unpack
from modelyard.storage.tables import monitor_chunk

_logger = logging.getLogger(__name__)

_row = monitor_chunk.c


def append_chunks(
    connection: Connection,
    model_name: str,
    recorder_id: str,
    chunks: Sequence[Chunk],
    *,
    at: str,
) -> None:
    """Add what a recorder has recorded, oldest first."""
    rows = [
        {
            "model_name": model_name,
            "recorder_id": recorder_id,
            "at": at,
            "n_records": chunk.n_records,
            "body": pack(chunk.arrays, chunk.meta),
        }
        for chunk in chunks
    ]
    if rows:
        connection.execute(insert(monitor_chunk), rows)


def newest_chunks(connection: Connection, model_name: str, n_records: int) -> list[Chunk]:
    """The newest chunks that together hold `n_records` predictions or more, oldest first.

    Of all recorders, in the order in which they were stored. One that is damaged is left out,
    with a warning that names it.
    """
    first = _first_of_newest(connection, model_name, n_records)
    query = (
        select(monitor_chunk)
        .where(_row.model_name == model_name, _row.seq >= first)
        .order_by(_row.seq)
    )
    found = []
    for row in connection.execute(query):
        try:
            arrays, meta = unpack(row.body)
        except IntegrityError as error:
            _logger.warning(
                "Chunk %d of monitor %r (%d predictions, stored %s by %s) is left out: %s",
                row.seq,
                model_name,
                row.n_records,
                row.at,
                row.recorder_id,
                error,
            )
        else:
            found.append(Chunk(arrays=arrays, meta=meta, n_records=row.n_records))
    return found


def trim_chunks(connection: Connection, model_name: str, n_records: int) -> None:
    """Remove what `newest_chunks` would not give."""
    first = _first_of_newest(connection, model_name, n_records)
    connection.execute(
        delete(monitor_chunk).where(_row.model_name == model_name, _row.seq < first)
    )


def _first_of_newest(connection: Connection, model_name: str, n_records: int) -> int:
    """Number of the oldest of the newest chunks that hold so many predictions; 0 for all."""
    query = (
        select(_row.seq, _row.n_records)
        .where(_row.model_name == model_name)
        .order_by(_row.seq.desc())
    )
    n_left = n_records
    for seq, n in connection.execute(query):
        n_left -= max(1, n)  # as `Chunk.weight`
        if n_left <= 0:
            return int(seq)
    return 0
