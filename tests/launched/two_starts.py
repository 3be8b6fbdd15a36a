"""Start the same run twice at the same moment, with either `--resume`, and print what became of both, as JSON.

The processes are forked from this one, which has imported everything: no other thread runs here.
"""

import contextlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import ols.data.loaders
import ols.evaluation.report.console
import ols.runs.export
import ols.training.trainer  # noqa: F401 - like those above, imported once for all starts
from ols.command_line import parse_config
from recipes.pretrain import QUICKSTART, main


def start(barrier, arguments: list[str], log: Path) -> None:
    """Run the recipe once all are ready; what it prints goes to the log."""
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        barrier.wait()
        try:
            main(parse_config(QUICKSTART, arguments))
        except RuntimeError as error:
            print(error, flush=True)
            os._exit(3)


if __name__ == "__main__":
    folder, *arguments = sys.argv[1:]
    results = {}
    fork = multiprocessing.get_context("fork")
    for resume in ("auto", "never"):
        barrier = fork.Barrier(2)
        logs = [Path(folder) / f"{resume}{number}.log" for number in range(2)]
        processes = [
            fork.Process(target=start, args=(barrier, [*arguments, f"--resume={resume}"], log)) for log in logs
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        pairs = zip(processes, logs, strict=True)
        results[resume] = [(process.exitcode, log.read_text()) for process, log in pairs]
    print(json.dumps(results))
