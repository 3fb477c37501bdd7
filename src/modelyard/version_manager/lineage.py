"""Which versions were made from which: the graph, and the graph as text."""

from collections.abc import Callable

from sqlalchemy import Connection, select

from modelyard.storage import tables as t
from modelyard.version_manager import catalog
from modelyard.version_manager.records import Lineage, LineageEdge, LineageNode, Version


def graph(connection: Connection, version_id: str) -> Lineage:
    """Everything a version comes from and everything made from it.

    Raises:
        VersionNotFoundError: No such version.
    """
    catalog.find(connection, version_id, removed=True)
    line = t.lineage.c
    up = _reached(connection, version_id, line.version_id.in_, by="parent_id")
    down = _reached(connection, version_id, line.parent_id.in_, by="version_id")
    ids = up | down | {version_id}
    edges = connection.execute(
        select(t.lineage).where(line.version_id.in_(list(ids)), line.parent_id.in_(list(ids)))
    ).all()
    known = {
        version["version_id"]: version
        for version in catalog.as_versions(
            connection,
            select(t.version)
            .where(t.version.c.version_id.in_(list(ids)))
            .order_by(t.version.c.seq),
        )
    }
    living = set(
        connection.execute(
            select(t.version.c.version_id).where(
                t.version.c.version_id.in_(list(ids)), t.version.c.removed_at.is_(None)
            )
        ).scalars()
    )
    absent = sorted(ids - known.keys())
    return {
        "version_id": version_id,
        "nodes": [_node(key, known.get(key), living) for key in (*absent, *known)],
        "edges": sorted(
            ({"parent": e.parent_id, "child": e.version_id, "kind": e.kind} for e in edges),
            key=lambda edge: (edge["parent"], edge["child"]),
        ),
    }


def as_tree(lineage: Lineage, told: Callable[[LineageNode], str]) -> list[str]:
    """The graph as lines of text, children indented below their parents.

    A version made from several stands below each; what was made from it, only the first time.

    Args:
        lineage: The graph.
        told: A version as text.
    """
    nodes = {node["version_id"]: node for node in lineage["nodes"]}
    children: dict[str, list[LineageEdge]] = {}
    for edge in lineage["edges"]:
        children.setdefault(edge["parent"], []).append(edge)
    made = {edge["child"] for edge in lineage["edges"]}
    lines: list[str] = []
    seen: set[str] = set()

    # A stack of its own: a family can have more generations than Python allows calls.
    waiting = [(key, 0, "") for key in reversed(nodes) if key not in made]
    while waiting:
        key, depth, kind = waiting.pop()
        is_again = key in seen and key in children
        seen.add(key)
        mark = f" ({kind})" if kind else ""
        lines.append(f"{'  ' * depth}{told(nodes[key])}{mark}{' ...' if is_again else ''}")
        if not is_again:
            below = reversed(children.get(key, []))
            waiting += [(edge["child"], depth + 1, edge["kind"]) for edge in below]
    return lines


def _reached(
    connection: Connection, start: str, where: Callable[[list[str]], object], *, by: str
) -> set[str]:
    """Ids reached from `start` by the lineage table, however far."""
    found: set[str] = set()
    frontier = {start}
    while frontier:
        query = select(t.lineage.c[by]).where(where(list(frontier)))  # type: ignore[arg-type]  # a column's condition
        frontier = set(connection.execute(query).scalars()) - found - {start}
        found |= frontier
    return found


def _node(version_id: str, version: Version | None, living: set[str]) -> LineageNode:
    return {
        "version_id": version_id,
        "model_name": version["model_name"] if version else None,
        "metrics": version["metrics"] if version else {},
        "is_removed": version_id not in living,
    }
