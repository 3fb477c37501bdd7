"""A graph as a picture: operators in layers, linked, coloured by their share of the time."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from fast_sugiyama import from_edges
from jinja2 import Environment, PackageLoader, StrictUndefined

from modelyard._core.errors import ConfigError
from modelyard._core.files import write_text
from modelyard.export.inspection import inspected, read_graph
from modelyard.export.profiling import operator_times

_WIDTH, _HEIGHT = 132, 34
_X_STEP, _Y_STEP = 150, 62
_MARGIN = 16
_N_HOTTEST = 12
_MOST_NODES = 3000
_SPACING = 10  # of the layout's own unit; only the order of positions is used


@dataclass(frozen=True, kw_only=True)
class Box:
    """An operator, an input or an output in the picture.

    Attributes:
        key: Its number.
        title: The operator, or the input's name.
        name: Full name of the node; the shape of an input.
        kind: "operator", "input" or "output".
        microseconds: Time a run; None where it was not measured.
        share: Of the whole time, 0 to 1.
        x, y: Upper left corner.
    """

    key: int
    title: str
    name: str
    kind: str
    microseconds: float | None
    share: float
    x: float = 0.0
    y: float = 0.0


def graph_page(path: Path, output_path: str | Path | None, *, should_profile: bool) -> str:
    """Write the page; its path.

    Raises:
        NotFoundError, InputError: The file is missing, no ONNX model, or does not run.
        ConfigError: It has more operators than a picture can hold, or the page another ending.
    """
    target = Path(output_path) if output_path is not None else path.with_suffix(".html")
    if target.suffix.lower() not in {".html", ".htm"}:
        raise ConfigError(f"The page's name must end in .html, got {str(target)!r}.")
    graph = read_graph(path).graph
    if len(graph.node) > _MOST_NODES:
        raise ConfigError(
            f"{str(path)!r} has {len(graph.node)} operators; a picture holds {_MOST_NODES}."
        )
    times = operator_times(path) if should_profile else {}
    boxes, links = boxes_and_links(graph, times)
    placed, lines, size = laid_out(boxes, links)
    by_kind = _by_kind(boxes)
    page = (
        _templates()
        .get_template("graph.html.j2")
        .render(
            name=path.name,
            info=inspected(path),
            boxes=placed,
            lines=lines,
            size=size,
            box_size=(_WIDTH, _HEIGHT),
            kinds=by_kind,
            hottest=sorted((box for box in boxes if box.microseconds), key=lambda box: -box.share)[
                :_N_HOTTEST
            ],
            total=sum(box.microseconds or 0.0 for box in boxes),
            is_profiled=bool(times),
            colour=_colour,
        )
    )
    write_text(target, page)
    return str(target)


def boxes_and_links(
    graph: onnx.GraphProto, times: Mapping[str, float]
) -> tuple[list[Box], list[tuple[int, int]]]:
    """What is drawn: operators but constants, inputs and outputs, and who feeds whom.

    Args:
        graph: The graph.
        times: Microseconds by node name; empty where nothing was measured.
    """
    total = sum(times.values()) or 1.0
    boxes: list[Box] = []
    maker: dict[str, int] = {}
    links: dict[tuple[int, int], None] = {}
    weights = {value.name for value in graph.initializer}

    def add(title: str, name: str, kind: str, microseconds: float | None = None) -> int:
        key = len(boxes)
        share = (microseconds or 0.0) / total
        boxes.append(
            Box(
                key=key,
                title=title,
                name=name,
                kind=kind,
                microseconds=microseconds,
                share=share,
            )
        )
        return key

    for value in graph.input:
        if value.name not in weights:
            maker[value.name] = add(value.name, _shape(value), "input")
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        measured = times.get(node.name) if times else None
        key = add(node.op_type, node.name, "operator", measured)
        links |= {(maker[name], key): None for name in _used(node) if name in maker}
        maker |= dict.fromkeys(node.output, key)
    for value in graph.output:
        key = add(value.name, _shape(value), "output")
        if value.name in maker:
            links[maker[value.name], key] = None
    return boxes, list(links)


def laid_out(
    boxes: Sequence[Box], links: Sequence[tuple[int, int]]
) -> tuple[list[Box], list[str], tuple[float, float]]:
    """Boxes at their places, lines as SVG paths, and the size of the whole.

    Layers by Sugiyama, Tagawa and Toda (1981), through fast-sugiyama. Links over several layers
    bend at each, so that they pass between the boxes.
    """
    places: dict[int, tuple[float, float]] = {}
    steps: list[tuple[int, int]] = []
    n = next_key = len(boxes)
    left = 0.0
    for linked in _parts(links):
        # One part at a time: the bends of one would get numbers of another's boxes.
        number = {key: index for index, key in enumerate(linked)}
        numbered = [(number[a], number[b]) for a, b in links if a in number]
        names = dict(enumerate(linked))
        for positions, _, _, edges in from_edges(
            numbered, vertex_spacing=_SPACING, dummy_vertices=True
        ):
            for raw, (x, y) in positions:
                index = int(raw)
                if index not in names:
                    names[index], next_key = next_key, next_key + 1
                places[names[index]] = (x + left, y)
            steps += [(names[int(a)], names[int(b)]) for a, b in edges or ()]
        left = max(x for x, _ in places.values()) + _SPACING
    for box in boxes:
        if box.key not in places:
            places[box.key] = (left, 0.0)
            left += _SPACING
    places = _scaled(places, links)
    placed = [_at(box, *places[box.key]) for box in boxes]
    width = max((x for x, _ in places.values()), default=0.0) + _WIDTH + _MARGIN
    height = max((y for _, y in places.values()), default=0.0) + _HEIGHT + _MARGIN
    return placed, [_line(route, places, n) for route in _routes(steps, n)], (width, height)


def _parts(links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Boxes that links hold together, a list for each part of the graph."""
    part_of: dict[int, list[int]] = {}
    for a, b in links:
        one, other = part_of.setdefault(a, [a]), part_of.setdefault(b, [b])
        if one is not other:
            one.extend(other)
            part_of.update(dict.fromkeys(other, one))
    return [sorted(part) for part in {id(part): part for part in part_of.values()}.values()]


