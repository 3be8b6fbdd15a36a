"""Weights that others have published, in the names of timm's networks: every tensor of the trunk accounted for.

Three different "RadImageNet ResNet50" circulate, with other parameters and other input scales: Keras's `.h5`, a
`.pt` of torchvision's layers in a row, and a converted `.pth`. Nothing is executed: HDF5 data sets are read as numbers,
pickles with `weights_only`.
"""

import io
import pickle
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ols.models.build import architecture
from ols.models.head import first_convolution_names, head_parameter_names
from ols.models.variant import Variant

Tensors = dict[str, Tensor]
KERAS_EPS = 1.001e-5
BN_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
COUNTER = "num_batches_tracked"
# Children of torchvision's InceptionV3 in their order; the auxiliary head may be among them.
INCEPTION_CHILDREN: tuple[str, ...] = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "AuxLogits"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
RESNET_CHILDREN: tuple[str, ...] = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def keras_variant(name: str) -> Variant:
    """Return what Keras's network of an architecture differs in from timm's."""
    variants = {
        "resnet50": Variant(stride_in_first_conv=True, bn_eps=KERAS_EPS),
        "densenet121": Variant(bn_eps=KERAS_EPS),
        "inception_v3": Variant(pools_without_padding=True),
    }
    return variants.get(name, Variant())


def read_keras(path: Path, model: nn.Module) -> Tensors:
    """Read the weights of a Keras application from HDF5 (ResNet50, DenseNet121, InceptionV3, InceptionResNetV2).

    Kernels are transposed from HWIO; a bias of a convolution before batch normalisation is taken off its mean; where
    there is no gamma it is 1.

    Args:
        path: A file of `model.save` or `save_weights` in the `.h5` format.
        model: timm's network of the same architecture.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        ValueError: It is no such file, has links, or holds other layers than the network; the message lists them.
    """
    name = architecture(model)
    layers = dict(_keras_layers(path))
    mapping = {"resnet50": _resnet_layers, "densenet121": _densenet_layers}.get(name or "")
    if mapping is not None:
        pairs = mapping(layers)
    elif name in ("inception_v3", "inception_resnet_v2"):
        pairs = _inception_layers(layers, model)
    else:
        raise ValueError(
            f"no Keras weights of {name} are known: resnet50, densenet121, inception_v3 or inception_resnet_v2"
        )
    tensors: Tensors = {}
    for target, layer in pairs.items():
        values = layers.pop(layer, None)
        if values is None:
            raise ValueError(f"{path} is not of {name}: there is no layer {layer}")
        tensors |= {f"{target}.{key}": value for key, value in _as_torch(values).items()}
    if left := [layer for layer, values in layers.items() if values and not _is_head(values)]:
        raise ValueError(f"{path} is not of {name}: layers are left over: {', '.join(left)}")
    return _fold_biases(tensors, model)


def _keras_layers(path: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield each layer of a Keras file and its weights by name, in the order of the layers."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Keras weights need h5py: pip install 'online-label-smoothing[keras-weights]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            root = _followed(file, "model_weights", path) if "model_weights" in file else file
            if "layer_names" not in root.attrs:
                raise ValueError("no attribute layer_names: save the model in Keras's .h5 format")
            for layer in map(_text, root.attrs["layer_names"]):
                group = _followed(root, layer, path)
                weights = {}
                for weight in map(_text, group.attrs["weight_names"]):
                    numbers = _followed(group, weight, path)
                    if numbers.external or numbers.is_virtual:
                        raise ValueError(f"{weight} has its numbers in another file, which is not read")
                    weights[weight.rsplit("/", 1)[-1].split(":")[0]] = np.asarray(numbers[()])
                yield layer, weights
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"cannot read {path} as Keras weights in HDF5: {error}") from error


def _followed(group: Any, name: str, path: Path) -> Any:
    """Return a member of a group, every link on the way being one inside the file."""
    import h5py

    for part in filter(None, name.split("/")):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{part} is a link, which is not followed")
        group = group[part]
    return group


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _is_head(weights: dict[str, np.ndarray]) -> bool:
    return weights.get("kernel", np.empty(0)).ndim == 2


