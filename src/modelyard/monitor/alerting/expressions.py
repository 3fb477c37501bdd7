"""Arithmetic over a monitor's figures, such as `prediction.std / baseline.prediction.std`.

An expression holds numbers, names of figures, `+ - * / ( )` and `min`, `max`, `abs`; nothing
else gets past the check when it is made. `simpleeval` then computes it with everything else of
its own switched off, on floats only, so no expression can run code or fill the memory.
"""

import ast
import difflib
import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from simpleeval import SimpleEval  # type: ignore[import-untyped]

from modelyard._core.errors import ConfigError

# Far more than a rule needs; nesting is bounded because the evaluator recurses.
MAX_LENGTH = 500
MAX_DEPTH = 30

_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs}
_N_ARGUMENTS = {"min": (2, 20), "max": (2, 20), "abs": (1, 1)}
_NODES = (ast.Expr, ast.Constant, ast.Name, ast.UnaryOp, ast.BinOp, ast.Call)

# The figures of a monitor; `*` stands for any one name. `baseline.` goes before each.
_FIGURES = (
    "latency.mean_ms",
    "latency.median_ms",
    "latency.p95_ms",
    "latency.p99_ms",
    "error_rate",
    "prediction.mean",
    "prediction.std",
    "prediction.n",
    "prediction.quantiles.*",
    "prediction.per_output.mean.*",
    "prediction.per_output.std.*",
    "metrics.*.mean",
    "metrics.*.std",
    "metrics.*.n",
)
_FIGURES_OF_NOW = (
    "throughput_qps",
    "total_predictions",
    "n_window",
    "drift.prediction.drift_score",
    "drift.prediction.effective_threshold",
    "drift.prediction.p_value",
    "drift.prediction.autocorrelation",
    "drift.feature.drift_score",
    "drift.feature.effective_threshold",
    "drift.feature.p_value",
    "drift.feature.autocorrelation",
    "odd_values.*",
    "versions.*",
    *(
        f"performance.{figure}.{part}"
        for figure in ("realised.*", "estimated.*", "metrics.*.mean", "metrics.*.sharpe")
        for part in ("value", "lower", "upper", "n")
    ),
)
# Names such as `return` are none to Python's parser, except in quotes.
_KEYWORD = re.compile(rf"\.\s*({'|'.join(keyword.kwlist)})\b")
KNOWN_NAMES = (*_FIGURES, *_FIGURES_OF_NOW, *(f"baseline.{name}" for name in _FIGURES))

FigurePath = tuple[str | int, ...]


class UnknownFigureError(LookupError):
    """A figure that is not known now; the message says which and why."""


