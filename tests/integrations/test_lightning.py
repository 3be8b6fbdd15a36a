"""Lightning's Trainer against a hand-written loop, and interrupted runs against uninterrupted ones."""

import importlib
import logging
import sys

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from integrations import by_hand
from lightning.pytorch.callbacks import ModelCheckpoint

from ols.integrations.lightning import LabelLossCallback
from ols.losses import HardLabels, OnlineLabelSmoothing

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning:lightning.pytorch.utilities._pytree"
)
EPOCHS, BATCH_SIZE, STEPS = 3, 8, 4
SAMPLES = by_hand.samples(26)  # 8, 8, 8 and 2 in a batch


class Batches:
    """The same batches in every epoch, from a loader that can resume inside one."""

    def __init__(self):
        self.position = 0

    def __len__(self):
        return STEPS

    def __iter__(self):
        self.position %= STEPS
        while self.position < STEPS:
            start = self.position * BATCH_SIZE
            self.position += 1
            yield tuple(each[start : start + BATCH_SIZE] for each in SAMPLES)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Classifier(pl.LightningModule):
    def __init__(self, loss, *, attribute=True):
        super().__init__()
        self.layer = by_hand.linear()
        self.losses = torch.nn.ModuleDict({"first": loss}) if attribute else {"first": loss}
        self.val_losses, self.skip_from = [], None

    def training_step(self, batch, _):
        return self.losses["first"](self.layer(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.val_losses.append(self.losses["first"](self.layer(batch[0]), batch[1]).item())

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == self.skip_from else None

    def configure_optimizers(self):
        return by_hand.sgd(self)


@pytest.fixture(autouse=True)
def quiet():
    """Lightning tells of devices, tips and restored states on every run."""
    logger = logging.getLogger("lightning.pytorch")
    before, logger.level = logger.level, logging.ERROR
    yield
    logger.level = before


def fit(model, *callbacks, ckpt_path=None, **options):
    options = {"max_epochs": EPOCHS, "logger": False, "num_sanity_val_steps": 0} | options
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    checkpointing = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = pl.Trainer(callbacks=[*callbacks], enable_checkpointing=checkpointing, **quiet, **options)
    trainer.fit(model, Batches(), Batches(), ckpt_path=ckpt_path)
    return trainer


def classifier(attribute):
    """Return a module and its callback: the loss an attribute of the module, or outside it."""
    loss = OnlineLabelSmoothing(by_hand.NUM_CLASSES, hard_weight=by_hand.HARD_WEIGHT)
    return Classifier(loss, attribute=attribute), LabelLossCallback(None if attribute else loss), loss


@pytest.mark.parametrize("attribute", [True, False])
def test_the_soft_labels_are_those_of_a_hand_written_loop(attribute):
    model, callback, loss = classifier(attribute)
    loss.eval()  # as a validation of the caller's own may leave it
    trainer = fit(model, callback, num_sanity_val_steps=2)
    soft_labels, layer = by_hand.train(*SAMPLES, epochs=EPOCHS, batch_size=BATCH_SIZE)
    torch.testing.assert_close(loss.soft_labels, soft_labels[-1])
    torch.testing.assert_close(model.layer.weight, layer.weight)
    assert not loss.correct_counts.any()
    logged = trainer.callback_metrics["soft_labels/mean_diagonal"]
    torch.testing.assert_close(logged, soft_labels[-1].diagonal().mean())


@pytest.mark.parametrize("attribute", [True, False])
def test_validation_is_plain_cross_entropy_and_collects_nothing(attribute):
    model, callback, loss = classifier(attribute)
    trainer = fit(model, callback, val_check_interval=1)
    expected = [F.cross_entropy(model.layer(x), y).item() for x, y in Batches()]
    assert model.val_losses[-STEPS:] == pytest.approx(expected)
    assert len(model.val_losses) == EPOCHS * STEPS * STEPS
    before = loss.soft_labels.clone()
    trainer.test(model=_Tested(model, loss), dataloaders=Batches(), verbose=False)
    assert torch.equal(loss.soft_labels, before)


class _Tested(Classifier):
    def __init__(self, model, loss):
        super().__init__(loss)
        self.layer = model.layer

    def test_step(self, batch):
        logits = self.layer(batch[0])
        torch.testing.assert_close(self.losses["first"](logits, batch[1]), F.cross_entropy(logits, batch[1]))


CHECKPOINTS = {
    "every step": ({"every_n_train_steps": 1}, {}, STEPS * EPOCHS),
    "every step, nothing validated": ({"every_n_train_steps": 1}, {"limit_val_batches": 0}, STEPS * EPOCHS),
    "every step of a run counted in steps": (
        {"every_n_train_steps": 1},
        {"max_epochs": -1, "max_steps": STEPS * EPOCHS},
        STEPS * EPOCHS,
    ),
    "end of the epoch": ({}, {}, EPOCHS),
    "end of the epoch of a run counted in steps": ({}, {"max_epochs": -1, "max_steps": STEPS * EPOCHS}, EPOCHS),
    "end of the validation": ({"save_on_train_epoch_end": False}, {}, EPOCHS),
    "validation inside the epoch": ({"save_on_train_epoch_end": False}, {"val_check_interval": 2}, 2 * EPOCHS),
}


@pytest.mark.parametrize("attribute", [True, False])
@pytest.mark.parametrize("when", CHECKPOINTS)
def test_a_run_resumed_from_any_checkpoint_equals_the_uninterrupted_one(when, attribute, tmp_path):
    saving, options, count = CHECKPOINTS[when]
    whole, callback, expected = classifier(attribute)
    fit(whole, callback, ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **saving), **options)
    checkpoints = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    assert len(checkpoints) == count
    for path in checkpoints if count == EPOCHS else checkpoints[1:6]:  # inside an epoch, its last step, the next epoch
        model, callback, loss = classifier(attribute)
        fit(model, callback, ModelCheckpoint(tmp_path, save_top_k=0, **saving), ckpt_path=path, **options)
        torch.testing.assert_close(loss.soft_labels, expected.soft_labels, rtol=0, atol=1e-6)
        torch.testing.assert_close(model.layer.weight, whole.layer.weight, rtol=0, atol=1e-6)


def test_an_epoch_cut_short_is_ended():
    model, callback, loss = classifier(True)
    ends = by_hand.ends_of_epochs(loss)
    model.skip_from = 2
    fit(model, callback)
    assert len(ends) == EPOCHS
    model, callback, loss = classifier(True)
    ends = by_hand.ends_of_epochs(loss)
    fit(model, callback, max_epochs=-1, max_steps=STEPS + 1)
    assert len(ends) == 2
    for run in (3, 4):  # the callback again, in runs that end at the same step
        fit(model, callback, max_epochs=-1, max_steps=2)
        assert len(ends) == run


def test_two_losses_are_logged_by_name_and_a_loss_without_state_is_not():
    model, callback, _ = classifier(True)
    model.losses["second"] = OnlineLabelSmoothing(by_hand.NUM_CLASSES, hard_weight=1.0)
    model.losses["third"] = HardLabels(by_hand.NUM_CLASSES)
    model.training_step = lambda batch: sum(loss(model.layer(batch[0]), batch[1]) for loss in model.losses.values())
    logged = fit(model, callback).callback_metrics
    assert len(logged) == 10
    assert logged["losses.second/soft_labels/effective_smoothing"] == 0
    assert logged["losses.first/soft_labels/effective_smoothing"] > 0


def test_buffers_of_the_losses_join_those_that_ddp_leaves_alone():
    model, callback, _ = classifier(True)
    model._ddp_params_and_buffers_to_ignore = ["layer.bias"]
    fit(model, callback, max_steps=1)
    buffers = {name for name, _ in model.named_buffers()}  # the module has none of its own
    assert "losses.first.soft_labels" in buffers
    assert {*model._ddp_params_and_buffers_to_ignore} == {"layer.bias"} | buffers


def test_a_module_without_a_loss_is_refused():
    model, _, _ = classifier(False)
    with pytest.raises(ValueError, match=r"Classifier has no LabelLoss: .* or give it to LabelLossCallback\(loss\)"):
        fit(model, LabelLossCallback())


def test_without_lightning_the_import_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "ols.integrations.lightning")
    with pytest.raises(ImportError, match="pip install lightning"):
        importlib.import_module("ols.integrations.lightning")
