"""Trained models with a real task, for the benchmark of compression.

Data ships in packages: scikit-learn's handwritten digits (1,797 images of 8 x 8) for a CNN, an
LSTM and a Transformer, and the stocks of modelyard's own demo for its trading chain. Everything
is seeded; splits are fixed; nothing but the training part is trained or calibrated on.

The digit models are wider than their task needs, 4 to 20 MB of float32 weights: at a batch of
one it is then the weights that take the time, as in models people compress, not the calls.

    python benchmarks/_compression_tasks.py               # train all, print metric and time
    python benchmarks/_compression_tasks.py digits_cnn    # one
"""

import copy
import hashlib
import inspect
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from modelyard.torchtools.inputs import answer_of
from modelyard.torchtools.layers import evaluating, n_parameters, size_mb
from modelyard.trading import (
    ChainSettings,
    MarketPath,
    MarketRows,
    MarketTransformer,
    Models,
    PolicyNetwork,
    Scaler,
    TradingChain,
    TrainingCurves,
    TS2Vec,
    backtest,
    build_models,
    calibration_states,
    load_stocks,
    presets,
    train_chain,
)
from modelyard.trading.data import bar_inputs
from modelyard.trading.rows import HORIZON_DAYS, WINDOW_BARS

_CACHE = Path(__file__).resolve().parent / ".cache"
_SEED = 0
_N_CALIBRATION = 256
_N_CLASSES = 10
_N_TRAIN, _N_VALIDATION = 1077, 240  # of 1,797; the other 480 are the test
_VALIDATION_START = date(2005, 1, 1)  # of the chain's training part, which ends with 2006
_N_DRAWN = {"train": 1024, "validation": 256, "test": 768}

