"""From files and a command line to a configuration: what is unknown or wrong is named, with the nearest key."""

import difflib
import pickle
import re
import sys
from argparse import SUPPRESS
from argparse import ArgumentParser as PlainParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ols.config import Config
from ols.losses import LOSSES, PLAIN_LOSSES, LabelLoss, PlainLoss, find_loss, find_preset
from ols.tasks import find_task

C = TypeVar("C", bound=Config)
SECTIONS = {"data", "phantoms", "model", "optim", "train", "loss", "split", "head", "freeze"}
SWITCHES = ("dry_run", "profile")  # may stand on the command line without a value


@contextmanager
def one_line_errors(failed: list[str] | None = None) -> Iterator[None]:
    """Give what a user can mend one line instead of a traceback: a path or a value that is wrong.

    Args:
        failed: Takes the message, and the program goes on behind the block.

    Raises:
        SystemExit: In place of an OSError or a ValueError of the block, with status 2.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        if failed is None:
            raise SystemExit(2) from error
        failed.append(str(error))


class NearestKeyParser(ArgumentParser):
    """Names the nearest key when an unknown one is given."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message, with the nearest key, and exit."""
        for pattern in (r"Group '(.+)' does not accept option '(.+)'", r"Option '(.+)' is not accepted"):
            if match := re.search(pattern, message):
                message = self._unknown(".".join(match.groups()))
        if match := re.search(r"unrecognized arguments: --([\w.]+)", message):
            message = self._unknown(match.group(1))
        super().error(message, ex)

    def _unknown(self, key: str) -> str:
        keys = [action.dest for action in self._actions]
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        # The section may be forgotten or wrong while the last part is right.
        near = near or [known for known in keys if known.split(".")[-1] == key.split(".")[-1]]
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(keys)}")


def parse_config(default: Path, argv: Sequence[str] | None = None, schema: type[C] = Config) -> C:  # type: ignore[assignment]
    """Read a configuration from `--config` files and dotted overrides, later ones winning.

    Changing `loss.name` or `loss.preset` on the command line drops the loss options of the files, and says which. The
    options of a preset are filled in where neither a file nor the command line has them.

    Args:
        default: The file that is read where none is named.
        argv: Command line without the program's name; that of the process by default.
        schema: What is configured.

    Raises:
        SystemExit: A key is unknown or a value is wrong; the message on stderr names it, and the nearest key.
    """
    first = PlainParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", action="append", type=Path)
    first.add_argument("--loss.name", "--loss", dest="loss_name")
    first.add_argument("--loss.preset", dest="loss_preset")
    first.add_argument("--task")
    for switch in SWITCHES:
        first.add_argument(f"--{switch}", nargs="?", const="true")
    known, overrides = first.parse_known_args(argv)
    overrides += [f"--{switch}={value}" for switch in SWITCHES if (value := getattr(known, switch)) is not None]

    try:
        files: dict[str, Any] = {}
        for path in known.config or [default]:
            files = merge_configs(files, read_config_file(path.expanduser()))
        named = {"name": known.loss_name, "preset": known.loss_preset}
        files = merge_configs(files, {"loss": {key: value for key, value in named.items() if value}})
        files["task"] = known.task or files.get("task", "multiclass")
        loss = files["loss"]
        loss_class = find_loss(loss.setdefault("name", find_task(files["task"]).default_loss))
        if preset := loss.get("preset"):
            files["loss"] = find_preset(loss["name"], preset) | loss
    except ValueError as error:
        first.error(str(error))

    parser, of_files = _parse_files(pickle.dumps(files), loss_class, schema)  # type: ignore[arg-type]  # has a hash
    parsed = parser.parse_args(overrides, namespace=of_files.clone(), defaults=False)
    try:
        values = parser.instantiate(parsed).as_dict()
        del values["config"]
        return schema(**values).resolve()
    except (TypeError, ValueError) as error:
        parser.error(str(error), error)


# A study reads its configuration many times: what does not differ between cells is parsed once.
@cache
def _parse_files(
    files: bytes, loss_class: type[LabelLoss] | type[PlainLoss], schema: type[Config]
) -> tuple[NearestKeyParser, Namespace]:
    parser = _build_parser(loss_class, schema)
    return parser, parser.parse_object(pickle.loads(files))


def _build_parser(loss_class: type[LabelLoss] | type[PlainLoss], schema: type[Config]) -> NearestKeyParser:
    parser = NearestKeyParser(description=f"Losses: {', '.join(LOSSES | PLAIN_LOSSES)}")
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file; several are merged.")
    parser.add_class_arguments(schema, skip={"loss"})
    parser.add_argument("--loss.name", type=str, help="Name of the loss; its options follow from it.")
    if loss_class.presets:
        presets = ", ".join(loss_class.presets)
        help_text = f"Published variant, over which the other options win: {presets}."
        parser.add_argument("--loss.preset", type=str, default=SUPPRESS, help=help_text)
    parser.add_class_arguments(
        loss_class,
        "loss",
        skip={
            "num_classes",
            "num_outputs",
            "weight",
            "ignore_index",
            "reduction",
            "mean",
            "std",
            "num_samples",
            "epochs",
        },
        instantiate=False,
    )
    return parser


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a YAML file of a configuration: sections of keys; one that is empty changes nothing.

    Raises:
        ValueError: There is no such file, or it is no such YAML; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"--config: no such file: {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"--config: cannot read {path} as YAML in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config: {path} must hold keys and values, got a {type(values).__name__}")
    values = {key: value for key, value in values.items() if value is not None or key not in SECTIONS}
    for key in SECTIONS & values.keys():
        if key == "loss" and isinstance(values[key], str):
            values[key] = {"name": values[key]}
        if not isinstance(values[key], dict):
            raise ValueError(f"--config: {path}: {key} must hold keys and values, got {values[key]!r}")
    return values


def merge_configs(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `override`, section by section.

    Where `override` names another loss or another preset, the options before it are dropped, with a word.
    """
    before, after = base.get("loss", {}), override.get("loss", {})
    changed = [key for key in ("name", "preset") if after.get(key, before.get(key)) != before.get(key)]
    if changed:
        kept = {} if "name" in changed else {key: value for key, value in before.items() if key == "name"}
        if dropped := ", ".join(f"{key}={value}" for key, value in before.items() if key != "name"):
            old = f"{before['name']} " if changed[0] == "name" and "name" in before else ""
            print(f"loss.{changed[0]} {old}-> {after[changed[0]]}: dropped the configured {dropped}", file=sys.stderr)
        base = {**base, "loss": kept}
    return _merge(base, override)


def _merge(base: dict, override: dict) -> dict:
    """Return `base` with the keys of `override`, nested dictionaries merged."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
