import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import SMALL

LAUNCHED = Path(__file__).parents[1] / "launched"


def test_of_two_processes_started_at_once_one_runs_and_the_other_says_who_holds_the_run(tree, tmp_path):
    tree.write_csvs()
    run_dir = tmp_path / "runs" / "run"
    options = [*SMALL, "--train.epochs=2", "--loss.name=hard", f"--data.root={tree.root}", f"--run_dir={run_dir}"]
    done = subprocess.run(
        [sys.executable, LAUNCHED / "two_starts.py", tmp_path, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    for resume, ended in results.items():
        (won, printed), (lost, refused) = sorted(ended)
        assert (won, lost) == (0, 3), ended
        assert f"{run_dir}, best epoch" in printed
        assert refused.splitlines()[-1].startswith(f"another process uses {run_dir}: process ")
        assert ("moved the earlier run to" in printed) == (resume == "never")
    assert {path.name for path in run_dir.parent.iterdir()} >= {"run", "run.1"}
    for folder in (run_dir, run_dir.with_name("run.1")):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in records if "val/top1" in record] == [1, 2]
        assert sum("test/top1" in record for record in records) == 1
        assert (folder / "export" / "config.json").is_file()
    assert not list(run_dir.parent.glob(".*.lock"))