Loader = DataLoader[tuple[Tensor, ...]]
Metric = Callable[[nn.Module, Loader], float]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained model and what it is judged by.

    Attributes:
        name: Of the function that makes it.
        model: Trained, in eval mode.
        train_loader: Batches `(inputs, targets)`, shuffled anew, by seed, at each pass.
        validation_loader: Held out of training; chose the epoch.
        test_loader: Held out of everything; where the metric is read.
        calibration: Inputs drawn from the training part.
        example: The first two of them.
        metric_fn: `metric_fn(model, loader)`; takes any module that answers as `model` does.
        metric_name: What it is.
        larger_is_better: Direction of the metric.
        make_student: An untrained model with about half the parameters, the same each time.
        distillation_task: `task` of `ModelCompressor.knowledge_distillation`; for "embedding"
            the targets are not of the outputs' shape, so it goes with `alpha=1`.
    """

    name: str
    model: nn.Module
    train_loader: Loader
    validation_loader: Loader
    test_loader: Loader
    calibration: Tensor
    example: Tensor
    metric_fn: Metric
    metric_name: str
    larger_is_better: bool
    make_student: Callable[[], nn.Module]
    distillation_task: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a digit model is trained.

    Attributes:
        epochs: Passes over the training part; the best by validation loss is kept.
        learning_rate: Highest of AdamW's one-cycle schedule.
        weight_decay: Of AdamW.
        batch_size: Images per step.
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 0.05
    batch_size: int = 64


# ── the models ──────────────────────────────────────────────────────────────────────────────────


class DigitsCNN(nn.Module):
    """Four convolutions with batch norm, two linear layers; (batch, 1, 8, 8) to 10 logits."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        sizes = (1, width, 2 * width, 2 * width, 4 * width)
        blocks: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            blocks += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
            if i % 2:
                blocks.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(4 * width * 4, 4 * width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(4 * width, _N_CLASSES),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (batch, 10)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class DigitsLSTM(nn.Module):
    """Reads an image row by row, (batch, 8, 8), through two LSTM layers; 10 logits at the end."""

    def __init__(self, hidden_size: int = 384) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, hidden_size, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(hidden_size, _N_CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits, shape (batch, 10)."""
        hidden, _ = self.lstm(rows)
        logits: Tensor = self.head(hidden[:, -1])
        return logits


class DigitsTransformer(nn.Module):
    """Reads an image as nine patches, (batch, 9, 16); 10 logits from their mean."""

    def __init__(self, model_size: int = 192, n_layers: int = 4) -> None:
        super().__init__()
        self.projection = nn.Linear(16, model_size)
        self.positions = nn.Parameter(torch.randn(1, 9, model_size) * 0.02)
        layer = nn.TransformerEncoderLayer(
            model_size,
            nhead=6,
            dim_feedforward=4 * model_size,
            dropout=0.1,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, n_layers, norm=nn.LayerNorm(model_size), enable_nested_tensor=False
        )
        self.head = nn.Linear(model_size, _N_CLASSES)
        # nn.TransformerEncoder copies one layer: equal layers would fake a compression.
        for weights in self.encoder.parameters():
            if weights.dim() > 1:
                nn.init.xavier_uniform_(weights)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits, shape (batch, 10)."""
        encoded = self.encoder(self.projection(patches) + self.positions)
        logits: Tensor = self.head(encoded.mean(dim=1))
        return logits


def digits_cnn() -> Task:
    """Handwritten digits by a CNN."""
    return _digits_task(
        "digits_cnn",
        DigitsCNN,
        student={"width": 68},
        as_inputs=lambda images: images[:, None],
        recipe=Recipe(epochs=12, learning_rate=2e-3),
    )


def digits_lstm() -> Task:
    """Handwritten digits by an LSTM, row by row."""
    return _digits_task(
        "digits_lstm",
        DigitsLSTM,
        student={"hidden_size": 271},
        as_inputs=lambda images: images,
        recipe=Recipe(epochs=30, learning_rate=3e-3),
    )


def digits_transformer() -> Task:
    """Handwritten digits by a Transformer, patch by patch."""
    return _digits_task(
        "digits_transformer",
        DigitsTransformer,
        student={"n_layers": 2},
        as_inputs=_patches,
        recipe=Recipe(epochs=30, learning_rate=5e-4),
    )


# ── digits: data, training, metric ──────────────────────────────────────────────────────────────


def accuracy(model: Callable[[Tensor], Tensor], loader: Loader) -> float:
    """Share of right answers, 0 to 1."""
    answers, targets = _answers(model, loader)
    return float((answers.argmax(dim=-1) == targets).double().mean())


def _patches(images: Tensor) -> Tensor:
    """Images (n, 8, 8) as sequences of 4 x 4 patches that overlap by half, (n, 9, 16)."""
    return images.unfold(1, 4, 2).unfold(2, 4, 2).reshape(len(images), 9, 16).contiguous()


def _digits_task(
    name: str,
    kind: type[nn.Module],
    *,
    student: Mapping[str, int],
    as_inputs: Callable[[Tensor], Tensor],
    recipe: Recipe,
) -> Task:
    parts = [(as_inputs(images), targets) for images, targets in _digits()]
    train, validation, test = (
        _loader(*part, shuffle=i == 0, batch_size=recipe.batch_size)
        for i, part in enumerate(parts)
    )
    model = _seeded(kind)
    state = _cached(
        name,
        key=[
            inspect.getsource(kind),
            inspect.getsource(_fit_),
            inspect.getsource(_digits),
            recipe,
        ],
        make=lambda: _fit_(model, train, validation, recipe),
    )
    model.load_state_dict(state)
    inputs, targets = parts[0]
    return Task(
        name=name,
        model=model.eval(),
        # Anew: its order is the same whether the model was trained now or long ago.
        train_loader=_loader(inputs, targets, shuffle=True, batch_size=recipe.batch_size),
        validation_loader=validation,
        test_loader=test,
        calibration=inputs[:_N_CALIBRATION],
        example=inputs[:2],
        metric_fn=accuracy,
        metric_name="accuracy",
        larger_is_better=True,
        make_student=lambda: _seeded(kind, **student),
        distillation_task="classification",
    )


def _digits() -> list[tuple[Tensor, Tensor]]:
    """Images in [-1, 1], shape (n, 8, 8), and their digits: train, validation, test."""
    source = load_digits()
    order = np.random.default_rng(_SEED).permutation(len(source.target))
    images = torch.from_numpy(source.images[order] / 8.0 - 1.0).float()
    targets = torch.from_numpy(source.target[order]).long()
    ends = (0, _N_TRAIN, _N_TRAIN + _N_VALIDATION, len(order))
    return [(images[a:b], targets[a:b]) for a, b in itertools.pairwise(ends)]


def _fit_(
    model: nn.Module, train: Loader, validation: Loader, recipe: Recipe
) -> dict[str, Tensor]:
    """Train in place; the state dict of the epoch with the least validation loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=recipe.epochs * len(train) + 1
        )
        least, best = float("inf"), {}
        for _ in range(recipe.epochs):
            model.train()
            for inputs, targets in train:
                loss = functional.cross_entropy(model(inputs), targets, label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            with evaluating(model):
                held_out = float(functional.cross_entropy(*_answers(model, validation)))
            if held_out < least:
                least, best = held_out, copy.deepcopy(model.state_dict())
    return best


# ── the trading chain of modelyard's demo ───────────────────────────────────────────────────────


def trading_chain() -> dict[str, Task]:
    """The demo's models by name: `policy`, `policy_sharpe`, `transformer`, `ts2vec`.

    `policy` and `policy_sharpe` are one model judged in two ways: whether it acts as the original
    did (a compressed model's own fault), and by the Sharpe ratio it earns (which also moves by
    luck where two actions are nearly as good). The Transformer is judged by the forecasts that
    the head it was trained with reads off its states, TS2Vec by a ridge regression from its
    vectors to the next five days' volatility, fitted once on the original's (Yue et al., 2022,
    judge forecasts so). The test is of days after training; the validation part is of
    2005 and 2006, which the models themselves were trained on, as the demo's are.
    """
    chain = _chain()
    policy = _policy_task(chain)

    def sharpe(model: Callable[[Tensor], Tensor], loader: Loader) -> float:
        del loader  # a state holds what earlier actions did to the account: days must be walked
        walked = backtest(
            lambda states: answer_of(model, states),
            chain.held_out_paths(),
            cost_rate=chain.settings.cost_rate,
        )
        return float(walked.metrics["sharpe"])

    return {
        "policy": policy,
        "policy_sharpe": replace(
            policy, name="policy_sharpe", metric_fn=sharpe, metric_name="Sharpe ratio"
        ),
        "transformer": _transformer_task(chain),
        "ts2vec": _ts2vec_task(chain),
    }


def _policy_task(chain: TradingChain) -> Task:
    def labelled(states: Tensor) -> tuple[Tensor, Tensor]:
        return states, answer_of(chain.models.policy, states).argmax(dim=-1)

    # Every fifth state of training is kept for validation.
    states = calibration_states(chain, n_states=5120, rng=np.random.default_rng(_SEED))
    is_validation = torch.arange(len(states)) % 5 == 0
    held_out = backtest(
        chain.models.policy, chain.held_out_paths(), cost_rate=chain.settings.cost_rate
    )
    return _chain_task(
        "policy",
        chain.models.policy,
        train=labelled(states[~is_validation]),
        validation=labelled(states[is_validation]),
        test=labelled(torch.from_numpy(held_out.states)),
        metric_fn=accuracy,
        metric_name="same action as the original",
        larger_is_better=True,
        make_student=lambda: _seeded(PolicyNetwork, hidden_sizes=(160, 160)),
        distillation_task="classification",
    )


def _transformer_task(chain: TradingChain) -> Task:
    size = replace(chain.settings.architecture.transformer, n_layers=1, feedforward_size=128)
    return _chain_task(
        "transformer",
        chain.models.transformer,
        **_periods(chain, _sequences),
        metric_fn=_error_through(chain.models.head),
        metric_name="forecast error",
        larger_is_better=False,
        make_student=lambda: _seeded(MarketTransformer, **asdict(size)),
        distillation_task="embedding",
    )


def _ts2vec_task(chain: TradingChain) -> Task:
    parts = _periods(chain, _windows)
    read = [(answer_of(chain.models.ts2vec, x), y) for x, y in parts.values()]
    return _chain_task(
        "ts2vec",
        chain.models.ts2vec,
        **parts,
        metric_fn=_error_through(_chosen_ridge(read[0], read[1])),
        metric_name="volatility error",
        larger_is_better=False,
        make_student=lambda: _seeded(NarrowTS2Vec),
        distillation_task="embedding",
    )


class NarrowTS2Vec(nn.Module):
    """TS2Vec to 64 numbers and a linear layer to 128.

    Half of the small TS2Vec's parameters are in its last convolution, of 128 channels: fewer
    hidden channels alone cannot make it half as large.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TS2Vec(hidden_size=26, output_size=64)
        self.output = nn.Linear(64, 128)

    def forward(self, bars: Tensor) -> Tensor:
        """Shape (batch, time, 4) to (batch, 128)."""
        vectors: Tensor = self.output(self.encoder(bars))
        return vectors


def _chain_task(
    name: str,
    model: nn.Module,
    *,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    **judged: Any,
) -> Task:
    return Task(
        name=name,
        model=model,
        train_loader=_loader(*train, shuffle=True),
        validation_loader=_loader(*validation),
        test_loader=_loader(*test),
        # A copy: exported programs take the strides of a view for those of every input.
        calibration=train[0][:: len(train[0]) // _N_CALIBRATION][:_N_CALIBRATION].contiguous(),
        example=train[0][:2],
        **judged,
    )


def _error_through(head: Callable[[Tensor], Tensor]) -> Metric:
    """Mean squared error of what `head` reads off a model's answers."""

    def error(model: Callable[[Tensor], Tensor], loader: Loader) -> float:
        answers, targets = _answers(model, loader)
        return float(functional.mse_loss(answer_of(head, answers), targets))

    return error


def _periods(
    chain: TradingChain,
    inputs_of: Callable[[TradingChain, str, NDArray[np.intp]], Tensor],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and scaled targets of train, validation and test, which follow each other in time."""
    train_end = chain.settings.train_end
    periods = {
        "train": (None, _VALIDATION_START - timedelta(days=1)),
        "validation": (_VALIDATION_START, train_end),
        "test": (chain.held_out_start, None),
    }
    rng = np.random.default_rng(_SEED)
    parts = {}
    for name, (start, end) in periods.items():
        inputs, targets = [], []
        for symbol, rows in chain.rows.items():
            # The last forecasts of a period are settled behind its end.
            days = rows.ends(start=start, end=end)[:-HORIZON_DAYS]
            days = days[np.isfinite(rows.targets[days]).all(axis=1)]
            if len(days):
                inputs.append(inputs_of(chain, symbol, days))
                targets.append(torch.from_numpy(rows.targets[days]).float())
        chosen = np.sort(rng.choice(sum(map(len, targets)), _N_DRAWN[name], replace=False))
        wanted = torch.cat(targets)[chosen]
        wanted = wanted[:, -1:] if inputs_of is _windows else wanted
        parts[name] = (torch.cat(inputs)[chosen], wanted)
    return parts


def _sequences(chain: TradingChain, symbol: str, days: NDArray[np.intp]) -> Tensor:
    """What the Transformer reads, shape (n, 64, 155)."""
    return chain.rows[symbol].sequences(days)


def _windows(chain: TradingChain, symbol: str, days: NDArray[np.intp]) -> Tensor:
    """What TS2Vec reads, shape (n, 256, 4); row 0 of a stock ends its first window."""
    bars = chain.bar_scaler.apply(bar_inputs(load_stocks()[symbol]))
    return torch.from_numpy(np.stack([bars[day : day + WINDOW_BARS] for day in days]))


def _chosen_ridge(train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> nn.Module:
    """The regression, fitted in training, whose penalty is best in validation."""
    heads = [_ridge(*train, penalty=10.0**power) for power in range(7)]
    errors = [
        float(functional.mse_loss(answer_of(h, validation[0]), validation[1])) for h in heads
    ]
    return heads[int(np.argmin(errors))]


def _ridge(vectors: Tensor, targets: Tensor, *, penalty: float) -> nn.Module:
    """Linear regression with a penalty on standard scores, as one layer."""
    mean, std = vectors.double().mean(dim=0), vectors.double().std(dim=0) + 1e-9
    scores, offset = (vectors.double() - mean) / std, targets.double().mean(dim=0)
    gram = scores.T @ scores + penalty * torch.eye(scores.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, scores.T @ (targets.double() - offset)) / std[:, None]
    layer = nn.Linear(*weights.shape)
    layer.weight.data = weights.T.float()
    layer.bias.data = (offset - mean @ weights).float()
    return layer


def _chain() -> TradingChain:
    """The demo's chain, from the cache if it was trained before."""
    settings = presets.small()
    stored = _cached(
        "trading_chain", key=[settings], make=lambda: _packed(train_chain(settings, seed=_SEED))
    )
    return _unpacked(stored, settings)


_SCALERS = ("bar_scaler", "input_scaler", "target_scaler")
_MODELS = ("ts2vec", "transformer", "head", "policy")
_CURVES = ("ts2vec_loss", "transformer_loss", "policy_episode_return")
_ROWS = ("dates", "inputs", "targets", "next_returns")
_PATHS = ("dates", "next_dates", "states", "next_returns")


def _packed(chain: TradingChain) -> dict[str, Any]:
    """What `torch.load(weights_only=True)` gives back: tensors, numbers and words."""
    return {
        "models": {name: getattr(chain.models, name).state_dict() for name in _MODELS},
        "scalers": {name: getattr(chain, name).to_dict() for name in _SCALERS},
        "curves": {name: _tensor(getattr(chain.curves, name)) for name in _CURVES},
        "rows": {
            symbol: {name: _tensor(getattr(rows, name)) for name in _ROWS}
            for symbol, rows in chain.rows.items()
        },
        "paths": {
            symbol: {name: _tensor(getattr(path, name)) for name in _PATHS}
            for symbol, path in chain.paths.items()
        },
    }


def _unpacked(stored: Mapping[str, Any], settings: ChainSettings) -> TradingChain:
    models: Models = build_models(settings.architecture, seed=_SEED)
    for name, state in stored["models"].items():
        getattr(models, name).load_state_dict(state)
    scalers = {name: Scaler.from_dict(stored["scalers"][name]) for name in _SCALERS}
    curves = {name: values.numpy() for name, values in stored["curves"].items()}
    return TradingChain(
        settings=settings,
        seed=_SEED,
        models=models,
        curves=TrainingCurves(**curves),
        policy_hyper_parameters={},  # not needed here
        rows={s: MarketRows(symbol=s, **_arrays(part)) for s, part in stored["rows"].items()},
        paths={s: MarketPath(symbol=s, **_arrays(part)) for s, part in stored["paths"].items()},
        **scalers,
    )


def _tensor(values: Any) -> Tensor:
    """An array as a tensor; days as their number, which torch has no type for."""
    is_days = np.issubdtype(values.dtype, np.datetime64)
    return torch.from_numpy((values.astype(np.int64) if is_days else values).copy())


def _arrays(part: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        name: values.numpy().astype("datetime64[D]") if "dates" in name else values.numpy()
        for name, values in part.items()
    }


# ── what all share ──────────────────────────────────────────────────────────────────────────────


def _answers(model: Callable[[Tensor], Tensor], loader: Loader) -> tuple[Tensor, Tensor]:
    """A model's answers over a loader and the targets, each as one tensor."""
    pairs = [(answer_of(model, inputs), targets) for inputs, targets in loader]
    answers, targets = zip(*pairs, strict=True)
    return torch.cat(answers), torch.cat(targets)


def _loader(
    inputs: Tensor, targets: Tensor, *, shuffle: bool = False, batch_size: int = 64
) -> Loader:
    return DataLoader(
        TensorDataset(inputs, targets),
        batch_size=batch_size,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(_SEED),
    )


def _seeded(kind: Callable[..., nn.Module], **sizes: Any) -> nn.Module:
    """An untrained module, the same each time; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return kind(**sizes)


def _cached(name: str, *, key: list[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, from the file of an earlier run with the same key if there is one."""
    words = repr([key, _SEED, torch.__version__])
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    path = _CACHE / f"{name}-{digest}.pt"
    if not path.exists():
        _CACHE.mkdir(exist_ok=True)
        made = make()
        unfinished = path.with_suffix(f".{os.getpid()}")
        torch.save(made, unfinished)
        unfinished.replace(path)
    stored: dict[str, Any] = torch.load(path, weights_only=True)
    return stored


def tasks_named(names: list[str]) -> Iterator[Task]:
    """The tasks of these names, one by one, trained or from the cache; all for no names.

    Raises:
        KeyError: No such task.
    """
    chain: dict[str, Task] = {}
    for name in names or TASKS:
        if name in _DIGITS:
            yield _DIGITS[name]()
        else:
            chain = chain or trading_chain()
            yield chain[name]


_DIGITS: Mapping[str, Callable[[], Task]] = {
    "digits_cnn": digits_cnn,
    "digits_lstm": digits_lstm,
    "digits_transformer": digits_transformer,
}
TASKS = (*_DIGITS, "policy", "policy_sharpe", "transformer", "ts2vec")
"""Names that `tasks_named` knows."""


def main(names: list[str]) -> None:
    """Train what is named and print how it does."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    for task in tasks_named(names):
        metric = task.metric_fn(task.model, task.test_loader)
        student = n_parameters(task.make_student()) / n_parameters(task.model)
        print(
            f"{task.name}: {task.metric_name} {metric:.4f}, {size_mb(task.model):.2f} MB, "
            f"student {student:.0%} of the parameters, {time.perf_counter() - started:.1f} s"
        )
        started = time.perf_counter()


if __name__ == "__main__":
    main(sys.argv[1:])
