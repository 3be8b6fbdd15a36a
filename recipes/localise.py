"""Say where trained models look, and whether it hits the lesion: `python recipes/localise.py RUN [...] --boxes FILE`.

Writes scores of each image, a summary with intervals, and a page with overlays, beside what knows nothing of lesions. A
folder of folds, as recipes/finetune.py leaves one of each start, gets a page of each fold, and one of all together.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ols.command_line import one_line_errors
from ols.localisation.options import add_region_options, check_region_options, read_regions

if TYPE_CHECKING:
    import torch

    from ols.data.loading import EvalLoader
    from ols.data.sources.protocol import Split
    from ols.localisation.measurement import Localised
    from ols.localisation.scored_images import ScoredImages
    from ols.runs.trained_model import Trained

SPLITS = ("train", "val", "test")


def parse_options(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line; a wrong option ends the process with a message that names it."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of runs, of exports alone, or of folds")
    add_region_options(parser)
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
    """Look into each run, and into the runs of each folder of folds; what is later is compared with what is earlier."""
    # Imported here and below because it takes seconds: --help and a wrong key answer at once.
    import torch

    from ols.config import TrainConfig
    from ols.evaluation.fold_runs import holds_folds
    from ols.runs.environment import available_cores
    from ols.training.machine import build_accelerator

    accelerator = build_accelerator(TrainConfig(device=options.device))
    torch.set_num_threads(options.threads or available_cores())
    with one_line_errors():
        if accelerator.num_processes > 1:
            raise ValueError(f"one process looks into a model, {accelerator.num_processes} were launched")
    done: dict[str, ScoredImages] = {}
    for run in map(Path, options.runs):
        name = run.resolve().name
        output = Path(options.output, name if len(options.runs) > 1 else "") if options.output else None
        look = look_into_folds if holds_folds(run) else look_into_run
        with one_line_errors():
            done[name] = look(run, output, options, accelerator.device, done)
    accelerator.end_training()


def look_into_folds(
    folder: Path,
    output: Path | None,
    options: Namespace,
    device: "torch.device",
    before: "Mapping[str, ScoredImages]",
) -> "ScoredImages":
    """Look into the run of each fold, and report them by themselves and together."""
    from ols.evaluation.fold_runs import fold_runs
    from ols.localisation.measurement import NoLesionError
    from ols.localisation.pooling import pool

    found = {}
    for run in fold_runs(folder):
        fold = run.path.name
        try:
            found[fold] = look_into_run(run.path, output / fold if output else None, options, device, {})
        except NoLesionError as error:
            print(f"{run} has no part: {error}")
    if not found:
        raise ValueError(f"no fold of {folder} has a marked image of {options.split}: there is nothing to hit")
    images = pool(found)
    report(images, folder, output or folder / "localisation", options, before)
    return images


def look_into_run(
    run: Path,
    output: Path | None,
    options: Namespace,
    device: "torch.device",
    before: "Mapping[str, ScoredImages]",
) -> "ScoredImages":
    """Look into one model, and report it."""
    from ols.runs.trained_model import find_trained

    trained = find_trained(run, options.checkpoint)
    images = score_images(trained, options, device)
    report(images, run, output or trained.output / "localisation", options, before)
    return images


def score_images(trained: "Trained", options: Namespace, device: "torch.device") -> "ScoredImages":
    """Return the marked images of a model's data set, with how well its maps hit their lesions."""
    from functools import partial

    import torch

    from ols.data.loading import Place
    from ols.evaluation.opened import open_trained
    from ols.localisation.activation_maps import last_feature_layer
    from ols.localisation.measurement import BASELINES, NoLesionError, localise
    from ols.localisation.overlays import read_overlay
    from ols.localisation.questions import answered_right, explained_classes
    from ols.localisation.regions import marked_images
    from ols.localisation.scored_images import ScoredImages
    from ols.localisation.scores import THRESHOLDS
    from ols.localisation.summary import choose_thresholds, scores_at
    from ols.runs.environment import environment_record

    # Open model, data and masks
    opened = open_trained(trained, root=options.data.root, splits=options.data.splits)
    root, task, sources = opened.root, opened.task, opened.data.sources
    regions = read_regions(options, masks=root if Path(root).suffix == ".csv" else None)
    if regions is None:
        raise ValueError("what should be looked at: name --boxes or --masks")
    marked = marked_images(regions, sources, opened.data.pools)
    model = trained.load(task.classes).to(device)
    layer = options.layer or last_feature_layer(model)

    # Look where the model looks
    def look(split: "Split") -> "tuple[EvalLoader, Localised]":
        if not len(marked[split]):
            raise NoLesionError(f"no image of {split} is marked: there is nothing to hit")
        sizes = {"batch_size": options.batch_size, "workers": options.data.workers}
        loader = opened.loader(split, pool=marked[split], place=Place(device), **sizes)
        return loader, localise(
            model,
            loader,
            regions,
            classes=explained_classes(options.explain, task.kind, task.classes, sources[split].targets),
            kind=options.kind,
            layer=layer,
            thresholds=THRESHOLDS if options.threshold is None else (options.threshold,),
        )

    loader, found = look(options.split)

    # Choose thresholds
    if options.threshold is not None:
        thresholds = dict.fromkeys((options.kind, *BASELINES), options.threshold)
        chosen_on = "The threshold was given."
    else:
        try:
            _, validation = look("val")
            thresholds = choose_thresholds(validation)
            chosen_on = f"Thresholds were chosen on {len(validation.indices):,} images of val."
        except NoLesionError:
            thresholds = {}
            chosen_on = "No lesion of val is marked: nothing is measured at a threshold; --threshold gives one."

    indices = found.indices.tolist()
    return ScoredImages(
        names=[loader.source.sample_id(index) for index in indices],
        patients=[loader.source.sample_group(index) for index in indices],
        explained=[task.classes[number] for number in found.classes],
        right=answered_right(task.kind, found.logits, found.targets, found.classes),
        areas=found.areas,
        blank=(found.maps.amax(dim=(1, 2)) == 0).numpy(),
        scores=scores_at(found, thresholds),
        overlays=[partial(read_overlay, loader, regions, found, position) for position in range(len(indices))],
        empty=found.empty,
        layer=layer,
        feature_map=(found.maps.shape[1], found.maps.shape[2]),
        thresholds=thresholds,
        chosen_on=chosen_on,
        conditions={
            **environment_record(device, 1, torch.get_num_threads()),
            "data": str(root),
            "marked_by": str(options.boxes or options.masks or root),
            "weights": trained.checksum(),
        },
    )


def report(
    images: "ScoredImages", run: Path, folder: Path, options: Namespace, before: "Mapping[str, ScoredImages]"
) -> None:
    """Summarise, compare with the models before, print and write."""
    from ols.localisation.report import build_report, summary_table, write_report

    ahead = {}
    for name, other in before.items():
        if (estimates := images.ahead_of(other)) is None:
            print(f"{run} is not compared with {name}, which has other images")
        else:
            ahead[name] = estimates
    found = build_report(images, name=run.resolve().name, split=options.split, explained=options.explain, ahead=ahead)
    write_report(folder, found, images)
    print(f"{run}: {len(images.names):,} marked images of {options.split}. {images.chosen_on}")
    print(summary_table(found.groups["all"].maps))
    if ahead:
        print(summary_table(ahead, prefix="ahead of "))
    print(f"{folder / 'localisation.md'}")


if __name__ == "__main__":
    main(parse_options())
