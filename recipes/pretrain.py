"""Train and evaluate a classifier: `accelerate launch recipes/pretrain.py --config recipes/configs/<name>.yaml`.

Read it from top to bottom. To change a run beyond its configuration, copy this file and edit the copy.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ols.command_line import one_line_errors, parse_config
from ols.config import Config
from ols.data.sources.opening import find_form

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from ols.data.loaders import Loaders
    from ols.runs.folder import RunFolder
    from ols.tasks.task import Task

QUICKSTART = Path(__file__).parent / "configs" / "quickstart.yaml"


def main(config: Config) -> None:
    """Run one configuration, in a folder that is this run's alone until its export lies there."""
    if not config.data.phantoms:
        with one_line_errors():
            find_form(config.data.root)
    # Imported here and below because it takes seconds: --help and a wrong key answer at once.
    from ols.runs.export import run_normalization
    from ols.runs.folder import claim
    from ols.training.machine import build_accelerator

    accelerator = build_accelerator(config.train)
    mean, std = run_normalization(config)  # which belong to the weights
    config = replace(config, data=config.data.with_normalization(mean, std))
    with claim(config.run_dir, config, config.resume, enabled=accelerator.is_main_process) as folder:
        accelerator.wait_for_everyone()
        run(config, accelerator, folder)
    accelerator.end_training()


def run(config: Config, accelerator: "Accelerator", folder: "RunFolder") -> tuple["nn.Module", "Task", "Loaders"]:
    """Train, test and export; return the model that was exported, its task and its data."""
    import torch

    from ols.data.class_weights import class_weights
    from ols.data.loaders import build_loaders, class_counts
    from ols.data.loading import Place
    from ols.data.sampling import BatchShare
    from ols.evaluation.evaluate import tagged
    from ols.evaluation.report.console import describe_cost, describe_data, result_table
    from ols.losses import build_loss, find_loss
    from ols.models.freezing import Freezing
    from ols.models.options import FreezeOptions
    from ols.runs.checkpoint import clean_checkpoints
    from ols.runs.environment import cores_per_process, environment_record
    from ols.runs.export import export_model, load_export
    from ols.runs.run_model import build_run_model
    from ols.tasks import build_task_for, find_task
    from ols.tracking.dashboard import write_comparison_page
    from ols.tracking.tracker import Tracker
    from ols.training.inputs import make_inputs
    from ols.training.machine import seed_everything
    from ols.training.optim import build_optimizer, build_schedule
    from ols.training.trainer import Trainer

    # Machine: launchers set OMP_NUM_THREADS=1, which would leave all cores but one idle.
    cores = cores_per_process(accelerator.num_processes)
    threads = config.train.threads or cores
    torch.set_num_threads(threads)
    device = accelerator.device
    dtype = torch.float64 if config.train.precision == "float64" else torch.float32
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    if accelerator.is_main_process:
        make_inputs(config)
    accelerator.wait_for_everyone()

    # Data
    seed_everything(config.seed)
    with one_line_errors(), accelerator.local_main_process_first():  # which verifies a pack for the others
        loaders = build_loaders(
            config.data,
            BatchShare(
                config.train.global_batch_size,
                config.train.accumulation_steps,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
            ),
            seed=config.seed,
            cores=cores,
            place=Place(device, dtype, memory_format),
            split=config.split,
            kind=find_task(config.task).kind,
            limit_batches=2 if config.dry_run else None,
            overfit_batches=config.overfit_batches,
        )
    with one_line_errors():
        task = build_task_for(config.task, loaders.train.source, loaders.train.batches.pool, positive=config.positive)

    # Model
    if accelerator.is_main_process:
        clean_checkpoints(folder)  # only what is intact is continued from
    accelerator.wait_for_everyone()
    checkpoints = folder.list_checkpoints()
    with one_line_errors():
        model, started = build_run_model(
            config,
            task,
            images=lambda: loaders.val.first_images(32),
            checkpoint=checkpoints[-1] if checkpoints else None,
        )
        freezing = Freezing(model, config.freeze) if config.freeze != FreezeOptions() else None
    accelerator.print("\n".join([*started, *([freezing.describe()] if freezing else [])]))
    accelerator.print(f"data  {loaders.description}\ntask  {task.describe()}")
    accelerator.print(f"{describe_data(loaders, task)}\n{describe_cost(model, loaders, epochs=config.train.epochs)}")
    model.to(device, dtype, memory_format=memory_format)
    teacher = load_export(Path(config.teacher))[0].to(device, dtype) if config.teacher else None

    # Loss
    options = task.loss_options()
    if config.data.class_weights != "none":
        weights = class_weights(class_counts(loaders.train), config.data.class_weights)
        options["weight"] = torch.tensor(weights, dtype=dtype)
    if find_loss(config.loss["name"]).needs_index:
        options |= {"num_samples": len(loaders.train.source), "epochs": config.train.epochs}
    loss = build_loss(**config.loss, **options, num_classes=task.num_outputs, reduction="sum")
    if dtype == torch.float64:
        loss.double()

    # Optimizer
    optimizer = build_optimizer(model, config.optim)
    schedule = build_schedule(
        optimizer, config.optim, epochs=config.train.epochs, steps_per_epoch=loaders.train.steps_per_epoch
    )

    # Train
    environment = environment_record(device, accelerator.num_processes, threads) | {"start": "\n".join(started) or None}
    tracker = Tracker(
        folder,
        config=asdict(config),
        environment=environment,
        task=task,
        enabled=accelerator.is_main_process,
        axes=config.cell,
    )
    trainer = Trainer(
        config.train,
        seed=config.seed,
        folder=folder,
        accelerator=accelerator,
        task=task,
        model=model,
        loss=loss,
        optimizer=optimizer,
        schedule=schedule,
        train_loader=loaders.train,
        val_loader=loaders.val,
        data=loaders.fingerprints(),
        freezing=freezing,
        tracker=tracker,
        teacher=teacher,
        profile=config.profile,
    )
    best = trainer.fit()

    # Test the best epoch, and export it
    test = trainer.evaluate(loaders.test, "test")
    results = trainer.evaluate(loaders.val, "val") | test
    trainer.log_test(test)
    if accelerator.is_main_process:
        export_model(
            folder.export,
            trainer.selected_model,
            architecture=config.model.name,
            classes=task.classes,
            groups=task.groups,
            preprocessing=loaders.train.preprocessing,
            metrics=tagged(results),
            task=task.name,
            task_state=task.state,
        )
        if config.profile:
            table = trainer.clock.table()
            tracker.log_text("run/profile", f"```\n{table}\n```", images_seen=trainer.images_seen)
            print(f"\n{table}")
        tracker.close()
        print(f"\n{folder}, {best.describe(trainer.select_by, epochs=config.train.epochs)}")
        print(result_table(results, task))
        page = write_comparison_page(folder.path.parent, task)
        print(f"\nexport       {folder.export}")
        print(f"curves       tensorboard --logdir {folder.path.parent}, then open {page}")
    return trainer.selected_model, task, loaders


if __name__ == "__main__":
    main(parse_config(QUICKSTART))
