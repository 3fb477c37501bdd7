"""A bandit in the store: chunks that are only ever appended, and the state up to some of them.

Every process that runs the bandit appends what happened there and takes in what happened
elsewhere. The state is that of the last one who wrote it; it says up to which chunk it knows the
others', and which of its own it holds, so whoever takes it up reads the rest and misses none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from modelyard.storage import Store
from modelyard.storage.store import write_snapshot
from modelyard.storage.tables import bandit_chunk

_SNAPSHOT_KIND = "bandit"


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it is stored.

    Attributes:
        seq: Its number; later ones have larger numbers.
        recorder_id: The process it is from.
        body: What happened.
    """

    seq: int
    recorder_id: str
    body: Mapping[str, Any]

    def is_in(self, state: Mapping[str, Any]) -> bool:
        """Whether a stored state holds it already."""
        if self.recorder_id == state.get("recorder_id"):
            return bool(self.seq <= state["own_seq"])
        return bool(self.seq <= state.get("last_seq", 0))


class BanditRows:
    """The rows of one bandit.

    Thread-safe and safe across processes: it holds no state of its own, and each method is one
    transaction.

    Args:
        store: Where they are.
        name: Whose they are.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store

    def load(self, n_choices: int) -> tuple[dict[str, Any] | None, list[StoredChunk]]:
        """The stored state, if there is one, and the chunks that matter beside it.

        Args:
            n_choices: How many of the last choices matter.

        Returns:
            The state and, oldest first, the chunks from the first on that it does not hold or
            that holds one of the last choices.
        """
        state = self._store.load_snapshot(_SNAPSHOT_KIND, self.name)
        known = 0 if state is None else state.get("last_seq", 0)
        return state, self.chunks(after_seq=min(known, self._before(n_choices)))

    def chunks(self, *, after_seq: int = 0) -> list[StoredChunk]:
        """The chunks after one of them, oldest first."""
        with self._store.database.reading() as connection:
            rows = connection.execute(self._select(after_seq)).all()
        return [StoredChunk(row.seq, row.recorder_id, row.body) for row in rows]

    def exchange(
        self,
        recorder_id: str,
        body: Mapping[str, Any],
        state: Mapping[str, Any] | None,
        *,
        after_seq: int,
        at: str,
    ) -> tuple[list[StoredChunk], int]:
        """Append a chunk and the state it leads to, and get what others appended.

        Args:
            recorder_id: This process.
            body: The chunk.
            state: With the chunk, and with those of others up to `after_seq`; None to leave the
                one that is stored.
            after_seq: Up to which chunk those of others are known.
            at: The time, ISO 8601.

        Returns:
            Chunks of others after `after_seq`, and the number of the one appended: writers take
            turns, so there are no others before it.

        Raises:
            StorageError: The store refuses.
        """
        table = bandit_chunk
        with self._store.database.writing() as connection:
            others = self._select(after_seq).where(table.c.recorder_id != recorder_id)
            news = [
                StoredChunk(row.seq, row.recorder_id, row.body)
                for row in connection.execute(others).all()
            ]
            row = {
                "bandit_name": self.name,
                "recorder_id": recorder_id,
                "at": at,
                "n_choices": len(body["choices"]),
                "body": body,
            }
            added = insert(table).values(row).returning(table.c.seq)
            own_seq = connection.execute(added).scalar_one()
            if state is not None:
                known = {"recorder_id": recorder_id, "last_seq": after_seq, "own_seq": own_seq}
                write_snapshot(connection, _SNAPSHOT_KIND, self.name, {**state, **known}, at=at)
        return news, int(own_seq)

    def _before(self, n_choices: int) -> int:
        """A chunk's number after which there are so many choices."""
        table = bandit_chunk.c
        query = (
            select(table.seq, table.n_choices)
            .where(table.bandit_name == self.name, table.n_choices > 0)
            .order_by(table.seq.desc())
            .limit(n_choices)
        )
        with self._store.database.reading() as connection:
            for seq, found in connection.execute(query):
                n_choices -= found
                if n_choices <= 0:
                    return int(seq) - 1
        return 0

    def _select(self, after_seq: int) -> Any:
        mine = bandit_chunk.c.bandit_name == self.name
        query = select(bandit_chunk).where(mine, bandit_chunk.c.seq > after_seq)
        return query.order_by(bandit_chunk.c.seq)
