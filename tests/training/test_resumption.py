"""Runs interrupted in this process at chosen places; `test_chaos.py` kills real ones."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, Tree, fill
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.chaos import differences, metrics_without_timing
from ols.data.packing import write_pack
from ols.data.sources.opening import open_sources
from ols.runs.checkpoint import load_tensors
from ols.runs.folder import RunFolder
from ols.training.interruption import Interrupted
from ols.training.trainer import Trainer

# Batch statistics, a moving average, momentum, two micro-batches to a step, readings and checkpoints that do not
# coincide with each other nor with the ends of epochs of 3 steps.
OPTIONS = [
    "--model.name=test_resnet",
    "--data.workers=0",
    "--train.ema_decay=0.9",
    "--train.accumulation_steps=2",
    "--train.log_every_steps=2",
    "--train.checkpoint_every_steps=2",
    "--train.keep_last=3",
    "--optim.peak_lr=0.01",
]


SIGNALS = [("SIGTERM", "train_step"), ("SIGINT", "evaluate"), ("SIGHUP", "train_step")]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the package may catch it."""


@pytest.fixture
def whole(train):
    return train("whole", *OPTIONS)


def _kill_at_call(patch, owner, name: str, call: int, *, after: bool = False) -> None:
    """Die at a call of a function, counted from 1; before it, or once it is done."""
    function, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(None)
        if len(calls) == call and not after:
            raise Killed
        result = function(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    patch.setattr(owner, name, dying)


def _killed(train, monkeypatch, *places, options=OPTIONS) -> None:
    for place, after in places:
        with monkeypatch.context() as patch:
            _kill_at_call(patch, *place, after=after)
            with pytest.raises(Killed):
                train("broken", *options)


def test_a_run_killed_anywhere_again_and_again_ends_with_the_same_bits(train, whole, monkeypatch):
    import ols.runs.checkpoint
    import ols.runs.export
    import ols.tracking.run_log

    places = [
        ((Trainer, "train_step", 2), False),  # before the first checkpoint
        ((Trainer, "train_step", 8), True),  # in the second epoch, half a step after a reading
        ((ols.runs.checkpoint, "write_record", 2), False),  # a manifest is missing
        ((Trainer, "evaluate", 1), False),  # at an end of epoch
        ((ols.training.resumption, "write_record", 1), False),  # the epoch is logged and this is not written down
        ((ols.training.resumption, "write_record", 1), True),
        ((Trainer, "end_step", 1), True),
        ((ols.runs.checkpoint, "delete", 1), False),
        ((ols.tracking.run_log.RunLog, "test", 1), False),
        ((ols.runs.export, "export_model", 1), False),
    ]
    _killed(train, monkeypatch, *places)
    broken = train("broken", *OPTIONS)
    assert differences(whole, broken, epoch=3) == []
    attempts = [json.loads(line) for line in (broken / "environment.jsonl").read_text().splitlines()]
    assert len(attempts) == len(places) + 1
    assert len({attempt["images_seen"] for attempt in attempts}) > 4  # it went on, not back to the beginning
    assert [path.name for path in (broken / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_a_mixed_and_augmented_run_killed_inside_an_epoch_ends_with_the_same_bits(train, monkeypatch):
    options = ["--data.mixup_alpha=0.4", "--data.cutmix_alpha=1", "--data.mix_prob=0.8", "--data.augment=radiology"]
    options += ["--data.erase_prob=0.2", "--train.checkpoint_every_steps=1", "--train.ema_decay=0.9"]
    targets, train_step = [], Trainer.train_step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", lambda *args: targets.append(args[1]["target"]) or train_step(*args))
        whole = train("whole", *options)
    assert len(targets) == 9
    assert any(((probs > 0).sum(1) == 2).any() for probs in targets)
    _killed(train, monkeypatch, ((Trainer, "train_step", 5), False), options=options)
    assert differences(whole, train("broken", *options), epoch=3) == []


def test_half_collected_soft_labels_are_in_a_checkpoint_inside_an_epoch(train, monkeypatch):
    _killed(train, monkeypatch, ((Trainer, "train_step", 11), False))
    newest = RunFolder(train.folder / "broken").list_checkpoints()[-1]
    assert newest.name == "epoch-0001-step-00000004"
    assert load_tensors(newest, "rank-00000")["sum.correct_counts"].sum() > 0
    assert {path.suffix for path in newest.iterdir()} == {".safetensors", ".json"}


@pytest.mark.slow
def test_a_compiled_run_that_is_killed_ends_with_the_same_bits(train, monkeypatch):
    options = [*OPTIONS, "--train.compile=true"]
    compiled = train("compiled", *options)
    _killed(train, monkeypatch, ((Trainer, "train_step", 8), False), options=options)
    assert differences(compiled, train("broken", *options), epoch=3) == []


def test_checkpoints_come_by_time_too(train, monkeypatch):
    folders, save = [], Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self: folders.append(self.progress.step) or save(self))
    train("often", "--train.epochs=1", "--loss.name=hard", "--train.checkpoint_every_minutes=1e-9")
    train("seldom", "--train.epochs=1", "--loss.name=hard", "--train.checkpoint_every_minutes=1e9")
    assert folders == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("name", "place"), [("SIGTERM", "train_step"), ("SIGINT", "evaluate"), ("SIGHUP", "train_step")]
)
def test_a_signal_finishes_the_step_saves_and_exits_with_status_0(train, monkeypatch, capsys, name, place):
    function, calls = getattr(Trainer, place), []

    def signalling(self, *args):
        calls.append(self.progress.step)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.Signals[name])
        return function(self, *args)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, place, signalling)
        with pytest.raises(Interrupted) as stopped:
            train("run", "--loss.name=hard")
    assert stopped.value.code == 0
    assert [signal.getsignal(number) for number in numbers] == before
    printed = capsys.readouterr().out
    steps = 3 if place == "train_step" else 9
    assert f"stopped after step {steps % 3 or 3} of epoch {-(-steps // 3)}; the same command continues: " in printed
    train("run", "--loss.name=hard")
    printed = capsys.readouterr().out
    assert "continuing after epoch " in printed
    records = [json.loads(line) for line in (train.folder / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["images_seen"] for record in records if "train/loss" in record] == [8 * n for n in range(1, 10)]


def test_a_checkpoint_of_another_run_is_set_aside_and_one_of_another_configuration_refused(train, monkeypatch):
    whole = train("run", *OPTIONS)
    _killed(train, monkeypatch, ((Trainer, "train_step", 9), False))
    broken = RunFolder(train.folder / "broken")
    foreign = RunFolder(whole).list_checkpoints()[-1]  # of the same configuration, and complete
    shutil.copytree(foreign, broken.checkpoints / foreign.name)
    with pytest.warns(UserWarning, match=rf"{foreign.name} is of another run"):
        train("broken", *OPTIONS)
    assert differences(whole, broken.path, epoch=3) == []

    config = RunFolder(whole).config
    config.write_text(config.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    with pytest.raises(ValueError, match=r"was trained with another configuration than .*config\.yaml has now"):
        train("run", *OPTIONS, "--optim.momentum=0.8")


def test_a_run_whose_name_is_lost_continues(train, monkeypatch):
    _killed(train, monkeypatch, ((Trainer, "train_step", 9), False))
    broken = RunFolder(train.folder / "broken")
    before = broken.identity_file.read_text()
    broken.identity_file.unlink()
    train("broken", *OPTIONS)
    assert broken.identity_file.read_text() == before


def test_tensorboard_has_every_record_once_after_a_kill_in_the_test(train, monkeypatch):
    import ols.training.resumption

    for call in (4, 5):  # of writing best.json: after each of three epochs, then after the test
        name = f"killed{call}"
        with monkeypatch.context() as patch:
            _kill_at_call(patch, ols.training.resumption, "write_record", call, after=False)
            with contextlib.suppress(Killed):
                train(name, "--loss.name=hard")
        train(name, "--loss.name=hard")
        folder = train.folder / name
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        for tag in ("val/top1", "test/top1", "train/loss"):
            recorded = [(record["images_seen"], record[tag]) for record in records if tag in record]
            shown = [(event.step, event.value) for event in events.Scalars(tag)]
            assert [step for step, _ in shown] == [step for step, _ in recorded]
            assert [value for _, value in shown] == pytest.approx([value for _, value in recorded])


def _flip_a_byte(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


def test_a_damaged_checkpoint_is_survived_with_a_warning_that_names_the_file(train, whole, monkeypatch):
    _killed(train, monkeypatch, ((Trainer, "train_step", 16), False))
    newest = RunFolder(train.folder / "broken").list_checkpoints()[-1]
    _flip_a_byte(newest / "optimizer.safetensors")
    with pytest.warns(UserWarning, match=rf"{newest}/optimizer.safetensors has another checksum.*is not used"):
        broken = train("broken", *OPTIONS)
    assert differences(whole, broken, epoch=3) == []
    assert (broken / "checkpoints" / f"damaged-{newest.name}").is_dir()


def test_a_finished_run_survives_a_damaged_record_of_the_best_epoch_and_the_loss_of_all_checkpoints(train):
    options = ["--train.epochs=2", "--loss.name=hard"]
    run_dir = train("run", *options)
    before = metrics_without_timing(run_dir)
    _flip_a_byte(run_dir / "checkpoints/best.json")
    with pytest.warns(UserWarning, match=r"best\.json .*evaluated again"):
        train("run", *options)
    assert metrics_without_timing(run_dir) == before
    for path in RunFolder(run_dir).list_checkpoints():
        (path / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="manifest.json is missing"):
        train("run", *options)
    assert metrics_without_timing(run_dir) == before


def test_the_loss_of_the_best_epoch_is_a_warning_and_the_best_is_chosen_anew(train):
    options = ["--loss.name=hard", "--train.keep_last=1"]
    run_dir = train("run", *options)
    record = json.loads((run_dir / "checkpoints/best.json").read_text())["best"]
    for path in RunFolder(run_dir).list_checkpoints():
        if path.name == f"epoch-{record['epoch']:04d}" and record["epoch"] < 3:
            _flip_a_byte(path / "model.safetensors")
    assert record["epoch"] < 3, "the seed makes an earlier epoch the best"
    with (
        pytest.warns(UserWarning, match="model.safetensors has another checksum"),
        pytest.warns(UserWarning, match=f"the best epoch, {record['epoch']}, is lost"),
    ):
        train("run", *options)
    assert json.loads((run_dir / "checkpoints/best.json").read_text())["best"]["epoch"] == 3


def test_a_run_follows_its_data_to_another_folder_but_takes_no_other_data(train, tmp_path):
    options = ["--train.epochs=1", "--loss.name=hard"]
    run_dir = train("run", *options)
    moved = Tree(tmp_path / "moved")
    fill(moved, {"train": 6, "val": 3, "test": 3}).write_csvs()
    assert train("run", *options, f"--data.root={moved.root}") == run_dir
    image = moved.root / moved.rows["test"][0][0]
    before = image.read_bytes()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(image)
    with pytest.raises(ValueError, match=r"the images of test are 12 files of sizes \w+, and were 12 files of"):
        train("run", *options, f"--data.root={moved.root}")
    image.write_bytes(before)
    label, folder = next(iter(CLASSES.items()))
    moved.add("train", f"{folder}/another.png", label)
    moved.write_csvs()
    with pytest.raises(ValueError, match=r"order differ in train; the images of train are 25 .* 24 .*--data\.root"):
        train("run", *options, f"--data.root={moved.root}")


def test_a_pack_of_another_size_is_other_data(train, tree, tmp_path):
    options = ["--train.epochs=1", "--loss.name=hard", "--data.root"]
    tree.write_csvs()
    packs = {}
    for name, size in (("one", 36), ("again", 36), ("other", 40)):
        packs[name] = str(tmp_path / name)
        write_pack(open_sources(tree.root)[0], tmp_path / name, size=size)
    run_dir = train("run", *options, packs["one"])
    assert train("run", *options, packs["again"]) == run_dir
    with pytest.raises(ValueError, match=r"train and val and test are a pack of 40 px .*, and were a pack of 36 px"):
        train("run", *options, packs["other"])


def test_early_stopping_counts_across_an_interruption(train, monkeypatch):
    scores = {1: 0.3, 2: 0.5, 3: 0.4, 4: 0.5, 5: 0.6}
    evaluate = Trainer.evaluate

    def scripted(self, loader, split):
        evaluations = evaluate(self, loader, split)
        if split == "val":
            evaluations["val"].metrics["top1"] = scores[self.progress.epoch]
        return evaluations

    monkeypatch.setattr(Trainer, "evaluate", scripted)
    options = ["--train.epochs=9", "--train.early_stop_epochs=2", "--loss.name=hard"]
    _killed(
        train, monkeypatch, ((Trainer, "train_step", 8), False), ((Trainer, "train_step", 5), False), options=options
    )
    run_dir = train("broken", *options)
    record = json.loads((run_dir / "checkpoints/best.json").read_text())
    assert (record["best"], record["evaluated"]) == ({"epoch": 2, "metric": 0.5}, 4)
