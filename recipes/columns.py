"""Add columns to the cells of a study: `python recipes/columns.py <study>/runs/* --similarity --confounder tag`.

Each run gets a `columns.json` with what its training has changed inside the network (--similarity), how well its maps
hit the lesion (--boxes or --masks), and what a confounder does to it (--confounder): predictions of each form of the
test lie in `evaluation/<form>` then. What is there of the same weights, images and options is not done again.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from ols.command_line import one_line_errors
from ols.data.options import ConfoundingOptions
from ols.localisation.options import read_regions
from ols.studies.columns import asked_columns, parse_column_options

if TYPE_CHECKING:
    from ols.data.loading import Place
    from ols.evaluation.opened import Opened


def main(options: Namespace) -> None:
    """Write the columns of each run."""
    # Imported here because it takes seconds: --help answers at once.
    import torch

    from ols.config import TrainConfig
    from ols.data.loading import Place
    from ols.evaluation.opened import open_trained
    from ols.files import read_record, write_record
    from ols.runs.environment import available_cores
    from ols.runs.folder import RunFolder
    from ols.runs.trained_model import find_trained
    from ols.training.machine import build_accelerator

    accelerator = build_accelerator(TrainConfig(device=options.device))
    torch.set_num_threads(options.threads or available_cores())
    place = Place(accelerator.device)
    measures = {"similarity": similarity, "localisation": localisation, "confounder": confounder}
    asked = asked_columns(options)
    failed: list[str] = []
    for run in map(Path, options.runs):
        with one_line_errors(failed):
            trained = find_trained(run)
            opened, path = open_trained(trained, root=options.data.root), RunFolder(run).columns
            earlier = RunFolder(run).earlier_columns
            of = {"weights": trained.checksum(), "images": opened.loader("test").fingerprint()}
            record = next((read_record(file) for file in (path, earlier) if file.is_file()), {})
            if {name: record.get(name) for name in of} != of:
                record = {**of, "asked": {}, "columns": {}}
            record["data"] = opened.places()
            missing = [family for family in asked if record["asked"].get(family) != asked[family]]
            if not missing and path.is_file():
                print(f"{path}: of these weights, images and options, kept")
                continue
            for family in missing:
                found = measures[family](opened, options, place)
                others = {name: v for name, v in record["columns"].items() if not name.startswith(f"{family}/")}
                record["columns"] = others | found
                record["asked"][family] = asked[family]
            write_record(path, {name: record[name] for name in (*of, "data", "asked", "columns")})
            earlier.unlink(missing_ok=True)
            print(f"{path}: {len(record['columns'])} columns")
    accelerator.end_training()
    if failed:
        sys.exit(2)


def similarity(opened: "Opened", options: Namespace, place: "Place") -> dict[str, float]:
    """Compare the network with the bits that its training started from."""
    from ols.representations.columns import similarity_columns
    from ols.runs.run_model import build_run_model
    from ols.training.machine import seed_everything

    config = opened.trained.config
    if config is None:
        raise ValueError(f"{opened.trained.name} is an export alone: what it started from is not known")
    loader = opened.loader("test", batch_size=options.batch_size, place=place)
    seed_everything(config.seed)  # a start without weights is the run's own
    before, _ = build_run_model(config, opened.task, images=lambda: loader.first_images(32))
    after = opened.trained.load(opened.task.classes)
    before, after = before.to(place.device), after.to(place.device)
    found = similarity_columns(before, after, loader, rows=max(options.rows, loader.num_samples), seed=config.seed)
    compared = [name.removesuffix("/cka") for name in found if name.endswith("/cka")]
    if few := [name for name in compared if f"{name}/mean_cca" not in found]:
        print(f"{opened.trained.name}: no mean CCA, for fewer than ten rows a direction: {', '.join(few)}")
    return found


def localisation(opened: "Opened", options: Namespace, place: "Place") -> dict[str, float]:
    """Score the network's maps on the marked images."""
    from ols.evaluation.localised_images import LOCALISED
    from ols.localisation.columns import localisation_columns
    from ols.localisation.questions import explained_classes
    from ols.localisation.regions import marked_images

    data, task = opened.data, opened.task
    regions = read_regions(options)
    assert regions is not None  # it was asked for
    marked = marked_images(regions, data.sources, data.pools)
    if not len(marked["test"]):
        raise ValueError(f"{opened.trained.name}: no image of test is marked: there is nothing to hit")
    splits = [split for split in ("val", "test") if len(marked[split])]
    columns, images = localisation_columns(
        opened.trained.load(task.classes).to(place.device),
        {s: opened.loader(s, pool=marked[s], batch_size=options.batch_size, place=place) for s in splits},
        regions,
        kind=options.kind,
        layer=options.layer,
        classes={
            split: explained_classes(options.explain, task.kind, task.classes, data.sources[split].targets)
            for split in splits
        },
    )
    images.write(opened.trained.output / LOCALISED)
    return columns


def confounder(opened: "Opened", options: Namespace, place: "Place") -> dict[str, float]:
    """Test the network in each form of the test."""
    from ols.data.confounding import confound
    from ols.data.sampled_confounder import draw_pools
    from ols.evaluation.confounder_columns import confounder_columns
    from ols.evaluation.confounding import FORMS
    from ols.evaluation.draws import BinaryOutputs
    from ols.evaluation.evaluate import predict
    from ols.evaluation.predictions import save_predictions
    from ols.runs.environment import available_cores, environment_record
    from ols.tasks.binary import Binary

    trained, data, task = opened.trained, opened.data, opened.task
    if not isinstance(task, Binary):
        raise ValueError(f"what a confounder does is measured of a binary task, {trained.name} is {task.name}")
    positive = task.classes[task.positive]
    confounding = confounding_of(opened, options.confounder, positive)
    conditions = {**environment_record(place.device, 1, options.threads or available_cores()), "data": opened.root}
    conditions |= {"split": "test", "weights": trained.checksum(), "confounder": confounding.describe_confounder()}
    model, tests = trained.load(task.classes).to(place.device), {}
    for form in FORMS:
        chosen = replace(confounding, confounder_test=form)
        pools, _ = draw_pools({"test": data.sources["test"]}, {"test": data.pools["test"]}, chosen)
        source = confound(data.sources["test"], "test", pools["test"], chosen, trained.preprocessing)
        loader = opened.loader("test", source=source, pool=pools["test"], batch_size=options.batch_size, place=place)
        predictions = replace(predict(model, loader, task, features=True), conditions={**conditions, "form": form})
        save_predictions(trained.output / form / "test.safetensors", predictions)
        tests[form] = BinaryOutputs.of(predictions, positive)
    return confounder_columns(tests)


def confounding_of(opened: "Opened", name: str, positive: str) -> ConfoundingOptions:
    """Return the confounder of a run, or the one that is named, for a run that was trained without."""
    config = opened.trained.config
    own = ConfoundingOptions() if config is None else config.data
    if own.confounder == "none" and name != "own":
        return ConfoundingOptions(confounder=name, confounder_class=positive)
    if own.confounder == "none":
        raise ValueError(f"{opened.trained.name} was trained without a confounder: name one with --confounder")
    if name not in ("own", own.confounder):
        raise ValueError(f"{opened.trained.name} was trained with the confounder {own.confounder}, not {name}")
    return own


if __name__ == "__main__":
    main(parse_column_options())
