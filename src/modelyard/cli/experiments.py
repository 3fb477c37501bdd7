"""`modelyard ab ...`: experiments that processes run on a registry's store, and their planning."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import ConfigError
from modelyard.cli.registry import AsJson, on_registry
from modelyard.cli.showing import show_json, show_line, show_pairs, show_table

if TYPE_CHECKING:
    from modelyard.ab_testing import ABTest
    from modelyard.version_manager import ModelVersionManager

app = typer.Typer(no_args_is_help=True, help="Experiments: who is better, and how sure that is.")

TestName = Annotated[str, typer.Argument(metavar="TEST", help="Name of the experiment.")]
# Why an option of `plan` goes with one kind of metric only.
_ONLY_SHARPE = "it is about Sharpe ratios. Leave it out, or plan with --sharpe."
_NOT_SHARPE = (
    "a Sharpe ratio is planned in periods, as many for each variant. Leave it out, or plan with "
    "--std."
)

MetricName = Annotated[str | None, typer.Option(help="The primary metric by default.")]


@app.command("list")
@on_registry
def list_(registry: "ModelVersionManager", as_json: AsJson = False) -> None:
    """List the experiments of the store, newest first."""
    from modelyard.ab_testing import stored_experiments  # noqa: PLC0415 - brings SciPy

    found = stored_experiments(registry.store)
    if as_json:
        show_json(found)
        return
    rows = [
        (e["test_name"], e["status"], e["primary_metric"], e["variants"], e["created_at"][:19])
        for e in found
    ]
    show_table(["experiment", "status", "metric", "variants", "made at"], rows)


@app.command()
@on_registry
def status(registry: "ModelVersionManager", test_name: TestName, as_json: AsJson = False) -> None:
    """Show counts, means and traffic of each variant, and the winner if there is one."""
    test = _load(registry, test_name)
    stats, winner = test.get_variant_stats(), test.get_winner()
    if as_json:
        show_json({"status": test.status, "winner": winner, "variants": stats})
        return
    metric = test.primary_metric
    chances = test.get_probabilities()
    rows = []
    for name, one in stats.items():
        found: dict[str, Any] = {**one["metrics"].get(metric, {})}
        row = (one["sample_count"], found.get("mean"), found.get("std"), chances[name])
        rows.append((name, one["traffic_weight"], *row))
    show_line(f"{test_name}: {test.status}, winner: {winner or 'none yet'}")
    show_table(
        ["variant", "traffic", "outcomes", f"mean {metric}", "std", "best with chance"], rows
    )


@app.command()
@on_registry
def compare(
    registry: "ModelVersionManager",
    test_name: TestName,
    variant_a: Annotated[str | None, typer.Argument(help="Control; the first by default.")] = None,
    variant_b: Annotated[str | None, typer.Argument(help="Treatment; by default each.")] = None,
    metric: MetricName = None,
    as_json: AsJson = False,
) -> None:
    """Compare variants: difference, interval, what it advises, and what speaks against it."""
    test = _load(registry, test_name)
    control = variant_a or test.names[0]
    others = [variant_b] if variant_b else [name for name in test.names if name != control]
    found = [test.compare_variants(control, other, metric) for other in others]
    if as_json:
        show_json(found)
        return
    for item in found:
        statistics, result = item["statistics"], item["result"]
        show_line(f"{item['variant_b']} against {item['variant_a']}: {result['recommendation']}")
        show_pairs(
            {
                "metric": f"{item['metric']} ({item['kind']})",
                "a, b": [statistics["mean_a"], statistics["mean_b"]],
                "improvement (%)": result["relative_improvement_percent"],
                "difference, always-valid": statistics["confidence_interval_always_valid"],
                "p-value, always-valid": statistics["p_value_always_valid"],
                "p-value, one look": statistics["p_value"],
                "Cohen's d": statistics["cohens_d"],
                "b is better with chance": item["bayesian"]["probability_b_is_better"],
                "guardrails": [f"{g['metric']} {g['status']}" for g in item["guardrails"]],
            }
        )
        for warning in item["warnings"]:
            show_line(f"Warning: {warning}")


@app.command()
@on_registry
def report(
    registry: "ModelVersionManager",
    test_name: TestName,
    out: Annotated[
        Path | None, typer.Option(help="HTML file; TEST-experiment.html by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page with the verdict, the interval over time and the checks."""
    path = _load(registry, test_name).report(out or Path(f"{test_name}-experiment.html"))
    if as_json:
        show_json({"report": path})
    else:
        show_line(f"Report: {path}")


