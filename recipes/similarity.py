"""Say how alike two networks are, layer by layer and all against all: `python recipes/similarity.py A B --output DIR`.

A and B are folders of runs or of exports, or starts such as `imagenet:<file>`; with a third network that differs from A
by its seed alone, `--ceiling C`, it is known how alike they could be.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ols.command_line import one_line_errors

if TYPE_CHECKING:
    from torch import nn

    from ols.data.transforms import Preprocessing
    from ols.evaluation.agreement import Agreement
    from ols.runs.trained_model import Trained

SPLITS = ("train", "val", "test")


def parse_options(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line; a wrong option ends the process with a message that names it."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", help="run, export, or start such as imagenet:<file> or none")
    parser.add_argument("second", help="the same")
    parser.add_argument("--ceiling", type=str | None, help="the same: a third that differs from the first by its seed")
    parser.add_argument("--model", type=str | None, help="timm's name of the starts' network, by default the runs'")
    parser.add_argument(
        "--layers", type=str | None, help="names by commas, by default stem and stages as timm has them"
    )
    parser.add_argument("--rows", type=int, default=10_000, help="most points of images; ten times the widest layer")
    parser.add_argument("--draws", type=int, default=5, help="permutations of the images for what chance gives")
    parser.add_argument("--seed", type=int, default=0, help="of images, points, permutations and fresh weights")
    parser.add_argument("--split", choices=SPLITS, default="test", help="whose images are looked at")
    parser.add_argument("--checkpoint", default="export", help="of runs: export, best, or a folder in checkpoints/")
    parser.add_argument("--output", type=str, required=True, help="folder for JSON, CSV, page and pictures")
    parser.add_argument("--data.root", type=str | None, help="data set, by default that of the first run")
    parser.add_argument("--data.splits", type=str | None, help="folder with the split CSVs, by default that of the run")
    parser.add_argument("--data.workers", type=int, default=0, help="reading processes")
    parser.add_argument(
        "--data.image_size", type=int | None, help="of all networks, by default the one that they share"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images per forward pass")
    parser.add_argument("--threads", type=int | None, help="torch's threads, by default all cores")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu uses no accelerator")
    options = parser.parse_args(argv)
    for name in ("rows", "draws", "batch_size"):
        if options[name] < 1:
            parser.error(f"--{name} must be at least 1, got {options[name]}")
    return options


def main(options: Namespace) -> None:
    """Compare the networks, and write what came out."""
    # Imported here because it takes seconds: --help answers at once.
    import numpy as np
    import torch

    from ols.config import Config, DataConfig, TrainConfig
    from ols.data.loading import EvalLoader, Place
    from ols.data.sampling import EvalBatches
    from ols.data.selection import draw_first
    from ols.data.sources.opening import open_data
    from ols.data.transforms import EvalTransform
    from ols.representations.layers import draw_points, layer_names, layer_shapes, read_layers
    from ols.representations.pairs import compare_layers
    from ols.representations.report import Network, SimilarityReport, markdown, write_similarity
    from ols.runs.environment import available_cores, environment_record
    from ols.runs.trained_model import find_trained
    from ols.tasks import find_task
    from ols.training.machine import build_accelerator

    accelerator = build_accelerator(TrainConfig(device=options.device))
    threads = options.threads or available_cores()
    torch.set_num_threads(threads)
    with one_line_errors():
        # Networks
        named = {"first": options.first, "second": options.second, "ceiling": options.ceiling}
        named = {role: place for role, place in named.items() if place}
        found = {
            role: find_trained(Path(place), options.checkpoint) for role, place in named.items() if Path(place).is_dir()
        }
        like = next(iter(found.values()), None)  # what a start is built like
        architecture = options.model or (like.architecture if like else None)
        preprocessing = {
            role: found[role].preprocessing if role in found else start_preprocessing(place, architecture, like)
            for role, place in named.items()
        }
        preprocessing = of_one_size(named, preprocessing, options.data.image_size)

        # Images
        blank = Config(data=DataConfig(root=""))
        config = next((trained.config for trained in found.values() if trained.config), blank)
        root, places = options.data.root or config.data.root, options.data.splits or config.data.splits
        if not root:
            raise ValueError("none of the networks knows a data set: name one with --data.root")
        side = {role: trained.config.data.side for role, trained in found.items() if trained.config}
        data = {
            role: open_data(
                replace(config.data, root=root, splits=places, side=side.get(role)),
                config.split,
                kind=find_task(like.task).kind if like else "class",
                in_chans=each.in_chans,
            )
            for role, each in preprocessing.items()
        }
        sources = {role: each.sources[options.split] for role, each in data.items()}
        pool = np.sort(data["first"].pools[options.split])
        pool = np.sort(draw_first(pool, options.rows, options.seed))
        loaders = {
            role: EvalLoader(
                source,
                EvalTransform(preprocessing[role]),
                EvalBatches(pool, batch_size=options.batch_size),
                workers=options.data.workers,
                place=Place(accelerator.device),
            )
            for role, source in sources.items()
        }

        # Models
        models, networks = {}, {}
        for role, place in named.items():
            if role in found:
                trained = found[role]
                models[role] = trained.load(trained.classes or sources[role].classes)
                name, weights = trained.architecture, trained.checksum()
            else:
                name = architecture
                models[role], weights = build_start(place, name, preprocessing[role], options.seed)
            models[role].to(accelerator.device)
            networks[role] = Network(short_name(place), name, weights, asdict(preprocessing[role]))

        # Layers, in the same points of the same images
        layers = {
            role: options.layers.split(",") if options.layers else layer_names(model) for role, model in models.items()
        }
        shapes = {
            role: list(layer_shapes(model, layers[role], loaders[role].zeros(1)).values())
            for role, model in models.items()
        }
        points = draw_points(len(pool), chain(*shapes.values()), rows=options.rows, seed=options.seed)
        features = {}
        for role, model in models.items():
            gigabytes = 4 * points.rows * sum(shape.features for shape in shapes[role]) / 1e9  # float32
            print(
                f"{named[role]}: {len(layers[role])} layers of {len(pool):,} images, {points.rows:,} rows, "
                f"{gigabytes:.2f} GB of memory"
            )
            features[role] = read_layers(model, loaders[role], layers[role], points)

        # Compare
        pairs = compare_layers(
            features["first"],
            features["second"],
            points,
            ceiling=features.get("ceiling"),
            draws=options.draws,
            seed=options.seed,
        )
        agreements, remarks = compare_predictions(found, options.split)
    environment = environment_record(accelerator.device, 1, threads)
    report = SimilarityReport(
        networks["first"],
        networks["second"],
        networks.get("ceiling"),
        pairs,
        images=len(pool),
        points=points.per_image,
        averaged=points.places is None,
        draws=options.draws,
        agreements=agreements,
        remarks=remarks,
        conditions={"data": str(root), "split": options.split, "seed": options.seed, **environment},
    )
    write_similarity(Path(options.output), report)
    print(markdown(report))
    print(f"written to {options.output}")
    accelerator.end_training()


def start_preprocessing(start: str, architecture: str | None, like: "Trained | None") -> "Preprocessing":
    """Return what the weights of a start expect, in the size and channels of a trained network where there is one."""
    from ols.config import ModelConfig
    from ols.data.transforms import Preprocessing
    from ols.models.options import parse_start
    from ols.runs.export import start_normalization

    try:
        parse_start(start)
    except ValueError as error:
        raise ValueError(f"{start} is no folder of a run or an export, and no start: {error}") from error
    if not architecture:
        raise ValueError(f"name the architecture that {start} is for with --model")
    mean, std = start_normalization(ModelConfig(name=architecture, start=start))
    return replace(like.preprocessing if like else Preprocessing(in_chans=3), mean=mean, std=std)


def build_start(start: str, architecture: str, preprocessing: "Preprocessing", seed: int) -> "tuple[nn.Module, str]":
    """Build a network with the weights of a start, and say which they are."""
    import torch

    from ols.models.build import build_model
    from ols.models.options import IMAGENET
    from ols.runs.export import start_model

    torch.manual_seed(seed)
    size, channels = preprocessing.image_size, preprocessing.in_chans
    model = build_model(architecture, 1, channels, image_size=size, pretrained=start == IMAGENET)
    said = start_model(model, start)
    return model, said or ("timm's" if start == IMAGENET else f"fresh ones of seed {seed}")


def short_name(place: str) -> str:
    """Return the folder of a network as it was named, or the kind of a start with the name of its file."""
    kind, _, file = place.partition(":")
    return f"{kind}:{Path(file).name}" if file and not Path(place).is_dir() else place


def of_one_size(
    named: dict[str, str], preprocessing: "dict[str, Preprocessing]", image_size: int | None
) -> "dict[str, Preprocessing]":
    """Make sure that all networks see the same squares of the same images: of their own size, or of one that is named.

    Raises:
        ValueError: They do not.
    """
    if image_size is not None:
        resize_size = round(image_size * 8 / 7)
        return {
            role: replace(each, image_size=image_size, resize_size=resize_size, aspect=preprocessing["first"].aspect)
            for role, each in preprocessing.items()
        }
    seen = {(each.image_size, each.resize_size, each.aspect): named[role] for role, each in preprocessing.items()}
    if len(seen) > 1:
        sizes = "; ".join(f"{name}: {size} px cut out of {whole} ({way})" for (size, whole, way), name in seen.items())
        raise ValueError(f"the networks see different squares of an image ({sizes}): give all --data.image_size")
    return preprocessing


def compare_predictions(found: "dict[str, Trained]", split: str) -> "tuple[dict[str, Agreement], list[str]]":
    """Return how far the first network's predictions agree with those of the others, and why with some they do not."""
    from ols.evaluation.agreement import agreement_of_predictions
    from ols.evaluation.predictions import load_predictions

    agreements, remarks = {}, []
    for role in ("second", "ceiling"):
        if not {"first", role} <= found.keys():
            continue
        files = [found[each].output / f"{split}.safetensors" for each in ("first", role)]
        if missing := [str(file) for file in files if not file.is_file()]:
            remarks.append(
                f"Not known for the {role}: there is no {' and no '.join(missing)}; evaluating the run writes it."
            )
            continue
        try:
            agreements[role] = agreement_of_predictions(*map(load_predictions, files))
        except ValueError as error:
            remarks.append(f"Not known for the {role}: {error}.")
    return agreements, remarks or (
        [] if agreements else ["Starts predict nothing: there is no agreement of predictions."]
    )


if __name__ == "__main__":
    main(parse_options())
