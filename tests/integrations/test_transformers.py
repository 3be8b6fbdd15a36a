"""transformers' Trainer against a hand-written loop, and interrupted runs against uninterrupted ones."""

import importlib
import json
import shutil
import sys

import pytest
import torch
from integrations import by_hand
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from ols.integrations.transformers import LabelLossCallback
from ols.losses import HardLabels, OnlineLabelSmoothing

EPOCHS, STEPS = 3, 4
SAMPLES = by_hand.samples(26)  # four steps of two batches of 4, the last a batch of 2 alone


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = by_hand.linear()

    def forward(self, pixel_values, labels=None):
        assert labels is None
        return {"logits": self.layer(pixel_values)}


class Stop(TrainerCallback):
    """Leaves the epoch before its last step."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop = True


def trainer_of(callback, folder, *, labels=SAMPLES[1], callbacks=(), **options):
    model = Classifier()
    optimizer = by_hand.sgd(model)
    options = {"save_strategy": "no", "logging_strategy": "no", "num_train_epochs": EPOCHS} | options
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=7,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        max_grad_norm=0,
        disable_tqdm=True,
        use_cpu=True,
        report_to="none",
        dataloader_pin_memory=False,
        **options,
    )
    dataset = [{"pixel_values": x, "labels": y} for x, y in zip(SAMPLES[0], labels, strict=True)]
    return Trainer(
        model,
        arguments,
        train_dataset=dataset,
        eval_dataset=dataset,
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        compute_loss_func=callback.compute_loss,
        callbacks=[*callbacks, callback],
    )


def online():
    loss = OnlineLabelSmoothing(by_hand.NUM_CLASSES, hard_weight=by_hand.HARD_WEIGHT, reduction="sum")
    return LabelLossCallback(loss)


def test_the_soft_labels_are_those_of_a_hand_written_loop(tmp_path):
    callback = online()
    callback.loss.eval()  # as a validation of the caller's own may leave it
    trainer = trainer_of(callback, tmp_path, eval_strategy="steps", eval_steps=1)
    trainer.train()
    soft_labels, layer = by_hand.train(*SAMPLES, epochs=EPOCHS, batch_size=8)
    torch.testing.assert_close(callback.loss.soft_labels, soft_labels[-1])
    torch.testing.assert_close(trainer.model.layer.weight, layer.weight)
    diagonals = [record.get("soft_labels/mean_diagonal") for record in trainer.state.log_history]
    expected = [each.diagonal().mean().item() for each in soft_labels]
    assert [each for each in diagonals if each] == pytest.approx(expected)


def test_evaluation_is_plain_cross_entropy_and_collects_nothing(tmp_path):
    callback = online()
    trainer = trainer_of(callback, tmp_path, eval_strategy="epoch")
    trainer.train()
    assert not callback.loss.correct_counts.any()
    layer = trainer.model.layer
    assert trainer.evaluate()["eval_loss"] == pytest.approx(by_hand.cross_entropy(layer, *SAMPLES), rel=1e-5)
    assert not callback.loss.correct_counts.any()
    mean = callback.compute_loss({"logits": layer(SAMPLES[0])}, SAMPLES[1])  # as older transformers evaluate
    summed = callback.loss(layer(SAMPLES[0]), SAMPLES[1])
    torch.testing.assert_close(mean, summed / 26)


def test_probability_targets_are_averaged_over_samples(tmp_path):
    one_hot = torch.nn.functional.one_hot(SAMPLES[1], by_hand.NUM_CLASSES).float()
    weights = []
    for labels in (SAMPLES[1], one_hot):
        trainer = trainer_of(online(), tmp_path, labels=labels)
        trainer.train()
        weights.append(trainer.model.layer.weight)
    torch.testing.assert_close(*weights)


def test_ignored_labels_do_not_count(tmp_path):
    labels = SAMPLES[1].clone()
    labels[[2, 3, 9]] = -100
    callback = LabelLossCallback(HardLabels(by_hand.NUM_CLASSES, reduction="sum"))
    trainer = trainer_of(callback, tmp_path, labels=labels, num_train_epochs=1)
    trainer.train()
    layer = by_hand.linear()
    optimizer = by_hand.sgd(layer)
    for x, y in zip(SAMPLES[0].split(8), labels.split(8), strict=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(trainer.model.layer.weight, layer.weight)


@pytest.mark.parametrize("saving", [{"save_strategy": "steps", "save_steps": 1}, {"save_strategy": "epoch"}])
def test_a_run_resumed_from_any_checkpoint_equals_the_uninterrupted_one(saving, tmp_path):
    callback = online()
    whole = trainer_of(callback, tmp_path, **saving)
    whole.train()
    checkpoints = sorted(tmp_path.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == (EPOCHS if saving["save_strategy"] == "epoch" else STEPS * EPOCHS)
    for path in checkpoints[1:6]:  # inside an epoch, its last step, the next epoch
        resumed = online()
        trainer = trainer_of(resumed, tmp_path)
        trainer.train(resume_from_checkpoint=str(path))
        torch.testing.assert_close(resumed.loss.soft_labels, callback.loss.soft_labels)
        torch.testing.assert_close(trainer.model.layer.weight, whole.model.layer.weight)


def test_a_checkpoint_elsewhere_is_found_when_named_and_missed_by_name_otherwise(tmp_path):
    callback = online()
    trainer_of(callback, tmp_path / "before", save_strategy="epoch").train()
    moved = shutil.move(tmp_path / "before" / "checkpoint-4", tmp_path / "moved")
    assert json.loads((moved / "trainer_state.json").read_text())["log_history"]
    assert load_file(moved / "label_loss.safetensors").keys() == {"soft_labels", "prob_sums", "correct_counts"}
    with pytest.raises(FileNotFoundError, match=r"resume_from_checkpoint=\.\.\."):
        trainer_of(online(), tmp_path / "now").train(resume_from_checkpoint=str(moved))
    resumed = online()
    trainer = trainer_of(resumed, tmp_path / "now", resume_from_checkpoint=str(moved))
    trainer.train(resume_from_checkpoint=str(moved))
    torch.testing.assert_close(resumed.loss.soft_labels, callback.loss.soft_labels)


def test_a_loss_without_state_is_saved_and_resumed(tmp_path):
    for resume in (None, True):
        callback = LabelLossCallback(HardLabels(by_hand.NUM_CLASSES, reduction="sum"))
        trainer = trainer_of(callback, tmp_path, save_strategy="steps", save_steps=3)
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == STEPS * EPOCHS


def test_an_epoch_cut_short_is_ended_once(tmp_path):
    callback = online()
    ends = by_hand.ends_of_epochs(callback.loss)
    trainer_of(callback, tmp_path, callbacks=[Stop()]).train()
    assert len(ends) == EPOCHS
    for run in (1, 2):  # the callback again, in runs that end at the same step
        trainer_of(callback, tmp_path, max_steps=2).train()
        assert len(ends) == EPOCHS + run


def test_diagnostics_reach_other_callbacks_and_leave_the_log_of_the_step(tmp_path):
    class Log(TrainerCallback):
        seen = []  # noqa: RUF012

        def on_log(self, args, state, control, logs, **kwargs):
            self.seen.append((state.global_step, *logs))

    callback = online()
    trainer = trainer_of(callback, tmp_path, callbacks=[Log()], logging_strategy="steps", logging_steps=1)
    callback.log = trainer.log
    trainer.train()
    assert [step for step, *keys in Log.seen if "soft_labels/min_diagonal" in keys] == [4, 8, 12]
    assert [step for step, *keys in Log.seen if "loss" in keys] == [*range(1, 13)]


def test_a_loss_that_the_trainer_would_average_wrongly_is_refused():
    with pytest.raises(ValueError, match="reduction='sum' for the Trainer, got 'mean'"):
        LabelLossCallback(HardLabels(4))
    with pytest.raises(ValueError, match="ignore_index of -100, got 3"):
        LabelLossCallback(HardLabels(4, reduction="sum", ignore_index=3))
    with pytest.raises(ValueError, match="under 'labels', got none"):
        online().compute_loss({"logits": torch.zeros(2, 4)}, None)


def test_without_transformers_the_import_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "ols.integrations.transformers")
    with pytest.raises(ImportError, match="pip install transformers"):
        importlib.import_module("ols.integrations.transformers")