def _as_torch(weights: dict[str, np.ndarray]) -> Tensors:
    if "kernel" in weights:
        named = {"weight": weights["kernel"].transpose(3, 2, 0, 1)}
        if "bias" in weights:
            named["bias"] = weights["bias"]
    else:
        named = {BN_NAMES[key]: value for key, value in weights.items()}
        named.setdefault("weight", np.ones_like(named["bias"]))
    return {key: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for key, value in named.items()}


def _resnet_layers(layers: dict[str, Any]) -> dict[str, str]:
    pairs = {"conv1": "conv1_conv", "bn1": "conv1_bn"}
    for layer in layers:
        if match := re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer):
            stage, block, number, kind = match.groups()
            part = f"downsample.{int(kind == 'bn')}" if number == "0" else f"{kind}{number}"
            pairs[f"layer{int(stage) - 1}.{int(block) - 1}.{part}"] = layer
    return pairs


def _densenet_layers(layers: dict[str, Any]) -> dict[str, str]:
    old = "conv1/conv" in layers  # names of Keras 2
    pairs = {
        "features.conv0": "conv1/conv" if old else "conv1_conv",
        "features.norm0": "conv1/bn" if old else "conv1_bn",
    }
    pairs["features.norm5"] = "bn"
    parts = {"0_bn": "norm1", "1_conv": "conv1", "1_bn": "norm2", "2_conv": "conv2"}
    for layer in layers:
        if match := re.fullmatch(r"conv(\d)_block(\d+)_(0_bn|[12]_conv|1_bn)", layer):
            stage, block, part = match.groups()
            pairs[f"features.denseblock{int(stage) - 1}.denselayer{block}.{parts[part]}"] = layer
        elif match := re.fullmatch(r"pool(\d)_(conv|bn)", layer):
            part = {"conv": "conv", "bn": "norm"}[match[2]]
            pairs[f"features.transition{int(match[1]) - 1}.{part}"] = layer
    return pairs


def _inception_layers(layers: dict[str, Any], model: nn.Module) -> dict[str, str]:
    """Pair layers that Keras numbers in the order of their creation with timm's units of convolution and norm."""
    numbered = {
        kind: sorted((layer for layer in layers if re.fullmatch(rf"{kind}(_\d+)?", layer)), key=_number_of)
        for kind in ("conv2d", "batch_normalization")
    }
    named = {"conv2d_7b": ("conv_7b", "conv_7b_bn")}
    units = [name for name, module in model.named_modules() if hasattr(module, "conv") and hasattr(module, "bn")]
    ordered = [name for name in units if name not in named]
    if {len(ordered)} != {len(found) for found in numbered.values()}:
        counts = " and ".join(str(len(found)) for found in numbered.values())
        raise ValueError(f"{architecture(model)} has {len(ordered)} numbered convolutions, the file {counts}")
    pairs: dict[str, str] = {}
    for unit, conv, norm in zip(ordered, *numbered.values(), strict=True):
        pairs |= {f"{unit}.conv": conv, f"{unit}.bn": norm}
    for unit in units:
        if unit in named:
            pairs |= {f"{unit}.conv": named[unit][0], f"{unit}.bn": named[unit][1]}
    for layer in layers:
        if match := re.fullmatch(r"block(35|17|8)_(\d+)_conv", layer):
            stage, number = {"35": "repeat", "17": "repeat_1", "8": "repeat_2"}[match[1]], int(match[2])
            last = stage == "repeat_2" and number == 10
            pairs["block8.conv2d" if last else f"{stage}.{number - 1}.conv2d"] = layer
    return pairs


def _number_of(layer: str) -> int:
    digits = layer.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0


