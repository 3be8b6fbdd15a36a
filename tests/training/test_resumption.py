"""Runs interrupted in this process at chosen places; `test_chaos.py` kills real ones."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, Tree, figures_as_a_pixel, fill
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training.small_trainer import small_net

import ols.runs.checkpoint
import ols.runs.export
import ols.tracking.run_log
import ols.training.resumption
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


SMALL = {
    "ema_decay": 0.9,
    "accumulation_steps": 2,
    "log_every_steps": 2,
    "checkpoint_every_steps": 2,
    "keep_last": 3,
    "peak_lr": 0.01,
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the package may catch it."""


@pytest.fixture
def run(build_trainer):
    """Train a small run in a folder by name up to its test, as the recipe does with a large one; return the folder."""

    def run(name: str, **options) -> RunFolder:
        trainer = build_trainer(name, writes=True, model=small_net(batch_norm=True), **options)
        with figures_as_a_pixel():
            trainer.fit()
            trainer.log_test(trainer.evaluate(trainer.val_loader, "test"))
        trainer.log.tracker.close()
        trainer.folder.export.mkdir(exist_ok=True)
        save_file(trainer.selected_model.state_dict(), trainer.folder.export / "model.safetensors")
        return trainer.folder

    return run


@pytest.fixture
def whole(run):
    return run("whole", **SMALL).path


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


def _killed(monkeypatch, start, *places) -> None:
    """Die at each of the places, starting anew every time."""
    for place, after in places:
        with monkeypatch.context() as patch:
            _kill_at_call(patch, *place, after=after)
            with pytest.raises(Killed):
                start()


def test_a_run_killed_anywhere_again_and_again_ends_with_the_same_bits(train, monkeypatch):
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
    _killed(monkeypatch, lambda: train("broken", *OPTIONS), *places)
    broken = train("broken", *OPTIONS)
    assert differences(train("whole", *OPTIONS), broken, epoch=3) == []
    attempts = [json.loads(line) for line in (broken / "environment.jsonl").read_text().splitlines()]
    assert len(attempts) == len(places) + 1
    assert len({attempt["images_seen"] for attempt in attempts}) > 4  # it went on, not back to the beginning
    assert [path.name for path in (broken / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_a_mixed_and_augmented_run_killed_inside_an_epoch_ends_with_the_same_bits(train, monkeypatch):
    options = ["--data.mixup_alpha=0.4", "--data.cutmix_alpha=1", "--data.mix_prob=0.8", "--data.augment=radiology"]
    options += [
        "--loss.preset=paper",
        "--data.erase_prob=0.2",
        "--train.checkpoint_every_steps=1",
        "--train.ema_decay=0.9",
        "--train.epochs=2",
    ]
    targets, train_step = [], Trainer.train_step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", lambda *args: targets.append(args[1]["target"]) or train_step(*args))
        whole = train("whole", *options)
    assert len(targets) == 6
    assert any(((probs > 0).sum(1) == 2).any() for probs in targets)
    _killed(monkeypatch, lambda: train("broken", *options), ((Trainer, "train_step", 5), False))
    assert differences(whole, train("broken", *options), epoch=2) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "learnt"), [("progressive_self_kd", "past_probs"), ("label_smoothing_pp", "relations")]
)
def test_a_loss_that_remembers_ends_with_the_same_bits_after_kills_inside_its_epochs(train, monkeypatch, loss, learnt):
    options = [f"--loss.name={loss}", "--train.checkpoint_every_steps=1", "--train.ema_decay=0.9"]
    whole = train("whole", *options)
    places = [((Trainer, "train_step", 2), True), ((Trainer, "train_step", 5), False), ((Trainer, "end_step", 1), True)]
    _killed(monkeypatch, lambda: train("broken", *options), *places)
    broken = train("broken", *options)
    assert differences(whole, broken, epoch=3) == []
    state = load_tensors(RunFolder(broken).checkpoint(3), "loss")
    assert state[learnt].std() > 0


def test_half_collected_soft_labels_are_in_a_checkpoint_inside_an_epoch(build_trainer, monkeypatch):
    trainer = build_trainer(**SMALL)
    _killed(monkeypatch, trainer.fit, ((Trainer, "train_step", 11), False))
    newest = trainer.folder.list_checkpoints()[-1]
    assert newest.name == "epoch-0001-step-00000004"
    assert load_tensors(newest, "rank-00000")["sum.correct_counts"].sum() > 0
    assert {path.suffix for path in newest.iterdir()} == {".safetensors", ".json"}


@pytest.mark.slow
def test_a_compiled_run_that_is_killed_ends_with_the_same_bits(train, monkeypatch):
    options = [*OPTIONS, "--train.compile=true"]
    compiled = train("compiled", *options)
    _killed(monkeypatch, lambda: train("broken", *options), ((Trainer, "train_step", 8), False))
    assert differences(compiled, train("broken", *options), epoch=3) == []


def test_checkpoints_come_by_time_too(build_trainer, monkeypatch):
    steps, save = [], Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self: steps.append(self.progress.step) or save(self))
    for name, minutes in (("often", 1e-9), ("seldom", 1e9)):
        build_trainer(name, epochs=1, loss="hard", checkpoint_every_minutes=minutes).fit()
    assert steps == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("name", "place"), [("SIGTERM", "train_step"), ("SIGINT", "evaluate"), ("SIGHUP", "train_step")]
)
def test_a_signal_finishes_the_step_saves_and_exits_with_status_0(run, monkeypatch, capsys, name, place):
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
            run("run", loss="hard")
    assert stopped.value.code == 0
    assert [signal.getsignal(number) for number in numbers] == before
    printed = capsys.readouterr().out
    steps = 3 if place == "train_step" else 9
    stopped_at = f"stopped after step {steps % 3 or 3} of epoch {-(-steps // 3)}"
    assert f"{stopped_at}; the same command continues: train.py --seed 0\n" in printed
    folder = run("run", loss="hard")
    assert "continuing after epoch " in capsys.readouterr().out
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [record["images_seen"] for record in records if "train/loss" in record] == [8 * n for n in range(1, 10)]