class Expression:
    """One expression, checked when it is made.

    Args:
        text: Such as `error_rate` or `metrics["hit rate"].mean - 0.5`; a name that is no Python
            name stands in brackets and quotes, the number of an output in brackets.

    Raises:
        ConfigError: It is no arithmetic, or names a figure that no monitor has; the message
            gives the position and the known names.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._paths: dict[str, FigurePath] = {}
        tree = self._parsed(text)
        self._tree = ast.Expr(value=self._checked(tree.body, depth=0))
        if not self._paths:
            raise self._refusal("It names no figure", tree.body)

    @property
    def paths(self) -> Sequence[FigurePath]:
        """The figures it names, each as the keys that lead to it."""
        return list(self._paths.values())

    def value(self, figures: Mapping[str, Any]) -> float:
        """Its value for these figures; never NaN or infinite.

        Raises:
            UnknownFigureError: A figure is missing, None or no number, a division by zero, or a
                result that is no finite number.
        """
        names = {name: _figure(figures, path) for name, path in self._paths.items()}
        evaluator = SimpleEval(operators=_OPERATORS, functions=_FUNCTIONS, names=names)
        # Whatever else it could evaluate is switched off, also what is not allowed above.
        evaluator.nodes = {kind: evaluator.nodes[kind] for kind in _NODES}
        try:
            value = float(evaluator.eval(self.text, previously_parsed=self._tree))
        except ZeroDivisionError as error:
            raise UnknownFigureError(f"{self.text} divides by zero.") from error
        if not math.isfinite(value):
            raise UnknownFigureError(f"{self.text} is {value}.")
        return value

    def _parsed(self, text: str) -> ast.Expression:
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_LENGTH:
            raise ConfigError(
                f"An expression is text of 1 to {MAX_LENGTH} characters, got {text!r:.60}. "
                f"{_known()}"
            )
        try:
            return ast.parse(_KEYWORD.sub(r'["\1"]', text.strip()), mode="eval")
        except SyntaxError as error:
            # Python says 0 where the text ends too early.
            position = error.offset or len(text)
            raise ConfigError(
                f"Expression {text!r}, position {position}: {error.msg}. {_known()}"
            ) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(f"Expression {text!r} cannot be read: {error}.") from error

    def _checked(self, node: ast.expr, *, depth: int) -> ast.expr:
        """The same tree with each figure as one name and each number as a float."""
        if depth > MAX_DEPTH:
            raise self._refusal(f"It is nested more than {MAX_DEPTH} deep", node)
        match node:
            case ast.Constant():
                return self._number(node)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                operand = self._checked(node.operand, depth=depth + 1)
                return ast.UnaryOp(op=node.op, operand=operand)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
                left = self._checked(node.left, depth=depth + 1)
                right = self._checked(node.right, depth=depth + 1)
                return ast.BinOp(left=left, op=node.op, right=right)
            case ast.Call():
                return self._call(node, depth=depth)
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return self._name(node)
        raise self._refusal(
            "Only numbers, figures, + - * / ( ), min, max and abs are allowed", node
        )

    def _number(self, node: ast.Constant) -> ast.Constant:
        if type(node.value) not in {int, float}:
            raise self._refusal(f"{node.value!r:.40} is no number", node)
        try:
            value = float(node.value)  # type: ignore[arg-type]  # one of the two above
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise self._refusal("The number is too large", node)
        return ast.Constant(value=value)

    def _call(self, node: ast.Call, *, depth: int) -> ast.Call:
        if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS or node.keywords:
            raise self._refusal("Only min, max and abs can be called", node)
        least, most = _N_ARGUMENTS[node.func.id]
        if not least <= len(node.args) <= most:
            raise self._refusal(f"{node.func.id} takes {least} to {most} values", node)
        arguments = [self._checked(item, depth=depth + 1) for item in node.args]
        return ast.Call(func=ast.Name(id=node.func.id), args=arguments, keywords=[])

    def _name(self, node: ast.expr) -> ast.Name:
        path = self._path(node)
        if not any(_fits(path, known.split(".")) for known in KNOWN_NAMES):
            given = ".".join(map(str, path))
            close = difflib.get_close_matches(given, KNOWN_NAMES, n=1)
            hint = f" (do you mean {close[0]}?)" if close else ""
            raise self._refusal(f"No figure {given!r}{hint}", node)
        name = f"figure_{len(self._paths)}"
        self._paths[name] = path
        return ast.Name(id=name)

    def _path(self, node: ast.expr) -> FigurePath:
        match node:
            case ast.Name():
                return (node.id,)
            case ast.Attribute():
                return (*self._path(node.value), node.attr)
            case ast.Subscript(slice=ast.Constant(value=str() | int() as key)):
                return (*self._path(node.value), key)
        raise self._refusal(
            "A figure is a name with dots, or with a name or number in brackets", node
        )

    def _refusal(self, reason: str, node: ast.expr) -> ConfigError:
        return ConfigError(
            f"Expression {self.text!r}, position {node.col_offset + 1}: {reason}. {_known()}"
        )


def _figure(figures: Mapping[str, Any], path: FigurePath) -> float:
    value: Any = figures
    for key in path:
        # Keys of plain containers only: no attribute of anything is ever read.
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            value = None
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UnknownFigureError(f"{'.'.join(map(str, path))} is not known now.")
    return number


def _fits(path: FigurePath, known: Sequence[str]) -> bool:
    return len(path) == len(known) and all(
        wanted in {"*", key} for key, wanted in zip(path, known, strict=True)
    )


def _known() -> str:
    now = ", ".join((*_FIGURES, *_FIGURES_OF_NOW))
    return f"Known: {now}; and baseline. before those up to {_FIGURES[-1]}."
