"""How does a trained classifier stand worse images: `python recipes/corruptions.py runs/<run> [...]`.

Writes the task's measure (AUC, Top-1, the mean AUC of several labels, ...) and ECE of the test images under each
corruption and severity.
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ols.command_line import one_line_errors


def parse_options(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line; a wrong option ends the process with a message that names it."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of runs, or of exports alone")
    parser.add_argument("--corruptions", nargs="*", default=[], help="by default kinds of noise, blur and file")
    parser.add_argument("--severities", nargs="+", type=int, default=[1, 3, 5], help="of 1 to 5")
    parser.add_argument("--data.root", type=str | None, help="data set, by default that of the run")
    parser.add_argument("--data.workers", type=int, default=0, help="reading processes")
    parser.add_argument("--batch_size", type=int, default=64, help="images per forward pass")
    parser.add_argument("--threads", type=int | None, help="torch's threads, by default all cores")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu uses no accelerator")
    return parser.parse_args(argv)


def main(options: Namespace) -> None:
    """Test each run under each corruption."""
    # Imported here because it takes seconds: --help answers at once.
    import json

    import torch

    from ols.config import TrainConfig
    from ols.data.corruption import CORRUPTIONS, Corrupted
    from ols.data.loading import Place
    from ols.evaluation.corruption_report import CLEAN, corruptions_csv, corruptions_markdown, measure_corruptions
    from ols.evaluation.evaluate import predict
    from ols.evaluation.opened import open_trained
    from ols.files import write_file
    from ols.runs.environment import available_cores, environment_record
    from ols.runs.trained_model import find_trained
    from ols.training.machine import build_accelerator

    accelerator = build_accelerator(TrainConfig(device=options.device))
    threads = options.threads or available_cores()
    torch.set_num_threads(threads)
    environment = environment_record(accelerator.device, 1, threads)
    for run in map(Path, options.runs):
        with one_line_errors():
            opened = open_trained(find_trained(run), root=options.data.root)
            trained, source = opened.trained, opened.data.sources["test"]
            views = {(CLEAN, 0): source} | {
                (name, severity): Corrupted(source, name, severity, preprocessing=trained.preprocessing)
                for name in options.corruptions or CORRUPTIONS
                for severity in options.severities
            }
            model = trained.load(opened.task.classes).to(accelerator.device)
            tests = {}
            for key, view in views.items():
                loader = opened.loader(
                    "test",
                    source=view,
                    batch_size=options.batch_size,
                    workers=options.data.workers,
                    place=Place(accelerator.device),
                )
                tests[key] = predict(model, loader, opened.task)
            rows = measure_corruptions(tests, opened.task)
        text, folder = corruptions_markdown(rows), trained.output
        conditions = {"data": opened.root, "weights": trained.checksum(), **environment}
        write_file(folder / "corruptions.csv", corruptions_csv(rows))
        write_file(
            folder / "corruptions.md",
            f"# Corruptions of {trained.name}\n\n{text}\n```json\n{json.dumps(conditions, indent=1)}\n```\n",
        )
        print(f"{text}\n{folder / 'corruptions.md'}")
    accelerator.end_training()


if __name__ == "__main__":
    main(parse_options())
