"""`modelyard rollout ...`: begin, watch and steer a rollout from any terminal.

Commands write to the registry's store. The process that serves the model, the one that holds an
`UpdateStrategy`, finds them there within a second and does what they say.
"""

import getpass
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import ConflictError, NotFoundError
from modelyard.cli.registry import AsJson, on_registry
from modelyard.cli.rollout_board import OVER, look_at, shares
from modelyard.cli.showing import (
    output,
    show_json,
    show_line,
    show_pairs,
    show_table,
)

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
    allow_other_outputs: Annotated[
        bool,
        typer.Option(
            "--allow-other-outputs", help="Although it answers in another form than production."
        ),
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file whose section update_strategy holds the steps.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Begin to move the traffic of a model to a version."""
    strategy = _strategy(registry, _monitor(registry, model_name), config)
    state = strategy.update_model(
        version_id,
        smooth_transition=not direct,
        supersede=supersede,
        allow_other_outputs=allow_other_outputs,
    )
    _tell(state, as_json=as_json)


@app.command()
@on_registry
def status(
    registry: "ModelVersionManager",
    model_name: ModelName,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it until it is over.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show the rollout that runs, or the last one: shares and both versions' numbers."""
    _known(registry, model_name)
    if as_json:
        show_json(look_at(registry, model_name).to_plain())
        return
    if not watch:
        output().print(look_at(registry, model_name).board())
        return
    from rich.live import Live  # noqa: PLC0415 - only for this

    with Live(console=output(), auto_refresh=False) as live:
        while True:
            look = look_at(registry, model_name)
            live.update(look.board(), refresh=True)
            if look.state is None or look.state["status"] in OVER:
                return
            time.sleep(every)


@app.command()
@on_registry
def explain(
    registry: "ModelVersionManager",
    model_name: ModelName,
    rollout_id: Annotated[str | None, typer.Argument(help="The last one by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell a rollout in sentences: what was done when, by whom, and on which numbers."""
    strategy = _strategy(registry, _monitor(registry, model_name))
    sentences = strategy.explain(rollout_id)
    if as_json:
        show_json(sentences)
        return
    for sentence in sentences:
        show_line(sentence)


@app.command()
@on_registry
def report(
    registry: "ModelVersionManager",
    model_name: ModelName,
    out: Annotated[
        Path | None, typer.Option(help="HTML file; MODEL-rollouts.html by default.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rollouts.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Write a page with the traffic over time and every decision with its numbers."""
    from modelyard._core.files import write_text  # noqa: PLC0415 - with the next
    from modelyard.update_strategy import (  # noqa: PLC0415 - brings SciPy
        rollout_history,
        rollout_report,
    )

    _last(registry, model_name)
    records = rollout_history(registry.store, model_name, limit)
    path = out or Path(f"{model_name}-rollouts.html")
    write_text(path, rollout_report(model_name, records, generated_at=datetime.now(UTC)))
    if as_json:
        show_json({"report": path})
    else:
        show_line(f"Report: {path}")


@app.command()
@on_registry
def approve(
    registry: "ModelVersionManager",
    model_name: ModelName,
    reason: Reason = ASKED,
    as_json: AsJson = False,
) -> None:
    """Give a rollout that waits for approval its next share."""
    strategy = _strategy(registry, _monitor(registry, model_name))
    state = _needed(strategy.approve(reason=reason), "waiting for approval", model_name)
    _tell(state, as_json=as_json)


@app.command()
@on_registry
def promote(
    registry: "ModelVersionManager",
    model_name: ModelName,
    reason: Reason = ASKED,
    as_json: AsJson = False,
) -> None:
    """Give the candidate everything now, or end the watch over one that is promoted."""
    strategy = _strategy(registry, _monitor(registry, model_name))
    _tell(_needed(strategy.promote(reason=reason), "unfinished", model_name), as_json=as_json)


@app.command()
@on_registry
def halt(
    registry: "ModelVersionManager",
    model_name: ModelName,
    reason: Annotated[str, typer.Option(help="Why, for whoever finds it.")] = ASKED,
) -> None:
    """Stop all updates of a model: the stable version answers everything until `release`."""
    _strategy(registry, _monitor(registry, model_name)).halt(reason=reason)
    show_line(f"All updates of {model_name} are stopped.")


@app.command()
@on_registry
def release(
    registry: "ModelVersionManager", model_name: ModelName, reason: Reason = ASKED
) -> None:
    """Allow updates again after `halt`; until `resume` a paused rollout gives nothing away."""
    if not _strategy(registry, _monitor(registry, model_name)).release(reason=reason):
        raise ConflictError(f"Updates of {model_name!r} were not stopped.")
    show_line(f"Updates of {model_name} are allowed again.")


@app.command()
@on_registry
def pause(
    registry: "ModelVersionManager",
    model_name: ModelName,
    reason: Reason = ASKED,
    as_json: AsJson = False,
) -> None:
    """Pause a running rollout at its present shares."""
    strategy = _strategy(registry, _monitor(registry, model_name))
    state = strategy.pause(reason=reason)
    if state is None and (current := strategy.get_rollout()) is not None:
        raise ConflictError(
            f"The rollout of {model_name!r} is {current['status']} already: {current['reason']}."
        )
    _tell(_needed(state, "running", model_name), as_json=as_json)


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

    _known(registry, model_name)
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
    """Where alerts go; an error for a model that nobody knows."""
    from modelyard.monitor import ModelMonitor  # noqa: PLC0415 - brings SciPy

    _known(registry, model_name)
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


def _known(registry: "ModelVersionManager", model_name: str) -> None:
    """Nothing for a model that there is, or was.

    Raises:
        NotFoundError: It never had a version: a name that was mistyped must not be halted.
    """
    if registry.list_versions(model_name) or registry.get_history(model_name):
        return
    names = sorted({version["model_name"] for version in registry.list_versions()})
    raise NotFoundError(
        f"There is no model {model_name!r} in this registry. There are: "
        f"{', '.join(names) or 'none'}."
    )


def _last(registry: "ModelVersionManager", model_name: str) -> "RolloutState":
    from modelyard.update_strategy import last_rollout  # noqa: PLC0415 - brings SciPy

    state = last_rollout(registry.store, model_name)
    if state is None:
        raise NotFoundError(f"{model_name!r} has had no rollout.")
    return state


def _needed(state: "RolloutState | None", wanted: str, model_name: str) -> "RolloutState":
    if state is None:
        raise ConflictError(f"No rollout of {model_name!r} is {wanted}.")
    return state


def _tell(state: "RolloutState", *, as_json: bool) -> None:
    if as_json:
        show_json(state)
        return
    waits = "nothing yet: it waits for the process that serves the model"
    is_over = state["status"] in {*OVER, "already_running"}
    served_by = ", ".join(state["applied_to"]) or ("nothing" if is_over else waits)
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
