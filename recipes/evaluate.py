"""Say what trained models are worth: `python recipes/evaluate.py runs/<run> [...]`, or under a launcher.

Writes logits, labels, ids and features of each split, and a report (JSON, Markdown, and one HTML page) of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ols.command_line import one_line_errors
from ols.data.sources.opening import find_form

SPLITS = ("train", "val", "test")


def parse_options(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line; a wrong option ends the process with a message that names it."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of runs, or of exports alone")
    parser.add_argument("--splits", default="val,test", help="what is reported; the last one in full")
    parser.add_argument(
        "--checkpoint",
        default="export",
        help="export: the exported weights, those of the best epoch; best: the best epoch of a run that has not ended; "
        "or the name of a folder in checkpoints/",
    )
    parser.add_argument("--report", type=bool, default=True, help="false: predictions only")
    parser.add_argument("--output", type=str | None, help="folder to write to, by default RUN/evaluation")
    parser.add_argument("--force", action="store_true", help="predict even where predictions are up to date")
    parser.add_argument("--data.root", type=str | None, help="data set, by default that of the run")
    parser.add_argument("--data.splits", type=str | None, help="folder with the split CSVs, by default that of the run")
    parser.add_argument(
        "--confounder_test",
        choices=("matched", "clean", "inverted"),
        help="form of the test of a run with a confounder, into a folder of this name; by default that of the run",
    )
    parser.add_argument(
        "--subgroups",
        nargs="*",
        default=[],
        help="columns of the run's table whose values are measured apart, such as sex; numbers in bands: age:40,60",
    )
    parser.add_argument("--data.workers", type=int | None, help="reading processes, by default one per core, at most 8")
    parser.add_argument("--batch_size", type=int, default=256, help="images per forward pass of each process")
    parser.add_argument("--threads", type=int | None, help="torch's threads in each process, by default all its cores")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu uses no accelerator")
    options = parser.parse_args(argv)
    options.splits = options.splits.split(",")
    for split in options.splits:
        if split not in SPLITS:
            parser.error(f"unknown split {split!r} in --splits; known: {', '.join(SPLITS)}")
    names = [Path(run).resolve().name for run in options.runs]
    if options.output and len(set(names)) < len(names):
        parser.error(f"--output needs runs of different names, got {', '.join(names)}")
    return options


def main(options: Namespace) -> None:
    """Evaluate each run."""
    if options.data.root:
        with one_line_errors():
            find_form(options.data.root)
    # Imported here because it takes seconds, and only once for all runs.
    import numpy as np
    import torch
    from accelerate.utils import broadcast_object_list

    from ols.config import TrainConfig
    from ols.data.confounding import confound
    from ols.data.loading import EvalLoader, Place
    from ols.data.options import ConfoundingOptions
    from ols.data.sampled_confounder import draw_pools
    from ols.data.sampling import EvalBatches
    from ols.data.transforms import EvalTransform
    from ols.evaluation.draws import BinaryOutputs
    from ols.evaluation.evaluate import predict
    from ols.evaluation.opened import open_trained
    from ols.evaluation.predictions import are_current, load_predictions, save_predictions
    from ols.evaluation.report.model_report import ModelReport
    from ols.evaluation.report.page import write_page
    from ols.evaluation.subgroup_page import asked_of, measure_subgroups, read_attributes, with_subgroups
    from ols.evaluation.subgroups import markdown
    from ols.files import write_file
    from ols.runs.environment import cores_per_process, environment_record
    from ols.runs.trained_model import find_trained
    from ols.training.machine import build_accelerator

    accelerator = build_accelerator(TrainConfig(device=options.device))
    cores = cores_per_process(accelerator.num_processes)
    threads = options.threads or cores
    torch.set_num_threads(threads)
    environment = environment_record(accelerator.device, accelerator.num_processes, threads)

    # All models and data are looked for first: what is missing is named before time is spent
    work = []
    with one_line_errors():
        for run in map(Path, options.runs):
            trained = find_trained(run, options.checkpoint)
            opened = open_trained(trained, root=options.data.root, splits=options.data.splits)
            data, task = opened.data, opened.task
            folder = trained.output
            if options.output:
                folder = Path(options.output, *([trained.name] if len(options.runs) > 1 else []))
            confounding = trained.config.data if trained.config else ConfoundingOptions()
            if options.confounder_test:
                if confounding.confounder == "none":
                    raise ValueError(f"{run} was trained without a confounder: --confounder_test has no form to choose")
                confounding, folder = (
                    replace(confounding, confounder_test=options.confounder_test),
                    folder / options.confounder_test,
                )
            accelerator.print(f"{run}: {data.description}")
            pools, _ = draw_pools(data.sources, data.pools, confounding)
            sources = {  # the temperature is fitted on validation data, whatever is reported
                split: confound(data.sources[split], split, pools[split], confounding, trained.preprocessing)
                for split in dict.fromkeys(["val", *options.splits])
            }
            if options.subgroups:
                asked_of(task)
                read_attributes(sources["val"], options.subgroups)
            work.append((trained, task, folder, opened.root, pools, sources))

    # Predict
    for trained, task, folder, root, pools, sources in work:
        weights = trained.checksum()
        with one_line_errors():
            model = trained.load(task.classes).to(accelerator.device)
        for split, source in sources.items():
            path = folder / f"{split}.safetensors"
            pool = np.sort(pools[split])
            ids = [source.sample_id(index) for index in pool.tolist()]
            same = {"weights": weights, "targets": source.targets[pool], "sample_ids": ids, "classes": task.classes}
            if broadcast_object_list([not options.force and are_current(path, **same)])[0]:
                accelerator.print(f"{path}: of these weights and images, kept (--force predicts anew)")
                continue
            batches = EvalBatches(
                pool,
                batch_size=options.batch_size,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
            )
            loader = EvalLoader(
                source,
                EvalTransform(trained.preprocessing),
                batches,
                workers=min(8, cores) if options.data.workers is None else options.data.workers,
                place=Place(accelerator.device),
            )
            predictions = predict(model, loader, task, features=True, autocast=accelerator.autocast)
            if accelerator.is_main_process:
                conditions = {**environment, "data": str(root), "split": split, "weights": weights}
                save_predictions(path, replace(predictions, conditions=conditions))
            accelerator.print(f"{path}: {len(predictions.targets):,} images")

    # Report, from what was saved
    if accelerator.is_main_process and options.report:
        for trained, task, folder, _, _, sources in work:
            predictions = {split: load_predictions(folder / f"{split}.safetensors") for split in sources}
            splits = options.splits[::-1]  # the last one is shown in full
            report = task.build_report(predictions, splits, soft_labels=trained.soft_labels)
            if options.subgroups:
                shown = splits[0]
                outputs = {name: BinaryOutputs.of(predictions[shown], name) for name in asked_of(task)}
                found = measure_subgroups(outputs, sources[shown], options.subgroups)
                report = with_subgroups(report, *found)
                write_file(folder / "subgroups.md", f"# Subgroups of {trained.name}, {shown}\n\n{markdown(*found)}")
            model = ModelReport.of(trained, predictions, splits=splits, conditions=environment)
            write_page(folder, model, report, source=sources[splits[0]], preprocessing=trained.preprocessing)
            print(f"{folder / 'report.html'}")
    accelerator.end_training()


if __name__ == "__main__":
    main(parse_options())
