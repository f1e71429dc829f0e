"""`csrflow COMMAND`, `python -m cascade.commands COMMAND` and `python tools/COMMAND.py` are one."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_tool

from cascade.commands import (
    COMMANDS,
    bench,
    colour,
    compress,
    decompress,
    evaluate,
    explore,
    features,
    figures,
    inpaint,
    likelihood,
    main,
    pristine,
    sample,
    tables,
    train,
    upscale,
    versus,
)
from cascade.commands.shared.interrupt import INTERRUPTED

MODULES = [bench, colour, compress, decompress, evaluate, explore, features, figures, inpaint]
MODULES += [likelihood, pristine, sample, tables, train, upscale, versus]


def csrflow(*words: str) -> subprocess.CompletedProcess:
    """`cascade.commands.__main__`, in a process of its own."""
    command = [sys.executable, "-m", "cascade.commands", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_command_has_a_module_and_a_tool():
    names = sorted(module.__name__.rpartition(".")[2] for module in MODULES)
    assert names == sorted(COMMANDS) == sorted(f.stem for f in (ROOT / "tools").glob("*.py"))
    there = {file.stem for file in (ROOT / "cascade" / "commands").glob("*.py")}
    assert there - {"__init__", "__main__"} == set(COMMANDS)


def test_help_lists_every_command_and_an_unknown_one_is_an_error():
    for words in ((), ("--help",), ("-h",)):
        done = csrflow(*words)
        assert done.returncode == 0 and done.stderr == ""
        assert all(f"  {name:<11} {what}" in done.stdout for name, what in COMMANDS.items())
    done = csrflow("smaple", "runs/digits")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: there is no command 'smaple'\nusage: csrflow COMMAND")
    assert csrflow("--version").stdout.startswith("csrflow ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_tool_takes_what_the_command_takes(name, capsys, monkeypatch):
    tool = run_tool(name, "--help")
    monkeypatch.setattr(sys, "argv", ["csrflow", name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    torch.set_num_threads(1)
    shown = capsys.readouterr().out
    assert tool.returncode == (stopped.value.code or 0) == 0
    assert tool.stdout.startswith(f"usage: {name}.py ")
    assert shown.startswith(f"usage: csrflow {name} ")
    # the usage is broken into lines by the length of the program's name
    assert tool.stdout.split("\n\n", 1)[1] == shown.split("\n\n", 1)[1]


@pytest.mark.parametrize("tool", COMMANDS)
def test_ctrl_c_during_the_imports_is_quiet(tmp_path, tool):
    """A torch that interrupts its own import stands for a user who does."""
    stop = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    (tmp_path / "torch.py").write_text(stop)
    done = subprocess.run(
        [sys.executable, f"tools/{tool}.py"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")
