"""`modelyard versions`: what people and machines get to see, and what moves."""

import pytest
from torch import nn

from modelyard.version_manager import ModelVersionManager

NO_SUCH = "ppo_v19990101_000000"


def test_list_shows_every_version_with_its_metrics(run, ids):
    shown = run("versions", "list").stdout
    assert all(version_id in shown for version_id in ids)
    assert "sharpe 3" in shown
    assert "production" in shown


def test_list_filters_sorts_and_limits(run_json, ids, registry):
    registry.tag_version(ids[1], "milestone")
    assert [v["version_id"] for v in run_json("versions", "list", "ppo")] == ids[::-1]
    [tagged] = run_json("versions", "list", "--tag", "milestone", "--tag", "nightly")
    assert tagged["version_id"] == ids[1]
    by_metric = run_json("versions", "list", "--sort-by", "max_dd", "--ascending", "--limit", 2)
    assert [v["version_id"] for v in by_metric] == [ids[2], ids[1]]


@pytest.mark.parametrize("command", ["list", "history", "statistics", "cleanup"])
def test_a_model_that_was_never_saved_is_mistyped(run, ids, command):
    said = run("versions", command, "pppo", exit_code=1).stderr
    assert said == "Nothing was ever saved as 'pppo'. Models: ppo.\n"


def test_a_model_without_versions_is_known_by_its_history(run_json, registry):
    registry.remove_version(registry.save_model(nn.Linear(2, 1), "gone"))
    assert run_json("versions", "list", "gone") == []
    assert [event["action"] for event in run_json("versions", "history", "gone")] == [
        "save",
        "remove",
    ]


def test_the_best_is_by_the_metrics_name_unless_told(run_json, ids):
    best = ("versions", "best", "ppo", "max_dd")
    assert run_json(*best)["version_id"] == ids[2]
    assert run_json(*best, "--minimize")["version_id"] == ids[2]
    assert run_json(*best, "--maximize")["version_id"] == ids[0]


def test_json_is_what_the_registry_says(run_json, ids):
    registry = ModelVersionManager("models")
    assert run_json("versions", "list") == registry.list_versions()
    assert run_json("versions", "show", ids[0]) == registry.get_version(ids[0])
    assert run_json("versions", "compare", *ids[:2]) == registry.compare_versions(*ids[:2])
    assert run_json("versions", "best", "ppo", "sharpe") == registry.get_version(ids[2])
    assert run_json("versions", "history", "ppo") == registry.get_history("ppo")
    assert run_json("versions", "statistics") == registry.get_statistics()


def test_show_and_compare_name_what_they_show(run, ids):
    assert "hidden_dim 1" in run("versions", "show", ids[0]).stdout
    shown = run("versions", "compare", ids[0], ids[2], "--metric", "sharpe").stdout
    assert ids[0] in shown
    assert ids[2] in shown
    assert "config.hidden_dim" in shown
    assert "unrelated" in shown
    assert "max_dd" not in shown


def test_best_takes_the_direction_it_is_told(run, ids):
    assert ids[2] in run("versions", "best", "ppo", "sharpe").stdout
    assert ids[0] in run("versions", "best", "ppo", "sharpe", "--minimize").stdout


def test_rollback_and_alias_move_and_say_from_where(run, ids, registry):
    said = run("versions", "rollback", ids[1]).stdout
    assert said == f"production of ppo is {ids[1]} (was {ids[0]})\n"
    assert registry.get_by_alias("ppo")["version_id"] == ids[1]
    assert "(was nothing)" in run("versions", "alias", "ppo", "candidate", ids[2]).stdout
    assert registry.get_by_alias("ppo", "candidate")["version_id"] == ids[2]


def test_tags_come_and_go(run, ids, registry):
    assert run("versions", "tag", ids[0], "gold").stdout == f"{ids[0]}: gold, nightly\n"
    assert run("versions", "untag", ids[0], "gold").stdout == f"{ids[0]}: nightly\n"
    assert run("versions", "untag", ids[0], "nightly").stdout == f"{ids[0]}: no tags\n"
    assert registry.get_version(ids[0])["tags"] == []


def test_history_shows_who_did_what(run, ids):
    run("versions", "tag", ids[0], "gold")
    shown = run("versions", "history", "ppo", "--version-id", ids[0]).stdout
    assert "rollback" in shown
    assert "tester" in shown
    assert "tag gold" in shown


def test_statistics_are_a_table_too(run, ids):
    shown = run("versions", "statistics", "ppo").stdout
    assert "ppo 3" in shown
    assert ids[2] in shown


def test_cleanup_says_what_goes_before_it_goes(run, run_json, ids):
    # Saved in 2024 on a manual clock; the command's own clock says they are old.
    assert run_json("versions", "cleanup", "--keep", 1, "--dry-run") == {
        "removed": [],
        "would_remove": [ids[1]],
    }
    assert ids[1] in run("versions", "cleanup", "ppo", "--keep", 1).stdout
    assert [v["version_id"] for v in run_json("versions", "list")] == [ids[2], ids[0]]
    kept = run("versions", "cleanup", "--keep", 1, "--metric", "sharpe", "--minimize").stdout
    assert ids[2] in kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", NO_SUCH], "No version 'ppo_v19990101_000000'"),
        (["compare", NO_SUCH, NO_SUCH], "No version"),
        (["best", "ppo", "profit"], "Metrics there are: max_dd, sharpe."),
        (["best", "dqn", "sharpe"], "No version of 'dqn' is stored"),
        (["rollback", NO_SUCH], "No version"),
        (["tag", NO_SUCH, "x"], "No version"),
        (["untag", NO_SUCH, "x"], "No version"),
        (["alias", "ppo", "../x", NO_SUCH], "alias '../x' is not allowed"),
        (["list", "--sort-by", "profit"], "Cannot sort by 'profit'"),
        (["list", "--base-dir", "nowhere"], "There is no registry in 'nowhere'"),
        (["list", "--database-url", "nonsense"], "database_url 'nonsense' cannot be used"),
    ],
)
def test_errors_are_one_line_on_the_error_stream(run, ids, tmp_path, arguments, said):
    result = run("versions", *arguments, exit_code=1)
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("arguments", [["show"], ["list", "--limit", "0"], ["nonsense"]])
def test_wrong_usage_ends_with_2(run, ids, arguments):
    run("versions", *arguments, exit_code=2)
