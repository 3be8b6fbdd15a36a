"""`recipes/pretrain.py` in this process: what it hands to the parts that other tests try by themselves."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ols.training.trainer import Trainer


def _records(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _before_steps(patch, look) -> list:
    """Call `look(trainer, batch)` before every training step, and return the list of what it returns."""
    seen, train_step = [], Trainer.train_step

    def spying_train_step(self, batch):
        seen.append(look(self, batch))
        train_step(self, batch)

    patch.setattr(Trainer, "train_step", spying_train_step)
    return seen


def _assert_folder_is_complete(run_dir: Path) -> None:
    for name in ("config.yaml", "command.txt", "environment.jsonl", "metrics.jsonl", "export/config.json"):
        assert (run_dir / name).stat().st_size > 0


def test_a_finished_run_is_not_trained_again_unless_it_is_to_begin_anew_with_whatever_configuration(train, capsys):
    run_dir = train("run", "--train.epochs=1")
    before = load_file(run_dir / "checkpoints/epoch-0001/model.safetensors")
    capsys.readouterr()
    train("run", "--train.epochs=1")
    printed = capsys.readouterr().out
    assert "continuing after epoch 1" in printed
    assert "train loss" not in printed
    assert "balanced_accuracy" in printed
    assert sum("test/top1" in record for record in _records(run_dir)) == 1
    after = load_file(run_dir / "checkpoints/epoch-0001/model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in after.items())

    other = ["--train.epochs=1", "--optim.peak_lr=0.01"]
    with pytest.raises(ValueError, match=r"optim\.peak_lr: 0\.1 -> 0\.01\n.*--resume never"):
        train("run", *other)
    train("run", *other, "--resume=never")
    assert (run_dir.with_name("run.1") / "checkpoints" / "epoch-0001").is_dir()
    _assert_folder_is_complete(run_dir)


def test_a_run_starts_from_another_run_and_learns_from_it_and_says_so(train, monkeypatch, capsys):
    first = train("first", "--train.epochs=1", "--loss.name=hard")
    exported = load_file(first / "export" / "model.safetensors")

    def look(trainer, batch):
        return [{n: v.clone() for n, v in model.state_dict().items()} for model in (trainer.raw_model, trainer.teacher)]

    seen = _before_steps(monkeypatch, look)
    options = [f"--model.start=run:{first}", "--loss.name=self_teacher_kd", f"--teacher={first / 'export'}"]
    second = train("second", "--train.epochs=1", *options)
    assert f"tensors of {first / 'export'}" in capsys.readouterr().out
    for weights in (*seen[0], seen[-1][1]):
        assert all(torch.equal(value, exported[name]) for name, value in weights.items())
    assert any(not torch.equal(value, exported[name]) for name, value in seen[-1][0].items())
    assert _records(second)[-1]["test/count"] == 12


def test_channels_last_is_the_memory_format_of_images_and_weights(train, monkeypatch):
    class SeenError(Exception):
        pass

    def look(trainer, batch):
        for tensor in (batch["image"], trainer.raw_model.get_submodule("stem.0").weight):
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()
        raise SeenError

    _before_steps(monkeypatch, look)
    with pytest.raises(SeenError):
        train("run", "--train.channels_last=true", "--data.in_chans=3")


def test_the_moving_average_of_the_best_epoch_is_tested_and_exported(train):
    run_dir = train("run", "--train.ema_decay=0.5", "--train.select_by=nll")
    losses = {record["epoch"]: record["val_ema/nll"] for record in _records(run_dir) if "val_ema/nll" in record}
    best = min(losses, key=losses.get)
    last = _records(run_dir)[-1]
    assert {"test/top1", "test_ema/top1", "test_ema/ece"} <= last.keys()
    assert last["epoch"] == best
    exported = load_file(run_dir / "export" / "model.safetensors")
    average = load_file(run_dir / f"checkpoints/epoch-{best:04d}/ema.safetensors")
    assert all(torch.equal(exported[name], average[name]) for name in average)


def test_a_dry_run_takes_two_steps_of_everything(train, capsys):
    run_dir = train("run", "--dry_run=true", "--loss.name=hard", "--profile")
    dry = Path(f"{run_dir}-dry_run")
    assert [record["images_seen"] for record in _records(dry) if "train/loss" in record] == [8, 16]
    _assert_folder_is_complete(dry)
    assert [path.name for path in run_dir.parent.iterdir() if path.name.startswith("run")] == ["run-dry_run"]
    assert "\ncheckpoint " in capsys.readouterr().out  # of the profile's table


@pytest.mark.slow
def test_a_few_batches_can_be_overfitted(train):
    run_dir = train("run", "--overfit_batches=1", "--train.epochs=40", "--optim.peak_lr=0.05", "--loss.name=hard")
    assert _records(run_dir)[-1]["test/top1"] == 1
    assert _records(run_dir)[-1]["test/count"] == 8