def _scaled(
    places: Mapping[int, tuple[float, float]], links: Sequence[tuple[int, int]]
) -> dict[int, tuple[float, float]]:
    """Places in pixels, what feeds above what is fed."""
    downward = all(places[a][1] <= places[b][1] for a, b in links)
    xs = [x for x, _ in places.values()]
    ys = sorted({y for _, y in places.values()}, reverse=not downward)
    row = {y: index for index, y in enumerate(ys)}
    return {
        key: (
            _MARGIN + (x - min(xs)) / _SPACING * _X_STEP,
            _MARGIN + row[y] * float(_Y_STEP),
        )
        for key, (x, y) in places.items()
    }


def _routes(steps: Sequence[tuple[int, int]], n: int) -> list[list[int]]:
    """Links as rows of boxes and bends, from a box to the next box."""
    after: dict[int, list[int]] = defaultdict(list)
    for a, b in steps:
        after[a].append(b)
    routes = []
    for a, b in steps:
        if a >= n:
            continue
        route = [a, b]
        while route[-1] >= n and after[route[-1]]:
            route.append(after[route[-1]][0])
        routes.append(route)
    return routes


def _line(route: Sequence[int], places: Mapping[int, tuple[float, float]], n: int) -> str:
    points = []
    for index, key in enumerate(route):
        x, y = places[key]
        middle = x + _WIDTH / 2
        if key >= n:
            points += [(middle, y), (middle, y + _HEIGHT)]
        else:
            points.append((middle, y + _HEIGHT if index == 0 else y))
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        half = (y0 + y1) / 2
        path += f"C{x0:.0f} {half:.0f} {x1:.0f} {half:.0f} {x1:.0f} {y1:.0f}"
    return path


def _at(box: Box, x: float, y: float) -> Box:
    return Box(
        key=box.key,
        title=box.title,
        name=box.name,
        kind=box.kind,
        microseconds=box.microseconds,
        share=box.share,
        x=x,
        y=y,
    )


def _used(node: onnx.NodeProto) -> list[str]:
    """What a node takes, also from inside its branches and loop bodies."""
    used = list(node.input)
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs]:
            for child in inner.node:
                used += _used(child)
    return used


def _shape(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return " x ".join(dim.dim_param or str(dim.dim_value) for dim in dims) or "scalar"


def _by_kind(boxes: Sequence[Box]) -> list[tuple[str, int, float, float]]:
    """Operator, how often, microseconds and share of the time; the dearest first."""
    groups: dict[str, list[Box]] = defaultdict(list)
    for box in boxes:
        if box.kind == "operator":
            groups[box.title].append(box)
    rows = [
        (
            title,
            len(members),
            sum(box.microseconds or 0.0 for box in members),
            sum(box.share for box in members),
        )
        for title, members in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row[3], -row[1], row[0]))


def _colour(share: float, hottest: float) -> str:
    """From pale to strong by the share of the time; readable under dark text throughout."""
    level = (share / hottest) ** 0.5 if hottest > 0 else 0.0
    return f"hsl({48 - 34 * level:.0f} {40 + 55 * level:.0f}% {94 - 32 * level:.0f}%)"


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("modelyard.export"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