@app.command()
@on_registry
def export(
    registry: "ModelVersionManager",
    test_name: TestName,
    out: Annotated[Path, typer.Argument(help=".json, .csv or .parquet")],
    as_json: AsJson = False,
) -> None:
    """Write every outcome, and as JSON the statistics too."""
    path = _load(registry, test_name).export_results(out)
    if as_json:
        show_json({"export": path})
    else:
        show_line(f"Results: {path}")


@app.command()
@on_registry
def pause(registry: "ModelVersionManager", test_name: TestName) -> None:
    """Give everybody the control until `resume`; running processes follow within a second."""
    _load(registry, test_name).pause()
    show_line(f"{test_name} is paused.")


@app.command()
@on_registry
def resume(registry: "ModelVersionManager", test_name: TestName) -> None:
    """Go on after `pause`."""
    _load(registry, test_name).resume()
    show_line(f"{test_name} is running.")


@app.command()
@on_registry
def stop(registry: "ModelVersionManager", test_name: TestName, as_json: AsJson = False) -> None:
    """End an experiment for good: it takes no more outcomes."""
    stopped = _load(registry, test_name).stop_test()
    if as_json:
        show_json(stopped)
    else:
        show_line(f"{test_name} is stopped; winner: {stopped['winner'] or 'none'}.")


@app.command()
def plan(
    effect: Annotated[
        float, typer.Option(help="True difference to find: of means, shares or Sharpe ratios.")
    ],
    std: Annotated[float | None, typer.Option(help="Standard deviation of one outcome.")] = None,
    base_rate: Annotated[float | None, typer.Option(help="For shares: the control's.")] = None,
    sharpe: Annotated[
        float | None, typer.Option(help="For Sharpe ratios: the control's, a year.")
    ] = None,
    correlation: Annotated[
        float | None,
        typer.Option(help="With --sharpe: of the returns of both, if both see the same market."),
    ] = None,
    periods_per_year: Annotated[
        float | None,
        typer.Option(help="With --sharpe: returns in a year.", show_default="252"),
    ] = None,
    power: Annotated[float, typer.Option(help="Chance to find it.")] = 0.8,
    confidence: Annotated[float, typer.Option(help="1 - the chance of a false winner.")] = 0.95,
    share: Annotated[
        float | None,
        typer.Option(
            help="The treatment's share of the traffic; not with --sharpe.", show_default="0.5"
        ),
    ] = None,
    inference: Annotated[
        str, typer.Option(help="always_valid, fixed_horizon or group_sequential.")
    ] = "always_valid",
    per_day: Annotated[
        float | None, typer.Option(help="Outcomes a day, both together: shows days.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Work out how many outcomes an experiment needs before it is begun."""
    from modelyard.ab_testing.analysis import planning  # noqa: PLC0415 - brings SciPy

    if sum(value is not None for value in (std, base_rate, sharpe)) != 1:
        raise ConfigError("Give one of --std (means), --base-rate (shares) or --sharpe (returns).")
    if sharpe is None:
        _refuse(
            {"--correlation": correlation, "--periods-per-year": periods_per_year}, _ONLY_SHARPE
        )
    else:
        _refuse({"--share": share}, _NOT_SHARPE)
    found = planning.planned(
        effect,
        std=std,
        base_rate=base_rate,
        sharpe=sharpe,
        correlation=correlation,
        periods_per_year=252.0 if periods_per_year is None else periods_per_year,
        power=power,
        confidence_level=confidence,
        share=0.5 if share is None else share,
        inference=inference,
        per_day=per_day,
    )
    if as_json:
        show_json(found)
    else:
        show_pairs(found)


def _refuse(options: Mapping[str, float | None], reason: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{option} {value:g} changes nothing here: {reason}")


def _load(registry: "ModelVersionManager", test_name: str) -> "ABTest":
    from modelyard.ab_testing import ABTest  # noqa: PLC0415 - brings SciPy

    return ABTest.load(test_name, store=registry.store)
