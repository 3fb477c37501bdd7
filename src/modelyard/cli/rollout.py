"""`modelyard rollout ...`: begin, watch and steer a rollout from any terminal.

Commands write to the registry's store. The process that serves the model, the one that holds an
`UpdateStrategy`, finds them there within a second and does what they say.
"""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import ConflictError, NotFoundError
from modelyard.cli.registry import AsJson, on_registry
from modelyard.cli.showing import shares, show_json, show_line, show_pairs, show_table

if TYPE_CHECKING:
    from modelyard.monitor import ModelMonitor
    from modelyard.update_strategy import RolloutState, UpdateStrategy
    from modelyard.version_manager import ModelVersionManager

app = typer.Typer(no_args_is_help=True, help="Begin, watch and steer a rollout.")

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
ASKED = "asked for on the command line"


@app.command()
@on_registry
def start(
    registry: "ModelVersionManager",
    model_name: ModelName,
    version_id: Annotated[str, typer.Argument(help="The version to move the traffic to.")],
    direct: Annotated[
        bool, typer.Option("--direct", help="All at once instead of in steps.")
    ] = False,
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Abort another rollout that runs.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file whose section update_strategy holds the steps.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Begin to move the traffic of a model to a version."""
    strategy = _strategy(registry, _monitor(registry, model_name), config)
    state = strategy.update_model(version_id, smooth_transition=not direct, supersede=supersede)
    _tell(state, as_json=as_json)


@app.command()
@on_registry
def status(
    registry: "ModelVersionManager",
    model_name: ModelName,
    as_json: AsJson = False,
) -> None:
    """Show the rollout that runs, or the last one. Changes nothing."""
    from modelyard.update_strategy import last_rollout  # noqa: PLC0415 - brings SciPy

    state = last_rollout(registry.store, model_name)
    if state is None:
        raise NotFoundError(f"{model_name!r} has had no rollout.")
    _tell(state, as_json=as_json)


@app.command()
@on_registry
def pause(
    registry: "ModelVersionManager",
    model_name: ModelName,
    reason: Reason = ASKED,
    as_json: AsJson = False,
) -> None:
    """Hold a running rollout at its present shares."""
    strategy = _strategy(registry, _monitor(registry, model_name))
    _tell(_needed(strategy.pause(reason=reason), "running", model_name), as_json=as_json)


@app.command()
@on_registry
def resume(
    registry: "ModelVersionManager",
    model_name: ModelName,
    reason: Reason = ASKED,
    as_json: AsJson = False,
) -> None:
    """Let a paused rollout go on."""
    strategy = _strategy(registry, _monitor(registry, model_name))
    _tell(_needed(strategy.resume(reason=reason), "paused", model_name), as_json=as_json)


@app.command()
@on_registry
def abort(
    registry: "ModelVersionManager",
    model_name: ModelName,
    reason: Reason = ASKED,
    as_json: AsJson = False,
) -> None:
    """End a rollout; the stable version gets all the traffic."""
    strategy = _strategy(registry, _monitor(registry, model_name))
    _tell(_needed(strategy.abort(reason=reason), "unfinished", model_name), as_json=as_json)


@app.command()
@on_registry
def rollback(
    registry: "ModelVersionManager",
    model_name: ModelName,
    reason: Reason = ASKED,
    as_json: AsJson = False,
) -> None:
    """Go back: from the rollout that runs, or to the production version before this one."""
    monitor = _monitor(registry, model_name)
    strategy = _strategy(registry, monitor)
    result = strategy.rollback(reason=reason)
    monitor.flush()  # the alert must outlive this process
    if as_json:
        show_json(result)
    elif result["rolled_back"]:
        show_line(f"rolled back from {result['from_version_id']} to {result['to_version_id']}")
    if not result["rolled_back"]:
        raise ConflictError(f"Not rolled back: {result['reason']}.")


@app.command()
@on_registry
def history(
    registry: "ModelVersionManager",
    model_name: ModelName,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the rollouts of a model, newest first, with every step of each."""
    from modelyard.update_strategy import rollout_history  # noqa: PLC0415 - brings SciPy

    records = rollout_history(registry.store, model_name, limit)
    if as_json:
        show_json(records)
        return
    rows = [
        (r["rollout_id"], e["at"][:19], e["action"], shares(e["detail"]["shares"]), e["actor"])
        for r in records
        for e in r["events"]
    ]
    show_table(["rollout", "at", "action", "shares", "actor"], rows, whole=4)


def _monitor(registry: "ModelVersionManager", model_name: str) -> "ModelMonitor":
    """Where alerts go."""
    from modelyard.monitor import ModelMonitor  # noqa: PLC0415 - brings SciPy

    return ModelMonitor(model_name, store=registry.store)


def _strategy(
    registry: "ModelVersionManager", monitor: "ModelMonitor", config: Path | None = None
) -> "UpdateStrategy":
    """A strategy whose commands reach the process that serves."""
    from modelyard.update_strategy import UpdateStrategy  # noqa: PLC0415 - brings SciPy

    rules: dict[str, Any] = {}
    if config is not None:
        from modelyard._core.config import load_config  # noqa: PLC0415 - brings pydantic

        rules = load_config(config).update_strategy.options()
    actor = f"{getpass.getuser()} (cli)"
    return UpdateStrategy(registry, monitor, rules, is_remote=True, actor=actor)


def _needed(state: "RolloutState | None", wanted: str, model_name: str) -> "RolloutState":
    if state is None:
        raise ConflictError(f"No rollout of {model_name!r} is {wanted}.")
    return state


def _tell(state: "RolloutState", *, as_json: bool) -> None:
    if as_json:
        show_json(state)
        return
    served_by = ", ".join(state["applied_to"]) or "nothing yet; only the pointer moves"
    show_pairs(
        {
            "rollout": state["rollout_id"],
            "status": state["status"],
            "shares": shares(state["shares"]),
            "step": f"{state['step']} of {state['n_steps']}",
            "trigger": state["trigger"],
            "served by": served_by,
            "reason": state["reason"],
        }
    )
