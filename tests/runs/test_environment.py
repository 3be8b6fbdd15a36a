"""The command that continues a run is the one that was typed, launcher included."""

import json
import shlex
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from ols.runs.environment import command_line
print("COMMAND " + json.dumps(command_line()))
"""


@pytest.mark.parametrize(
    ("launcher", "typed"),
    [
        ([sys.executable], ["python"]),
        ([sys.executable, "-W", "ignore"], ["python", "-W", "ignore"]),
        (
            [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1"],
            ["python", "-m", "torch.distributed.run", "--nproc_per_node", "1"],
        ),
    ],
)
def test_the_command_of_a_run_has_its_launcher(tmp_path, launcher, typed):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    arguments = [str(script), "--name", "two words"]
    # A shell between: its own command line has the script in one piece with everything else
    done = subprocess.run(["sh", "-c", f"{shlex.join([*launcher, *arguments])}; true"], capture_output=True, text=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("COMMAND ")]
    assert json.loads(line.removeprefix("COMMAND ")) == [*typed, *arguments]