def test_a_checkpoint_of_another_run_is_set_aside_and_one_of_another_configuration_refused(run, whole, monkeypatch):
    _killed(monkeypatch, lambda: run("broken", **SMALL), ((Trainer, "train_step", 9), False))
    broken = RunFolder(whole.with_name("broken"))
    foreign = RunFolder(whole).list_checkpoints()[-1]  # of the same configuration, and complete
    shutil.copytree(foreign, broken.checkpoints / foreign.name)
    with pytest.warns(UserWarning, match=rf"{foreign.name} is of another run"):
        run("broken", **SMALL)
    assert differences(whole, broken.path, epoch=3) == []
    with pytest.raises(ValueError, match=r"was trained with another configuration than .*config\.yaml has now"):
        run("whole", **SMALL, identity="another")


def test_a_run_whose_name_is_lost_continues(train, capsys):
    file = RunFolder(train("run", "--train.epochs=1")).identity_file
    before = file.read_text()
    file.unlink()
    capsys.readouterr()
    train("run", "--train.epochs=1")
    assert "continuing after epoch 1 " in capsys.readouterr().out
    assert file.read_text() == before


def test_tensorboard_has_every_record_once_after_a_kill_in_the_test(run, monkeypatch):
    for call in (4, 5):  # of writing best.json: after each of three epochs, then after the test
        name = f"killed{call}"
        with monkeypatch.context() as patch:
            _kill_at_call(patch, ols.training.resumption, "write_record", call, after=False)
            with contextlib.suppress(Killed):
                run(name, loss="hard")
        folder = run(name, loss="hard")
        records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
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


def test_a_damaged_checkpoint_is_survived_with_a_warning_that_names_the_file(run, whole, monkeypatch):
    _killed(monkeypatch, lambda: run("broken", **SMALL), ((Trainer, "train_step", 16), False))
    broken = RunFolder(whole.with_name("broken"))
    newest = broken.list_checkpoints()[-1]
    _flip_a_byte(newest / "optimizer.safetensors")
    with pytest.warns(UserWarning, match=rf"{newest}/optimizer.safetensors has another checksum.*is not used"):
        run("broken", **SMALL)
    assert differences(whole, broken.path, epoch=3) == []
    assert (broken.checkpoints / f"damaged-{newest.name}").is_dir()


def test_a_finished_run_survives_a_damaged_record_of_the_best_epoch_and_the_loss_of_all_checkpoints(run):
    folder = run("run", epochs=2, loss="hard")
    before = metrics_without_timing(folder.path)
    _flip_a_byte(folder.best)
    with pytest.warns(UserWarning, match=r"best\.json .*evaluated again"):
        run("run", epochs=2, loss="hard")
    assert metrics_without_timing(folder.path) == before
    for path in folder.list_checkpoints():
        (path / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="manifest.json is missing"):
        run("run", epochs=2, loss="hard")
    assert metrics_without_timing(folder.path) == before


@pytest.fixture
def scripted(monkeypatch):
    """Let epochs have a top-1 accuracy by their number."""

    def script(scores: dict[int, float]) -> None:
        evaluate = Trainer.evaluate

        def scripted_evaluate(self, loader, split):
            evaluations = evaluate(self, loader, split)
            if split == "val":
                evaluations["val"].metrics["top1"] = scores[self.progress.epoch]
            return evaluations

        monkeypatch.setattr(Trainer, "evaluate", scripted_evaluate)

    return script


def test_the_loss_of_the_best_epoch_is_a_warning_and_the_best_is_chosen_anew(run, scripted):
    scripted({1: 0.6, 2: 0.5, 3: 0.4})
    folder = run("run", loss="hard", keep_last=1)
    assert json.loads(folder.best.read_text())["best"]["epoch"] == 1
    _flip_a_byte(folder.checkpoint(1) / "model.safetensors")
    with (
        pytest.warns(UserWarning, match="model.safetensors has another checksum"),
        pytest.warns(UserWarning, match="the best epoch, 1, is lost"),
    ):
        run("run", loss="hard", keep_last=1)
    assert json.loads(folder.best.read_text())["best"]["epoch"] == 3


def test_a_best_epoch_that_a_better_one_has_superseded_is_not_missed_after_a_kill_in_the_test(
    run, scripted, monkeypatch
):
    scripted({1: 0.6, 2: 0.5, 3: 0.7})
    _killed(monkeypatch, lambda: run("broken", loss="hard"), ((ols.tracking.run_log.RunLog, "test", 1), False))
    folder = run("broken", loss="hard")  # without a warning
    assert json.loads(folder.best.read_text())["best"] == {"epoch": 3, "metric": 0.7}


def test_early_stopping_counts_across_an_interruption(run, scripted, monkeypatch):
    scripted({1: 0.3, 2: 0.5, 3: 0.4, 4: 0.5, 5: 0.6})
    options = {"epochs": 9, "early_stop_epochs": 2, "loss": "hard"}
    places = [((Trainer, "train_step", 8), False), ((Trainer, "train_step", 5), False)]
    _killed(monkeypatch, lambda: run("broken", **options), *places)
    record = json.loads(run("broken", **options).best.read_text())
    assert (record["best"], record["evaluated"]) == ({"epoch": 2, "metric": 0.5}, 4)


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
