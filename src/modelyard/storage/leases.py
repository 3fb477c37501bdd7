"""Who may act: one holder at a time, until its lease runs out."""

from sqlalchemy import delete, insert, select

from modelyard._core.clock import Clock
from modelyard.storage import tables
from modelyard.storage.store import Store


def take_lease(store: Store, name: str, holder: str, *, seconds: float, clock: Clock) -> bool:
    """Take or renew a lease; whether `holder` has it now.

    Args:
        store: Where leases are kept.
        name: What the lease is for.
        holder: Who wants it; the same name renews its own.
        seconds: How long it lasts from now.
        clock: Where the time comes from; the holders' clocks must roughly agree.
    """
    now_s = clock.now().timestamp()
    row = tables.lease.c
    with store.database.writing() as connection:
        found = connection.execute(
            select(row.holder, row.expires_at_s).where(row.name == name)
        ).first()
        if found is not None and found.holder != holder and found.expires_at_s > now_s:
            return False
        connection.execute(delete(tables.lease).where(row.name == name))
        connection.execute(
            insert(tables.lease).values(name=name, holder=holder, expires_at_s=now_s + seconds)
        )
    return True


def drop_lease(store: Store, name: str, holder: str) -> None:
    """Give a lease back; nothing if another has it."""
    row = tables.lease.c
    with store.database.writing() as connection:
        connection.execute(delete(tables.lease).where(row.name == name, row.holder == holder))
