"""Turn published weights into an export that this package loads.

python recipes/convert.py radimagenet-keras:RadImageNet-ResNet50_notop.h5 --model resnet50 --output exports/radimagenet
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from ols.command_line import one_line_errors
from ols.config import ModelConfig
from ols.models.options import PUBLISHED, RUN, parse_start


def main() -> None:
    """Read the command line, load the weights, export them."""
    parser = ArgumentParser(description="Turn published weights into an export that this package loads.")
    parser.add_argument("start", type=str, help=f"kind and file: imagenet, {', '.join(PUBLISHED)}, each with :<file>")
    parser.add_argument("--model", type=str, required=True, help="timm's name of the architecture")
    parser.add_argument("--output", type=str, required=True, help="folder of the export")
    parser.add_argument(
        "--image_size", type=int, default=224, help="side of the images that it is used with, in pixels"
    )
    arguments = parser.parse_args()
    with one_line_errors():
        kind, place = parse_start(arguments.start)
        if place is None or kind == RUN:
            raise ValueError(f"{arguments.start} names no file of published weights")

    # Imported here because it takes seconds: --help and a wrong start answer at once.
    from ols.data.transforms import Preprocessing
    from ols.models.build import build_model
    from ols.models.variant import variant_of
    from ols.runs.export import export_model, start_model, start_normalization

    with one_line_errors():
        # One output, whose weights are random: a head is trained on a target.
        model = build_model(arguments.model, 1, 3, image_size=arguments.image_size)
        print(start_model(model, arguments.start))
        mean, std = start_normalization(ModelConfig(name=arguments.model, start=arguments.start))
        size = arguments.image_size
        export_model(
            Path(arguments.output),
            model,
            architecture=arguments.model,
            classes=["untrained"],
            groups=["untrained"],
            preprocessing=Preprocessing(size, round(size * 8 / 7), 3, mean=mean, std=std),
            metrics={},
            task="multiclass",
        )
    print(f"export {arguments.output}; start from it by --model.start run:{arguments.output}")
    if not variant_of(model).is_timms:
        print("       timm's network of this name computes otherwise, so timm refuses it: this package alone builds it")


if __name__ == "__main__":
    main()
