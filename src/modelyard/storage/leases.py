"""Who may act: one holder at a time, until its lease runs out."""

from sqlalchemy import Connection, delete, insert, select

from modelyard._core.clock import Clock
from modelyard.storage import tables
from modelyard.storage.store import Store


class Lease:
    """One holder's side of a lease: taken when free, renewed in good time.

    Not thread-safe: whoever owns it locks.

    Args:
        store: Where leases are kept.
        name: What the lease is for.
        holder: Who wants it; no other process may use the same name.
        seconds: How long it lasts from each renewal.
        clock: Where the time comes from; the holders' clocks must roughly agree.
    """

    def __init__(
        self, store: Store, name: str, holder: str, *, seconds: float, clock: Clock
    ) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self._clock = clock
        self._renew_at_s = float("-inf")

    def is_held(self) -> bool:
        """Whether the holder has it now; takes or renews it where that can be done."""
        now_s = self._clock.monotonic_s()
        if now_s < self._renew_at_s:
            return True
        has_it = take_lease(
            self._store, self._name, self._holder, seconds=self._seconds, clock=self._clock
        )
        # A third of the time is used, so that two renewals may fail before another takes it.
        self._renew_at_s = now_s + self._seconds / 3 if has_it else float("-inf")
        return has_it

    def give_back(self) -> None:
        """Let another have it at once. Nothing if it is not held."""
        if self._renew_at_s > float("-inf"):
            self._renew_at_s = float("-inf")
            drop_lease(self._store, self._name, self._holder)


def take_lease(store: Store, name: str, holder: str, *, seconds: float, clock: Clock) -> bool:
    """Take or renew a lease; whether `holder` has it now.

    Args:
        store: Where leases are kept.
        name: What the lease is for.
        holder: Who wants it; the same name renews its own.
        seconds: How long it lasts from now.
        clock: Where the time comes from; the holders' clocks must agree to within `seconds`.
    """
    now_s = clock.now().timestamp()
    # One that ends later was taken by a clock that has been set back since: it would last until
    # the clock has caught up. As much again as it lasts is left to clocks that disagree.
    latest_s = now_s + 2.0 * seconds
    # Those who wait ask often: they must not take the database's write lock to hear no.
    with store.database.reading() as connection:
        if _is_anothers(_found(connection, name), holder, now_s, latest_s):
            return False
    with store.database.writing() as connection:
        if _is_anothers(_found(connection, name), holder, now_s, latest_s):
            return False
        write_lease(connection, name, holder, expires_at_s=now_s + seconds)
    return True


def write_lease(
    connection: Connection,
    name: str,
    holder: str,
    *,
    expires_at_s: float,
    version_id: str | None = None,
) -> None:
    """Give a lease to `holder`, whoever had it, inside a writing transaction.

    Args:
        connection: Inside a writing transaction.
        name: What the lease is for.
        holder: Who gets it.
        expires_at_s: When it ends (Unix time).
        version_id: A version that may not be removed meanwhile.
    """
    row = tables.lease
    connection.execute(delete(row).where(row.c.name == name))
    values = {"name": name, "holder": holder, "expires_at_s": expires_at_s}
    connection.execute(insert(row), {**values, "version_id": version_id})


def drop_lease(store: Store, name: str, holder: str) -> None:
    """Give a lease back; nothing if another has it."""
    row = tables.lease.c
    with store.database.writing() as connection:
        connection.execute(delete(tables.lease).where(row.name == name, row.holder == holder))


def _found(connection: Connection, name: str) -> tuple[str, float] | None:
    """Holder and end of a lease, or None."""
    row = tables.lease.c
    found = connection.execute(
        select(row.holder, row.expires_at_s).where(row.name == name)
    ).first()
    return None if found is None else (found.holder, found.expires_at_s)


def _is_anothers(
    found: tuple[str, float] | None, holder: str, now_s: float, latest_s: float
) -> bool:
    return found is not None and found[0] != holder and now_s < found[1] <= latest_s
