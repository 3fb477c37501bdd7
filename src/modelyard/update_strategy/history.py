"""Rollouts in the store: each change is durable, and none is lost to another's."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from modelyard._core.clock import Clock
from modelyard._core.errors import (
    ConfigError,
    NotFoundError,
    RolloutInProgressError,
    StaleRevisionError,
)
from modelyard.storage import Store
from modelyard.storage import tables as t
from modelyard.storage.store import write_snapshot
from modelyard.update_strategy.records import RolloutState, UpdateRecord
from modelyard.update_strategy.rollout import Rollout
from modelyard.update_strategy.telling import in_progress, state_of


def last_rollout(store: Store, model_name: str) -> RolloutState | None:
    """The rollout of a model that began last, as it stands; None if there was none."""
    rollout = RolloutLog(store, model_name).newest()
    return None if rollout is None else state_of(rollout)


def rollout_history(store: Store, model_name: str, limit: int | None = None) -> list[UpdateRecord]:
    """Rollouts of a model, newest first, with everything that happened to each."""
    return RolloutLog(store, model_name).history(limit)


def current_halt(store: Store, model_name: str) -> "Halt | None":
    """Who has stopped all updates of a model, when and why; None while nobody has."""
    return RolloutLog(store, model_name).halt()


def last_seen(store: Store, model_name: str) -> Mapping[str, Any] | None:
    """What the process that serves saw of its rollout last; or None.

    `at`, `candidate`, `stable` and, while that has too few answers to compare with, `baseline`.
    Written about once a second while a rollout runs.
    """
    return store.load_snapshot(_SEEN, model_name) or None


_HALT = "update_halt"
_SEEN = "rollout_seen"
_SCHEDULE = "update_schedule"


@dataclass(frozen=True, kw_only=True)
class Halt:
    """That nobody may move traffic forward: who said so, when (ISO 8601) and why."""

    actor: str
    at: str
    reason: str

    def refusal(self, model_name: str) -> str:
        """That it is so, and the way out."""
        return (
            f"{self.actor} has stopped all updates of {model_name!r} at {self.at}: "
            f"{self.reason}. Call release() first."
        )


class RolloutLog:
    """Rollouts of one model and everything that happened to them."""

    def __init__(self, store: Store, model_name: str) -> None:
        self._store = store
        self._model_name = model_name

    def current(self) -> Rollout | None:
        """The rollout that is not finished, or None."""
        return self._one(t.rollout.c.status.in_(t.UNFINISHED_ROLLOUTS))

    def newest(self) -> Rollout | None:
        """The rollout that began last, or None."""
        return self._one()

    def halt(self) -> Halt | None:
        """Who has stopped all updates of the model, when and why; None while nobody has."""
        state = self._store.load_snapshot(_HALT, self._model_name)
        return Halt(**state) if state else None

    def set_halt(self, halt: Halt | None, *, actor: str, reason: str, now: datetime) -> None:
        """Stop all updates of the model, or allow them again. Durable on return.

        Written to the audit, and to the events of the rollout that runs.
        """
        # Its rows and documents are the registry's; here, because it brings torch.
        from modelyard.version_manager import history as audit  # noqa: PLC0415

        action = "release" if halt is None else "halt"
        state = {} if halt is None else asdict(halt)
        running = self.current()
        event = audit.Event(
            action=action,
            model_name=self._model_name,
            version_id=None,
            at=now,
            actor=actor,
            detail={"reason": reason},
        )
        with self._store.database.writing() as connection:
            write_snapshot(connection, _HALT, self._model_name, state, at=now.isoformat())
            audit.record(connection, self._store, event)
            if running is not None:
                at, detail = now.isoformat(), {"reason": reason}
                self._append(connection, running, action, actor=actor, at=at, detail=detail)

    def schedule_since(self, schedule: str, *, created_at: datetime, clock: Clock) -> datetime:
        """From when on a schedule's moments count: when it was first asked about, ever."""
        known = self._store.load_snapshot(_SCHEDULE, self._model_name)
        if known is None or known["schedule"] != schedule:
            known = {"schedule": schedule, "since": created_at.isoformat()}
            self._store.save_snapshot(_SCHEDULE, self._model_name, known, clock=clock)
        return datetime.fromisoformat(known["since"])

    def note_seen(self, seen: Mapping[str, Any], *, clock: Clock) -> None:
        """Keep what was seen of a rollout last, for whoever watches from elsewhere."""
        self._store.save_snapshot(_SEEN, self._model_name, seen, clock=clock)

    def newest_of(self, n: int) -> list[Rollout]:
        """The last `n` rollouts, newest first."""
        r = t.rollout.c
        query = select(r.state).where(r.model_name == self._model_name)
        with self._store.database.reading() as connection:
            states = connection.execute(query.order_by(r.seq.desc()).limit(n)).scalars()
            return [Rollout.from_plain(state) for state in states]

    def get(self, rollout_id: str) -> Rollout:
        """A rollout that was written before."""
        found = self._one(t.rollout.c.rollout_id == rollout_id)
        if found is None:
            raise NotFoundError(f"No rollout {rollout_id!r} of {self._model_name!r} is stored.")
        return found

    def start(self, rollout: Rollout, *, action: str, actor: str, detail: dict[str, Any]) -> None:
        """Write a new rollout, unless another one has begun meanwhile.

        Raises:
            RolloutInProgressError: Another one is not finished.
        """
        with self._store.database.writing() as connection:
            r = t.rollout.c
            query = select(r.state).where(
                r.model_name == self._model_name, r.status.in_(t.UNFINISHED_ROLLOUTS)
            )
            other = connection.execute(query).scalar()
            if other is not None:
                raise RolloutInProgressError(in_progress(Rollout.from_plain(other)))
            connection.execute(insert(t.rollout).values(**_row(rollout)))
            self._append(
                connection, rollout, action, actor=actor, at=rollout.started_at, detail=detail
            )

    def change(
        self, rollout: Rollout, *, action: str, actor: str, now: datetime, detail: dict[str, Any]
    ) -> Rollout:
        """Write a changed rollout; the same with its new revision.

        Raises:
            StaleRevisionError: Someone else changed it first.
        """
        changed = Rollout.from_plain({**rollout.to_plain(), "revision": rollout.revision + 1})
        with self._store.database.writing() as connection:
            r = t.rollout.c
            result = connection.execute(
                update(t.rollout)
                .where(r.rollout_id == rollout.rollout_id, r.revision == rollout.revision)
                .values(**_row(changed))
            )
            if result.rowcount != 1:
                raise StaleRevisionError(
                    f"{rollout.rollout_id} was changed by someone else; look again."
                )
            self._append(
                connection, changed, action, actor=actor, at=now.isoformat(), detail=detail
            )
        return changed

    def history(self, limit: int | None) -> list[UpdateRecord]:
        """Rollouts, newest first, with their events.

        Raises:
            ConfigError: `limit` is no whole number of 0 or more.
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise ConfigError(f"limit must be a whole number or None, got {limit!r}.")
        if limit is not None and limit < 0:
            raise ConfigError(f"limit must be 0 or more, got {limit}.")
        r, e = t.rollout.c, t.rollout_event.c
        query = (
            select(r.state).where(r.model_name == self._model_name).order_by(r.seq.desc())
        ).limit(limit)
        with self._store.database.reading() as connection:
            rollouts = [Rollout.from_plain(state) for state in connection.execute(query).scalars()]
            ids = [rollout.rollout_id for rollout in rollouts]
            rows = connection.execute(
                select(t.rollout_event).where(e.rollout_id.in_(ids)).order_by(e.seq)
            ).mappings()
            events: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                events.setdefault(row["rollout_id"], []).append(
                    {name: row[name] for name in ("at", "action", "actor", "detail")}
                )
        return [
            {
                "rollout_id": rollout.rollout_id,
                "model_name": rollout.model_name,
                "old_version_id": rollout.old_version_id,
                "new_version_id": rollout.new_version_id,
                "trigger": rollout.trigger,
                "status": rollout.status,
                "started_at": rollout.started_at,
                "finished_at": rollout.finished_at,
                "reason": rollout.reason,
                "is_rollback": rollout.is_rollback,
                "events": events.get(rollout.rollout_id, []),
            }
            for rollout in rollouts
        ]

    def _one(self, *conditions: Any) -> Rollout | None:
        r = t.rollout.c
        query = (
            select(r.state)
            .where(r.model_name == self._model_name, *conditions)
            .order_by(r.seq.desc())
            .limit(1)
        )
        with self._store.database.reading() as connection:
            state = connection.execute(query).scalar()
        return None if state is None else Rollout.from_plain(state)

    def _append(
        self,
        connection: Connection,
        rollout: Rollout,
        action: str,
        *,
        actor: str,
        at: str,
        detail: dict[str, Any],
    ) -> None:
        connection.execute(
            insert(t.rollout_event).values(
                rollout_id=rollout.rollout_id,
                model_name=self._model_name,
                at=at,
                action=action,
                actor=actor,
                detail={"shares": rollout.traffic, "status": rollout.status, **detail},
            )
        )


def _row(rollout: Rollout) -> dict[str, Any]:
    return {
        "rollout_id": rollout.rollout_id,
        "model_name": rollout.model_name,
        "old_version_id": rollout.old_version_id,
        "new_version_id": rollout.new_version_id,
        "status": rollout.status,
        "state": rollout.to_plain(),
        "revision": rollout.revision,
    }
