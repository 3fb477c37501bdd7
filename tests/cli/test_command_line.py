"""The command as a whole: help, documentation, errors, real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from modelyard import __version__
from modelyard.cli import app

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "cli.md"


def commands(group, prefix=()):
    """Every command as its words, with click's object for it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.fixture(params=COMMANDS, ids=" ".join)
def words(request):
    return request.param


# Help and documentation


def test_every_command_has_help(run, words):
    shown = run(*words, "--help").stdout
    assert "Usage:" in shown
    assert COMMANDS[words].help.splitlines()[0].rstrip(".")[:40] in " ".join(shown.split())


def test_every_command_stands_in_the_documentation_with_an_example(words):
    text = DOCUMENTATION.read_text(encoding="utf-8")
    assert f"modelyard {' '.join(words)} " in text


def test_the_documentation_names_no_option_that_does_not_exist():
    known = {
        option
        for command in COMMANDS.values()
        for p in command.params
        for option in (*p.opts, *p.secondary_opts)
    } | {"--help", "--version"}
    text = DOCUMENTATION.read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z-]*", text))
    assert named <= known


def test_the_version_is_shown(run):
    assert run("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize("words_given", [[], ["versions"], ["rollout"]])
def test_without_a_command_there_is_help(run, words_given):
    assert "Usage:" in run(*words_given, exit_code=2).output


# Graphs


@pytest.mark.slow
def test_a_version_is_exported_and_inspected(run, run_json, ids):
    written = run_json("export", ids[0], "--target-dir", "out")
    assert written["path"] == f"out/{ids[0]}.onnx"
    assert written["opset_version"] == 14
    assert run_json("inspect", written["path"])["inputs"][0]["shape"][1] == 4
    assert "opset 17" in run("export", ids[0], "--opset", 17, "--input-shape", "1,4").stdout
    assert "Gemm" in run("inspect", written["path"]).stdout


@pytest.mark.slow
def test_an_onnx_file_is_checked_and_written_again(run_json, ids):
    first = run_json("export", ids[0], "--target-dir", "a")
    again = run_json("export", first["path"], "--target-dir", "b")
    assert again["path"] == f"b/{ids[0]}.onnx"
    assert again["parameter_count"] == first["parameter_count"]


def test_a_modules_file_is_exported_without_running_code_from_it(run, run_json, tmp_path):
    torch.save(torch.nn.Linear(3, 2), tmp_path / "small.pt")
    assert run_json("export", tmp_path / "small.pt", "--target-dir", "out")["path"].endswith(
        "out/small.onnx"
    )
    torch.save(Hostile(), tmp_path / "hostile.pt")
    said = run("export", tmp_path / "hostile.pt", exit_code=1).stderr
    assert "os.mkdir" in said or "posix.mkdir" in said
    assert not Path("it-ran").exists()


class Hostile:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "ppo_v1"], "No version 'ppo_v1'"),
        (["export", "ppo_v1", "--input-shape", "1,x"], "--input-shape must be whole numbers"),
        (["export", "ppo_v1", "--input-shape", "0,3"], "--input-shape must be whole numbers"),
        (["export", "text.onnx"], "is no ONNX model"),
        (["inspect", "text.onnx"], "is no ONNX model"),
        (["inspect", "missing.onnx"], "There is no file 'missing.onnx'"),
        (["run", "--config", "missing.yaml"], "'missing.yaml' cannot be read"),
    ],
)
def test_errors_are_one_line_on_the_error_stream(run, ids, arguments, said):
    Path("text.onnx").write_text("text")
    result = run(*arguments, exit_code=1)
    assert result.stdout == ""
    assert said in result.stderr


# The lifecycle


def test_run_without_model_and_data_names_the_demo(run, tmp_path):
    (tmp_path / "c.yaml").write_text("")
    said = run("run", "--config", tmp_path / "c.yaml", exit_code=1).stderr
    assert "modelyard demo" in said


def test_run_hands_everything_on(run, monkeypatch, tmp_path):
    import modelyard.pipeline

    given = {}

    def record(config, model, data, out, **options):
        given.update(options, config=config, model=model, data=data, out=out)
        return out / "report.html"

    monkeypatch.setattr(modelyard.pipeline, "run_from_files", record)
    (tmp_path / "c.yaml").write_text("data: {file: d.csv}")
    shown = run(
        "run", "--config", tmp_path / "c.yaml", "--model", "a:b", "--out", "o", "--seed", 3
    ).stdout
    assert shown == "Report: o/report.html\n"
    assert (given["model"], given["data"], given["seed"]) == ("a:b", None, 3)


def test_demo_hands_everything_on(run, monkeypatch):
    import modelyard.demo

    given = {}

    def record(out, **options):
        given.update(options, out=out)
        return out / "report.html"

    monkeypatch.setattr(modelyard.demo, "run_demo", record)
    assert run("demo", "--quick").stdout == "Report: modelyard-demo/report.html\n"
    assert (given["out"], given["quick"], given["seed"]) == (Path("modelyard-demo"), True, 0)


def test_an_interrupted_command_says_that_nothing_is_lost(run, monkeypatch):
    import modelyard.demo

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(modelyard.demo, "run_demo", interrupted)
    said = run("demo", exit_code=130).stderr
    assert "The registry is intact" in said
    assert said.count("\n") == 1


# Real processes


def process(*arguments, **options):
    command = [sys.executable, "-m", "modelyard", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.slow
def test_standard_output_is_json_and_nothing_else(ids):
    done = process("versions", "list", "--json")
    assert done.returncode == 0
    assert {version["version_id"] for version in json.loads(done.stdout)} == set(ids)
    assert done.stderr == ""


@pytest.mark.slow
def test_errors_of_a_process_have_no_traceback(ids):
    done = process("versions", "show", "ppo_v1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("No version 'ppo_v1'.")
    assert done.stderr.count("\n") == 1
    assert process("versions", "show").returncode == 2


def test_help_needs_no_torch():
    code = (
        "import sys, contextlib, io\n"
        "from modelyard.cli import app\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    app(['versions', 'list', '--help'])\n"
        "print([n for n in ('torch', 'onnx', 'numpy', 'sqlalchemy', 'yaml') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_a_process_with_130(tmp_path):
    code = (
        "import signal, time, types, sys\n"
        # A shell that runs the tests in the background has it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import modelyard.cli\n"
        "def slow(*a, **k):\n"
        "    print('at work', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.modules['modelyard.demo'] = types.SimpleNamespace(run_demo=slow)\n"
        "sys.argv = ['modelyard', 'demo']\n"
        "modelyard.cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "at work\n"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "The registry is intact" in said
    assert "Traceback" not in said
