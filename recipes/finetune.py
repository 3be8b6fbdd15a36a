"""Fine-tune on a table of targets, fold by fold: `accelerate launch recipes/finetune.py --config <file>`.

A run for each fold, as `recipes/pretrain.py` makes it, each from the bits of its start; then all test folds together,
with an interval over patients; and, where another start is named, the difference between the two. One start and one
fold are a run by themselves, which lies in `run_dir` itself.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain import run

from ols.command_line import one_line_errors, parse_config
from ols.config import Config, FinetuneConfig
from ols.data.sources.opening import find_form
from ols.models.options import parse_start

if TYPE_CHECKING:
    from collections.abc import Iterable

    from accelerate import Accelerator

    from ols.data.sources.table import Table
    from ols.data.splits import Folds
    from ols.evaluation.folds import OutOfFold

CONFIGS = Path(__file__).parent / "configs"


def main(config: FinetuneConfig) -> None:
    """Train what is asked for, fold by fold, and say what came out."""
    if not config.data.phantoms:
        with one_line_errors():
            if find_form(config.data.root) != "table":
                raise ValueError(f"data.root must be a .csv of targets, got {config.data.root}")
    # Imported here and below because it takes seconds: --help and a wrong key answer at once.
    from ols.training.inputs import make_inputs
    from ols.training.machine import build_accelerator

    accelerator = build_accelerator(config.train)

    # Source: trained first, where it has not been
    start = config.model.start
    if config.source:
        source = parse_config(CONFIGS / config.source, [])
        train(source, accelerator)
        start = f"run:{source.run_dir}"

    # Data and folds
    split = config.split.file or str(Path(config.run_dir, "folds.json"))
    if accelerator.is_main_process:
        with one_line_errors():
            make_inputs(config, folds=None if config.split.file else Path(split))
    accelerator.wait_for_everyone()
    config = replace(config, split=replace(config.split, file=split))
    with one_line_errors(), accelerator.main_process_first():
        table, folds = open_folds(config, accelerator)

    # Train, each start on each fold
    starts = [start] + ([config.against] if config.against else [])
    arms = place_runs(config, starts, folds=len(folds.folds))
    for number in arms[start]:
        for place, runs in arms.items():
            accelerator.print(f"\n{arm_name(place, starts)}, fold {number} of {len(folds.folds)}")
            train(config.of_fold(number, place, str(runs[number])), accelerator)

    # All test folds together
    if accelerator.is_main_process:
        select_by = config.train.select_by
        found = {arm_name(place, starts): collect(runs.values(), table, select_by) for place, runs in arms.items()}
        report(config, found)
    accelerator.end_training()


def train(config: Config, accelerator: "Accelerator") -> None:
    """Run one configuration, unless its predictions are there already, and keep what it predicts of the test split."""
    from ols.data.transforms import Preprocessing
    from ols.evaluation.evaluate import predict
    from ols.evaluation.mask_overlays import write_mask_overlays
    from ols.evaluation.predictions import save_predictions
    from ols.files import file_checksum
    from ols.runs.environment import environment_record
    from ols.runs.export import run_normalization
    from ols.runs.folder import claim

    mean, std = run_normalization(config)  # which belong to the weights
    config = replace(config, data=config.data.with_normalization(mean, std))
    with claim(config.run_dir, config, config.resume, enabled=accelerator.is_main_process) as folder:
        accelerator.wait_for_everyone()
        if folder.predictions("test").is_file():  # of this very configuration, which `claim` has compared
            accelerator.print(f"{config.run_dir} has its predictions")
            return
        model, task, loaders = run(config, accelerator, folder)
        for split, loader in (("val", loaders.val), ("test", loaders.test)):
            predictions = predict(model, loader, task, features=True, autocast=accelerator.autocast)
            if accelerator.is_main_process:
                weights = file_checksum(folder.export / "model.safetensors")
                conditions = environment_record(accelerator.device, accelerator.num_processes, 0)
                save_predictions(
                    folder.predictions(split),
                    replace(
                        predictions,
                        conditions={**conditions, "data": config.data.root, "split": split, "weights": weights},
                    ),
                )
                if task.dense:
                    write_mask_overlays(
                        folder.path,
                        split,
                        predictions,
                        task,
                        source=loader.source,
                        preprocessing=Preprocessing.from_options(config.data),
                        images_seen=config.train.epochs * loaders.train.num_samples,
                    )
        accelerator.wait_for_everyone()
    accelerator.free_memory()


def open_folds(config: FinetuneConfig, accelerator: "Accelerator") -> tuple["Table", "Folds"]:
    """Open the table and its folds, and print what they are."""
    from ols.data.sources.opening import open_table
    from ols.data.splits import describe_folds, load_folds
    from ols.tasks import find_task

    table = open_table(config.data, kind=find_task(config.task).kind, in_chans=config.data.in_chans)
    folds = load_folds(Path(config.split.file)).aligned_with(table)
    if not table.has_patients:
        accelerator.print("WARNING: patients are not known: images of one patient may lie on both sides of a split")
    accelerator.print(f"{config.split.file}\n{describe_folds(folds, table)}")
    if config.split.fold != "all":
        folds.pools(config.split.fold)  # which refuses a fold that is not there
    return table, folds


def place_runs(config: FinetuneConfig, starts: list[str], *, folds: int) -> dict[str, dict[int, Path]]:
    """Return the folder of each run by its start and its fold."""
    if config.split.fold != "all" and len(starts) == 1:
        return {starts[0]: {config.split.fold: Path(config.run_dir)}}
    numbers = range(folds) if config.split.fold == "all" else [config.split.fold]
    return {
        start: {number: Path(config.run_dir, arm_name(start, starts), f"fold{number}") for number in numbers}
        for start in starts
    }


def arm_name(start: str, starts: list[str]) -> str:
    """Return the name of a start's folder, such as `imagenet`; with its file where two are of one kind."""
    kinds = [parse_start(place)[0] for place in starts]
    kind, place = parse_start(start)
    return kind if kinds.count(kind) == 1 else f"{kind}-{Path(place or '').name}"


