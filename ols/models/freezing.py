"""Which parameters of a model are trained, and when: reversible, and stated in timm's layer groups."""

from collections import defaultdict
from types import MethodType

from timm.models import group_parameters
from torch import nn

from ols.models.build import architecture
from ols.models.head import find_head
from ols.models.options import FreezeOptions

# The last ten layers of Keras's nets, their global pooling included, whose batch norms have no scale in the Inceptions.
KERAS_LAST_10 = {
    "resnet50": ("layer4.2.bn1.", "layer4.2.conv2.", "layer4.2.bn2.", "layer4.2.conv3.", "layer4.2.bn3."),
    "densenet121": ("features.denseblock4.denselayer16.", "features.norm5."),
    "inception_resnet_v2": ("conv2d_7b.conv.", "conv2d_7b.bn.bias", "block8.conv2d.", "block8.branch1.2.bn.bias"),
    "inception_v3": ("Mixed_7c.branch_pool.bn.bias",),
}


class Freezing:
    """Freezes a model by `requires_grad`, and keeps batch norms that are not trained in eval mode in training.

    At first the parameters are those that are trained in the end, so that an optimizer is built of them; `enter` sets
    what an epoch trains, which depends on the epoch alone.

    Args:
        model: timm's, not wrapped, with the head that it is trained with.
        options: The scheme, its first phase and what batch norm does.

    Raises:
        ValueError: The model has no head, fewer layer groups than asked for, or no such layers of Keras's.
    """

    def __init__(self, model: nn.Module, options: FreezeOptions):
        self.model, self.options = model, options
        self._head = _head_names(model)
        if not self._head:
            raise ValueError(f"{architecture(model) or type(model).__name__} has no head that could be trained")
        self._trained = _trained_names(model, options, self._head)
        model.train = MethodType(_train, model)  # type: ignore[method-assign]  # as DDP and the trainer call it
        self._apply(self._trained)

    def enter(self, epoch: int) -> bool:
        """Set what is trained in an epoch, from 0; return whether that has changed, so that DDP has to wrap anew."""
        first = epoch < self.options.first_epochs
        return self._apply(self._head if first else self._trained)

    def lr_factor(self, epoch: int) -> float:
        """Return the learning rates of an epoch over those of the schedule."""
        return self.options.first_lr_factor if epoch < self.options.first_epochs else 1.0

    def describe(self) -> str:
        """Say how many parameters are trained, and of which layers."""
        lines = []
        if self.options.first_epochs:
            lines.append(f"first {self.options.first_epochs} epochs: {_count(self.model, self._head)}, the head")
        lines.append(f"{self.options.scheme}: {_count(self.model, self._trained)}, {_layers(self._trained)}")
        return f"freeze {'; then '.join(lines)}; other batch norms: {self.options.batch_norm}"

    def _apply(self, names: set[str]) -> bool:
        trained = set(names)
        norms = _norms(self.model)
        own = {norm: {f"{norm}.{name}" for name, _ in module.named_parameters()} for norm, module in norms.items()}
        trunk_norms = {norm for norm, members in own.items() if not members & self._head}
        everything = {name for name, _ in self.model.named_parameters()}
        still = {norm for norm in trunk_norms if own[norm] and not own[norm] & trained}
        still |= {norm for norm in trunk_norms if not own[norm] and trained != everything}
        if self.options.batch_norm == "train":
            trained |= {name for norm in still for name in own[norm]}
        before = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
            if name not in trained:
                parameter.grad = None
        self.model._norms_in_eval = frozenset(still if self.options.batch_norm == "frozen" else ())  # type: ignore[assignment]
        self.model.train(self.model.training)
        return before != trained


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Return the names of the trunk's parameters in timm's coarse layer groups, from the stem on.

    What timm puts into one group with the head, such as the last norm, belongs to the group before it: a group is never
    a norm alone.

    Raises:
        ValueError: The model has no layer groups.
    """
    if not hasattr(model, "group_matcher"):
        raise ValueError(f"{type(model).__name__} is no model of timm's: it has no layer groups")
    matched = group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
    head = _head_names(model)
    groups: list[list[str]] = []
    for _, members in sorted(matched.items()):
        trunk = [name for name in members if name not in head]
        if len(trunk) < len(members) and groups:
            groups[-1] += trunk
        elif trunk:
            groups.append(trunk)
    return groups


def _trained_names(model: nn.Module, options: FreezeOptions, head: set[str]) -> set[str]:
    everything = {name for name, _ in model.named_parameters()}
    if options.scheme == "none":
        return everything
    if options.scheme == "head":
        return head
    name = architecture(model)
    if options.scheme == "keras_last_10":
        if name not in KERAS_LAST_10:
            raise ValueError(f"freeze.scheme keras_last_10 is for {', '.join(KERAS_LAST_10)}, got {name}")
        return head | {own for own in everything if own.startswith(KERAS_LAST_10[name])}
    groups, count = layer_groups(model), options.last_groups or 0
    if count > len(groups):
        raise ValueError(f"freeze.scheme {options.scheme}: {name} has {len(groups)} layer groups beside the head")
    return head.union(*groups[len(groups) - count :])


def _head_names(model: nn.Module) -> set[str]:
    return {f"{layer}.{name}" for layer, module in find_head(model).items() for name, _ in module.named_parameters()}


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that keep running statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if {"running_mean", "running_var"} & {own for own, _ in module.named_buffers(recurse=False)}
    }


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    """Set training mode, but for the batch norms that are to keep their statistics."""
    type(model).train(model, mode)
    for name, norm in _norms(model).items():
        if name in model._norms_in_eval:  # type: ignore[operator]
            norm.eval()
    return model


def _count(model: nn.Module, names: set[str]) -> str:
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for name, parameter in model.named_parameters() if name in names)
    return f"{trained:,} of {total:,} parameters trained"


def _layers(names: set[str]) -> str:
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name.split(".")[0] if name.count(".") < 2 else ".".join(name.split(".")[:2])] += 1
    shown = sorted(counts)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
