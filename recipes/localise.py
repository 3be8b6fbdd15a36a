"""Say where trained models look, and whether it hits the lesion: `python recipes/localise.py RUN [...] --boxes FILE`.

Writes scores of each image, a summary with intervals, and a page with overlays, beside what knows nothing of lesions.
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ols.command_line import one_line_errors
from ols.localisation.options import add_region_options, check_region_options, read_regions

SPLITS = ("train", "val", "test")


def parse_options(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line; a wrong option ends the process with a message that names it."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of runs, or of exports alone")
    add_region_options(parser)
    parser.add_argument("--layer", type=str | None, help="whose output is the feature map, by default the last such")
    parser.add_argument("--split", choices=SPLITS, default="test", help="whose images are scored")
    parser.add_argument(
        "--threshold",
        type=float | None,
        help="share of a map's maximum at which Dice is measured; by default that with the best Dice on validation",
    )
    parser.add_argument(
        "--checkpoint", default="export", help="export, best, or the name of a folder in checkpoints/ of a run"
    )
    parser.add_argument("--output", type=str | None, help="folder to write to, by default RUN/evaluation/localisation")
    parser.add_argument("--data.root", type=str | None, help="data set, by default that of the run")
    parser.add_argument("--data.splits", type=str | None, help="folder with the split CSVs, by default that of the run")
    parser.add_argument("--data.workers", type=int, default=0, help="reading processes")
    parser.add_argument("--batch_size", type=int, default=32, help="images per forward pass")
    parser.add_argument("--threads", type=int | None, help="torch's threads, by default all cores")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu uses no accelerator")
    options = parser.parse_args(argv)
    check_region_options(parser, options)
    if options.split == "val" and options.threshold is None:
        parser.error("--split val needs a --threshold: it would be chosen on the images that it is reported on")
    if options.threshold is not None and not 0 < options.threshold <= 1:
        parser.error(f"--threshold must lie in (0, 1], got {options.threshold}")
    names = [Path(run).resolve().name for run in options.runs]
    if len(set(names)) < len(names):
        parser.error(f"several runs need different names, got {', '.join(names)}")
    return options


def main(options: Namespace) -> None:
    """Look into each model."""
    # Imported here because it takes seconds.
    import numpy as np
    import torch

    from ols.config import TrainConfig
    from ols.data.loading import Place
    from ols.evaluation.opened import open_trained
    from ols.localisation.activation_maps import last_feature_layer
    from ols.localisation.measurement import BASELINES, localise
    from ols.localisation.overlays import best_median_worst, draw_overlays, read_overlays
    from ols.localisation.questions import answered_right, explained_classes
    from ols.localisation.regions import marked_images
    from ols.localisation.report import build_report, image_rows, summary_table, write_report
    from ols.localisation.scores import THRESHOLDS
    from ols.localisation.summary import ahead_of, choose_thresholds, scores_at
    from ols.runs.environment import available_cores, environment_record
    from ols.runs.trained_model import find_trained
    from ols.training.machine import build_accelerator

    accelerator = build_accelerator(TrainConfig(device=options.device))
    threads = options.threads or available_cores()
    torch.set_num_threads(threads)
    with one_line_errors():
        if accelerator.num_processes > 1:
            raise ValueError(f"one process looks into a model, {accelerator.num_processes} were launched")
    environment = environment_record(accelerator.device, 1, threads)
    before: dict[str, tuple[list[str], dict[str, np.ndarray]]] = {}  # images and scores of the runs that are done
    for run in map(Path, options.runs):
        with one_line_errors():
            # Open model, data and masks
            trained = find_trained(run, options.checkpoint)
            opened = open_trained(trained, root=options.data.root, splits=options.data.splits)
            root, task, data, sources = opened.root, opened.task, opened.data, opened.data.sources
            source = sources[options.split]
            regions = read_regions(options, masks=root if Path(root).suffix == ".csv" else None)
            if regions is None:
                raise ValueError("what should be looked at: name --boxes or --masks")
            marked = marked_images(regions, sources, data.pools)
            if not len(marked[options.split]):
                raise ValueError(f"no image of {options.split} is marked: there is nothing to hit")
            classes = {
                split: explained_classes(options.explain, task.kind, task.classes, of_split.targets)
                for split, of_split in data.sources.items()
            }
            model = trained.load(task.classes).to(accelerator.device)
            layer = options.layer or last_feature_layer(model)

            # Look where the model looks
            loaders = {
                split: opened.loader(
                    split,
                    pool=indices,
                    batch_size=options.batch_size,
                    workers=options.data.workers,
                    place=Place(accelerator.device),
                )
                for split, indices in marked.items()
            }
            found = {}
            wanted = ["val", options.split] if options.threshold is None and len(marked["val"]) else [options.split]
            for split in wanted:
                found[split] = localise(
                    model,
                    loaders[split],
                    regions,
                    classes=classes[split],
                    kind=options.kind,
                    layer=layer,
                    thresholds=THRESHOLDS if options.threshold is None else (options.threshold,),
                )
            shown = found[options.split]

            # Score
            if options.threshold is not None:
                thresholds = dict.fromkeys((options.kind, *BASELINES), options.threshold)
                chosen_on = "The threshold was given."
            elif "val" in found:
                thresholds = choose_thresholds(found["val"])
                chosen_on = f"Thresholds were chosen on {len(found['val'].indices):,} images of val."
            else:
                thresholds = {}
                chosen_on = "No image of val is marked: nothing is measured at a threshold; --threshold gives one."
            scores = scores_at(shown, thresholds)
            right = answered_right(task.kind, shown.logits, shown.targets, shown.classes)
            patients = [source.sample_group(index) for index in shown.indices.tolist()]
            names = [source.sample_id(index) for index in shown.indices.tolist()]
            own = scores[options.kind]
            report = build_report(
                shown,
                scores,
                right=right,
                patients=patients,
                name=trained.name,
                split=options.split,
                explained=options.explain,
                layer=layer,
                thresholds=thresholds,
                chosen_on=chosen_on,
                ahead={
                    name: ahead_of(own, other, patients=patients)
                    for name, (images, other) in before.items()
                    if images == names
                },
                conditions={
                    **environment,
                    "data": str(root),
                    "marked_by": str(options.boxes or options.masks or root),
                    "weights": trained.checksum(),
                },
            )

            # Write
            folder = trained.output / "localisation"
            if options.output:
                folder = Path(options.output, *([trained.name] if len(options.runs) > 1 else []))
            rows = image_rows(
                scores,
                {
                    "filename": names,
                    "patient": patients,
                    "explained": [task.classes[number] for number in shown.classes],
                    "right": ["" if np.isnan(value) else int(value) for value in right],
                    "lesion_area": shown.areas.tolist(),
                },
            )
            chosen = best_median_worst(own["dice_own_area"])
            figure = draw_overlays(read_overlays(loaders[options.split], regions, shown, chosen), title=trained.name)
            write_report(folder, report, rows, figure)
        before[trained.name] = names, own
        print(f"{run}: {len(rows):,} marked images of {options.split}. {chosen_on}")
        print(summary_table(report.groups["all"].maps))
        if report.ahead:
            print(summary_table(report.ahead, prefix="ahead of "))
        print(f"{folder / 'localisation.md'}")
    accelerator.end_training()


if __name__ == "__main__":
    main(parse_options())