def collect(run_dirs: "Iterable[Path]", table: "Table", select_by: str | None) -> "OutOfFold":
    """Read what the runs of an arm predicted, fold after fold."""
    from ols.evaluation.folds import OutOfFold
    from ols.evaluation.predictions import load_predictions
    from ols.runs.export import load_description
    from ols.runs.folder import RunFolder
    from ols.tasks import build_task

    runs = [RunFolder(run_dir) for run_dir in run_dirs]
    described = [load_description(run.export)["ols"] for run in runs]
    tasks = [build_task(said["task"], table.classes, table.groups, **said["task_state"]) for said in described]
    return OutOfFold([load_predictions(run.predictions("test")) for run in runs], tasks, select_by)


def report(config: FinetuneConfig, arms: dict[str, "OutOfFold"]) -> None:
    """Print and write what the folds say together."""
    from ols.evaluation.folds import compare
    from ols.evaluation.report.console import result_table
    from ols.files import write_record
    from ols.metrics.measures import find_measure

    first = next(iter(arms.values()))
    measure = first.measure
    text = find_measure(measure).text
    images, patients = len(set(first.sample_ids)), len(set(first.patients))
    print(f"\n{config.run_dir}: {images:,} test images of {patients:,} patients")
    print(result_table({arm: found.evaluation() for arm, found in arms.items()}, first.tasks[0]))
    record: dict = {"measure": measure, "images": images, "patients": patients}
    for arm, found in arms.items():
        by_fold = found.by_fold()
        record[arm] = {"by_fold": by_fold}
        for name, within_folds in (("together", False), ("within_folds", True)):
            value, low, high = found.interval(within_folds=within_folds)
            record[arm][name] = {"value": value, "low": low, "high": high}
            print(f"{arm}: {measure} {name.replace('_', ' ')} {text(value)} ({text(low)} to {text(high)})")
        print(f"{arm}: by fold {', '.join(map(text, by_fold))}")
    if len(arms) == 2:
        (one, other), names = arms.values(), list(arms)
        for name, within_folds in (("together", False), ("within_folds", True)):
            found = compare(one, other, within_folds=within_folds)
            record[f"difference_{name}"] = found._asdict()
            print(
                f"{names[0]} less {names[1]}, {name.replace('_', ' ')}: {found.difference:+.4f} ({found.low:+.4f} to "
                f"{found.high:+.4f}, p {found.p_value:.3g})"
            )
    print("Intervals are over other patients; what other trainings would change, runs with other seeds say.")
    write_record(Path(config.run_dir, "summary.json"), record)


if __name__ == "__main__":
    main(parse_config(CONFIGS / "finetune" / "quickstart.yaml", schema=FinetuneConfig))