def read_torch(path: Path, model: nn.Module) -> Tensors:
    """Read RadImageNet's `.pt`: torchvision's layers in a row, as `backbone.<number>` (three networks).

    Raises:
        ValueError: It is no pickle of tensors, or holds others than the network's; the message lists them.
    """
    name, tensors = architecture(model), _without_counters(load_pickle(path))
    tensors = {key: value for key, value in tensors.items() if key.startswith("backbone.")} or tensors
    if name == "densenet121":
        return _renamed(path, model, tensors, lambda key: re.sub(r"^backbone\.0\.", "features.", key))
    children = {"resnet50": [RESNET_CHILDREN]}.get(name or "", [])
    if name == "inception_v3":
        without = tuple(child for child in INCEPTION_CHILDREN if child != "AuxLogits")
        children = [INCEPTION_CHILDREN, without]
    if not children:
        raise ValueError(f"no RadImageNet .pt of {name} is known: resnet50, densenet121 or inception_v3")
    errors = []
    for names in children:

        def rename(key: str, names: tuple[str, ...] = names) -> str:
            child = re.fullmatch(r"backbone\.(\d+)\.(.*)", key)
            return f"{names[int(child[1])]}.{child[2]}" if child and int(child[1]) < len(names) else key

        try:
            kept = {key: value for key, value in tensors.items() if not rename(key).startswith("AuxLogits.")}
            return _renamed(path, model, kept, rename)
        except ValueError as error:
            errors.append(error)
    raise errors[-1]


def read_hub(path: Path, model: nn.Module) -> Tensors:
    """Read the converted ResNet50 `.pth`: torchvision's names, and biases of convolutions as Keras has them."""
    if architecture(model) != "resnet50":
        raise ValueError(f"the converted RadImageNet file is a resnet50, and the model is {architecture(model)}")
    tensors = _without_counters(load_pickle(path))
    head = {key for key in tensors if key.startswith("fc.")}
    return _fold_biases({key: value for key, value in tensors.items() if key not in head}, model)


def read_radiologynet(path: Path, model: nn.Module) -> Tensors:
    """Read RadiologyNET's weights: a file or a `.tar.gz` with `model_state` (ten networks).

    Raises:
        ValueError: It is no such file, or holds others than the network's tensors; the message lists them.
    """
    record = load_pickle(path)
    state = record.get("model_state", record)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} has no named tensors as model_state; it has: {', '.join(map(str, record))}")
    tensors, name = _without_counters(state), architecture(model) or ""
    tensors = {key.removeprefix("model."): value for key, value in tensors.items()}
    bare = {key.removeprefix("features."): value for key, value in tensors.items()}
    if len(bare.keys() & _trunk(model).keys()) > len(tensors.keys() & _trunk(model).keys()):
        tensors = bare
    if name.startswith(("efficientnet", "mobilenetv3", "vgg")):
        return _in_order(
            path, model, {key: value for key, value in tensors.items() if not _is_torchvision_head(name, key)}
        )
    head = re.compile(r"(fc|classifier|AuxLogits)\.")
    return {key: value for key, value in tensors.items() if not head.match(key)}


def _is_torchvision_head(name: str, key: str) -> bool:
    last = {"efficientnet": "classifier.", "mobilenetv3": "classifier.3.", "vgg": "classifier.6."}
    return key.startswith(next(value for start, value in last.items() if name.startswith(start)))


def read_timm(path: Path, model: nn.Module) -> Tensors:
    """Read the weights of timm's network itself, by its names, or in its order where the names are others."""
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"cannot read {path} as safetensors: {error}") from error
    else:
        tensors = load_pickle(path)
    own = model.state_dict()
    if sum(name in own for name in tensors) > len(own) / 2:
        return tensors
    return _in_order(path, model, tensors, with_head=True)


def load_pickle(path: Path) -> dict[str, Any]:
    """Read a file of `torch.save`, or the only one in a `.tar.gz`, with `weights_only`: no code is run.

    Raises:
        ValueError: It is no such file, or holds something else than numbers.
    """
    try:
        contents: Any = path
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                members = [member for member in archive.getmembers() if member.isfile()]
                if len(members) != 1:
                    raise ValueError(f"an archive of one file is expected, it has {len(members)}")
                extracted = archive.extractfile(members[0])
                contents = io.BytesIO(extracted.read() if extracted else b"")
        found = torch.load(contents, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError, BadZipFile) as error:
        raise ValueError(
            f"cannot read {path} as tensors of torch, nothing else being allowed in it: {_reason(error)}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, and no named tensors")
    return found


