"""Ask what frozen features are worth: heads on them, fold by fold, chosen on validation and measured on test.

python recipes/probe.py --config recipes/configs/probe/quickstart.yaml

Features are computed once for each image (and for each of --views further, augmented ones) and kept with checksums.
"""

from dataclasses import asdict, replace
from pathlib import Path

from ols.command_line import one_line_errors, parse_config
from ols.config import ProbeConfig
from ols.data.sources.opening import find_form

CONFIGS = Path(__file__).parent / "configs"


def main(config: ProbeConfig) -> None:
    """Compute features, fit heads, and print what each is worth."""
    with one_line_errors():
        if find_form(config.data.root) != "table":
            raise ValueError(f"data.root must be a .csv of targets, got {config.data.root}")
        if config.split.file is None:
            raise ValueError(f"split.file is missing: make folds of {config.data.root} with recipes/split.py")
    # Imported here because it takes seconds: --help and a wrong key answer at once.
    import numpy as np
    import torch

    from ols.data.loading import EvalLoader
    from ols.data.sampling import EvalBatches
    from ols.data.sources.opening import open_table
    from ols.data.splits import load_folds
    from ols.data.transforms import EvalTransform, Preprocessing, TrainTransform
    from ols.evaluation.evaluate import measure as measured
    from ols.evaluation.evaluate import tagged
    from ols.evaluation.predictions import save_predictions
    from ols.files import write_record
    from ols.metrics.measures import find_measure
    from ols.representations.features import cached_features, weights_checksum
    from ols.representations.probe_heads import HEADS_OF
    from ols.representations.probing import probe_folds
    from ols.runs.environment import available_cores, environment_record
    from ols.runs.export import run_normalization
    from ols.runs.folder import RunFolder
    from ols.runs.run_model import build_run_model
    from ols.tasks import build_task_for, find_task
    from ols.training.machine import seed_everything

    # Data and folds
    threads = config.train.threads or available_cores()
    torch.set_num_threads(threads)
    kind = find_task(config.task).kind
    with one_line_errors():
        if kind not in HEADS_OF:
            raise ValueError(f"heads on pooled features do not fit a {config.task} task")
        heads = HEADS_OF[kind]
        if unknown := set(config.heads or []) - heads.keys():
            raise ValueError(f"heads: no {', '.join(sorted(unknown))} for a {config.task} task; {', '.join(heads)} fit")
        table = open_table(config.data, kind=kind, in_chans=config.data.in_chans)
        folds = load_folds(Path(config.split.file)).aligned_with(table)
        mean, std = run_normalization(config)
        config = replace(config, data=config.data.with_normalization(mean, std))
    numbers = range(len(folds.folds)) if config.split.fold == "all" else [config.split.fold]

    # Features, once
    seed_everything(config.seed)
    preprocessing, everything = Preprocessing.from_options(config.data), np.arange(len(table))
    plain = EvalTransform(preprocessing)
    task = build_task_for(config.task, table, everything, positive=config.positive)
    some = EvalLoader(table, plain, EvalBatches(everything[:32], batch_size=32))
    with one_line_errors():
        model, lines = build_run_model(config, task, images=lambda: some.first_images(32))
    print("\n".join(lines))
    flip = config.data.horizontal_flip
    views = [TrainTransform(preprocessing, seed=seed, horizontal_flip=flip) for seed in range(config.views)]
    folder = RunFolder(config.run_dir)
    features = cached_features(
        Path(config.features or folder.path / "features"),
        model,
        table,
        [plain, *views],
        weights=weights_checksum(model),
        workers=config.data.workers or 0,
    )
    print(f"features {list(features.shape)}: views, images, numbers")

    # Heads: chosen on validation within each fold, measured on test
    measure, rows = task.selecting(config.train.select_by), []
    text = find_measure(measure).text
    for share in config.shares or [config.split.share]:
        pools = [folds.pools(number, share=share) for number in numbers]
        for name in config.heads or heads:
            with one_line_errors():
                found = probe_folds(
                    heads[name],
                    features,
                    table,
                    pools,
                    config.task,
                    positive=config.positive,
                    select_by=config.train.select_by,
                )
            value, low, high = found.chosen.interval(within_folds=True)
            together = found.chosen.interval()
            rows.append(
                {
                    "head": name,
                    "share": share,
                    "within_folds": {"value": value, "low": low, "high": high},
                    "together": dict(zip(("value", "low", "high"), together, strict=True)),
                    "by_fold": found.chosen.by_fold(),
                    heads[name].chooses: found.settings,
                    "mean_of_all_cells": found.mean_of_all,
                    "sd_of_all_cells": found.sd_of_all,
                    "chosen_on_test_instead": found.chosen_on_test,
                }
            )
            print(
                f"{share:4.0%}  {name:9}  {measure} {text(value)} ({text(low)} to {text(high)} over patients), mean of "
                f"folds; all {found.test.size} cells {text(found.mean_of_all)} +- {text(found.sd_of_all)}; chosen on "
                f"test it would seem {text(found.chosen_on_test)}"
            )
    conditions = environment_record(torch.device("cpu"), 1, threads)
    record = {"measure": measure, "rows": rows, "config": asdict(config), "conditions": conditions}
    if len(rows) == len(found.val) == 1:  # a cell of a study
        one = {"val": found.val[0], "test": found.chosen.folds[0]}
        for split, predictions in one.items():
            own = conditions | {"data": config.data.root, "split": split}
            save_predictions(folder.predictions(split), replace(predictions, conditions=own))
        fitted = found.chosen.tasks[0]
        record |= {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "task_state": fitted.state,
            "metrics": tagged({split: measured(predictions, fitted) for split, predictions in one.items()}),
        }
    write_record(folder.probe, record)
    print(folder.probe)


if __name__ == "__main__":
    main(parse_config(CONFIGS / "probe" / "quickstart.yaml", schema=ProbeConfig))