def _reason(error: Exception) -> str:
    """Return what is wrong with a pickle, without torch's advice to run the code in it."""
    without = str(error).rpartition("from a trusted source.")[2]
    found = re.search(r"WeightsUnpickler error: (.*)", without)
    lines = (found[1] if found else without).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def recognise(path: Path) -> str | None:
    """Return the kind of start that a file looks like, by its signature or names in it; None for no known one."""
    with path.open("rb") as file:
        if file.read(4) == b"\x89HDF":
            return "radimagenet-keras"
    try:
        names = load_pickle(path).keys()
    except ValueError:
        return None
    if "model_state" in names:
        return "radiologynet"
    if any(str(name).startswith("backbone.") for name in names):
        return "radimagenet-torch"
    return "radimagenet-hub" if {"conv1.bias", "layer1.0.conv1.bias"} <= names else None


def _without_counters(tensors: Tensors) -> Tensors:
    return {key: value for key, value in tensors.items() if not key.endswith(COUNTER)}


def _trunk(model: nn.Module) -> Tensors:
    """Return the tensors of a network but its head's and the counters of batches."""
    head = set(head_parameter_names(model))
    return {key: value for key, value in _without_counters(model.state_dict()).items() if key not in head}


def _renamed(path: Path, model: nn.Module, tensors: Tensors, rename: Callable[[str], str]) -> Tensors:
    named, trunk = {rename(key): value for key, value in tensors.items()}, _trunk(model)
    head = set(head_parameter_names(model))
    stems = first_convolution_names(model)
    wrong = [key for key in trunk if key not in named or not _fits(named[key], trunk[key], key in stems)]
    wrong += [key for key in named if key not in trunk and key not in head]
    if wrong:
        raise ValueError(f"{path} is not of {architecture(model)}: {', '.join(wrong)} do not fit")
    return {key: named[key] for key in trunk}


def _in_order(path: Path, model: nn.Module, tensors: Tensors, *, with_head: bool = False) -> Tensors:
    """Pair tensors with those of a network by their order, each of the same last name and shape.

    A linear layer is a convolution over all that it sees, so its weights may be reshaped.
    """
    own = _without_counters(model.state_dict()) if with_head else _trunk(model)
    tensors = _without_counters(tensors)
    head, stems = set(head_parameter_names(model)), first_convolution_names(model)
    if len(own) != len(tensors):
        theirs, ours = (", ".join(sorted(a.keys() - b.keys())) for a, b in ((tensors, own), (own, tensors)))
        raise ValueError(
            f"{path} is not of {architecture(model)}: {len(tensors)} tensors, and the network has {len(own)}; "
            f"only in the file: {theirs or 'none'}; only in the network: {ours or 'none'}"
        )
    paired = {}
    for (name, value), (key, given) in zip(own.items(), tensors.items(), strict=True):
        linear = given.ndim == 2 and value.ndim == 4 and given.numel() == value.numel() and len(given) == len(value)
        fits = name in head or _fits(given, value, name in stems) or linear
        if not fits or name.rpartition(".")[2] != key.rpartition(".")[2]:
            raise ValueError(
                f"{path} is not of {architecture(model)}: {key} {tuple(given.shape)} in the place of {name} "
                f"{tuple(value.shape)}"
            )
        paired[name] = given.reshape(value.shape) if linear and name not in head else given
    return paired


def _fits(given: Tensor, own: Tensor, is_stem: bool) -> bool:
    """Return whether a tensor has its place's shape; the first convolution's may be for another number of channels."""
    if is_stem and given.ndim == own.ndim == 4:
        return given.shape[:1] + given.shape[2:] == own.shape[:1] + own.shape[2:]
    return given.shape == own.shape


def _fold_biases(tensors: Tensors, model: nn.Module) -> Tensors:
    """Take biases of convolutions, which timm's network lacks, off the mean of the batch normalisation behind them."""
    own = model.state_dict()
    folded = dict(tensors)
    for name in [key for key in tensors if key.endswith(".bias") and key not in own]:
        layer = name.removesuffix(".bias")
        if layer.endswith(".conv"):
            norm = layer.removesuffix("conv") + "bn"
        elif "downsample.0" in layer:
            norm = layer.replace("downsample.0", "downsample.1")
        else:
            norm = re.sub(r"conv(\d)$", r"bn\1", layer)
        if f"{norm}.running_mean" not in folded:
            raise ValueError(f"{name} has no batch normalisation behind it that could take it in")
        folded[f"{norm}.running_mean"] = folded[f"{norm}.running_mean"] - folded.pop(name)
    return folded
