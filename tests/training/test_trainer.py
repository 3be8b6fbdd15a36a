import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from accelerate.state import GradientState
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import ols.training.clock
import ols.training.machine
from ols.training.safe_step import SafeStep
from ols.training.trainer import Trainer


def _final(run_dir: Path, part: str, epoch: int = 3) -> dict[str, torch.Tensor]:
    return load_file(run_dir / f"checkpoints/epoch-{epoch:04d}/{part}.safetensors")


def _records(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _assert_same(first: Path, second: Path, *, atol: float = 0.0) -> None:
    for part in ("model", "loss", "optimizer"):
        expected, found = _final(first, part), _final(second, part)
        assert expected.keys() == found.keys()
        for name in expected:
            torch.testing.assert_close(
                found[name], expected[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
            )


def _spy_on_train_steps(monkeypatch, look) -> list:
    """Call `look(trainer, batch)` before every training step, and return the list of what it returns."""
    seen, train_step = [], Trainer.train_step

    def spying_train_step(self, batch):
        seen.append(look(self, batch))
        train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", spying_train_step)
    return seen


def test_a_changed_configuration_is_refused_with_the_difference(train):
    train("run", "--train.epochs=1")
    with pytest.raises(ValueError, match=r"optim\.peak_lr: 0\.1 -> 0\.01\n.*--resume never"):
        train("run", "--train.epochs=1", "--optim.peak_lr=0.01")
    train("run", "--train.epochs=1", "--optim.peak_lr=0.01", "--resume=never")


def test_starting_anew_moves_the_earlier_run_aside(train):
    run_dir = train("run", "--train.epochs=1")
    train("run", "--train.epochs=1", "--resume=never")
    assert (run_dir.with_name("run.1") / "checkpoints" / "epoch-0001").is_dir()
    _assert_folder_is_complete(run_dir)


def _assert_folder_is_complete(run_dir: Path) -> None:
    for name in ("config.yaml", "command.txt", "environment.jsonl", "metrics.jsonl", "export/config.json"):
        assert (run_dir / name).stat().st_size > 0


def test_unreadable_training_images_stop_a_run_unless_they_are_to_be_skipped_and_listed(tree, train, capsys):
    name = "radiology_ai/CT/abd/normal/train2.png"
    (tree.root / name).write_bytes((tree.root / name).read_bytes()[:40])
    with pytest.raises(ValueError, match=name):
        train("stopped", "--train.epochs=1")
    run_dir = train("run", "--train.epochs=2", "--data.unreadable=skip")
    assert json.loads((run_dir / "unreadable_samples.json").read_text())["sample_ids"] == [name]
    assert capsys.readouterr().out.count("1 training images could not be read and are skipped") == 1
    assert (run_dir / "export" / "config.json").exists()


def test_a_finished_run_is_not_trained_again(train, capsys):
    run_dir = train("run", "--train.epochs=1")
    before = _final(run_dir, "model", 1)
    capsys.readouterr()
    train("run", "--train.epochs=1")
    printed = capsys.readouterr().out
    assert "continuing after epoch 1" in printed
    assert "train loss" not in printed
    assert "balanced_accuracy" in printed
    assert sum("test/top1" in record for record in _records(run_dir)) == 1
    assert all(torch.equal(value, before[name]) for name, value in _final(run_dir, "model", 1).items())


def test_accumulated_micro_batches_are_the_large_batch(train):
    one = train("one", "--train.precision=float64", "--data.class_weights=effective")
    four = train("four", "--train.precision=float64", "--data.class_weights=effective", "--train.accumulation_steps=4")
    _assert_same(one, four, atol=1e-9)


def test_accumulation_does_not_go_by_what_else_uses_accelerate(train, monkeypatch):
    options = ["--train.epochs=1", "--train.accumulation_steps=2"]
    alone = train("alone", *options)
    _spy_on_train_steps(monkeypatch, lambda *_: GradientState()._set_sync_gradients(False))
    beside = train("beside", *options)
    expected, found = _final(alone, "model", 1), _final(beside, "model", 1)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize("option", ["--train.clip_grad_norm=0.01", "--train.precision=bf16"])
def test_an_option_of_the_loop_changes_the_weights(train, option):
    plain, changed = (
        _final(train(name, "--train.epochs=1", "--loss.name=hard", *more), "model", 1)
        for name, more in (("a", []), ("b", [option]))
    )
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)
    assert all(value.isfinite().all() for value in changed.values())


def test_autocast_runs_the_model_in_bfloat16_and_leaves_the_loss_in_float32(train, monkeypatch):
    dtypes = []

    def listen(trainer, batch):
        for module in (trainer.raw_model.get_classifier(), trainer.loss):
            module.register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))

    _spy_on_train_steps(monkeypatch, listen)
    train("run", "--train.epochs=1", "--train.precision=bf16", "--loss.name=hard")
    assert dtypes[:2] == [torch.bfloat16, torch.float32]


def test_channels_last_is_the_memory_format_of_images_and_weights(train, monkeypatch):
    def formats(trainer, batch):
        tensors = (batch["image"], trainer.raw_model.get_submodule("stem.0").weight)
        return [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors]

    seen = _spy_on_train_steps(monkeypatch, formats)
    train("run", "--train.epochs=1", "--train.channels_last=true", "--data.in_chans=3")
    assert seen == [[True, True]] * 3


def test_deterministic_algorithms_are_asked_for(train, monkeypatch):
    seen = _spy_on_train_steps(monkeypatch, lambda *_: torch.are_deterministic_algorithms_enabled())
    for flag in ("true", "false"):
        train(flag, "--train.epochs=1", "--loss.name=hard", f"--train.deterministic={flag}")
    assert seen == [True] * 3 + [False] * 3


READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


def test_steps_of_training_read_nothing_from_the_device(train, monkeypatch):
    """On a GPU each reading would wait for it; between two readings of the loss there is none."""

    def refuse(*_, **__):
        raise AssertionError("read from the device")

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert function.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
            return function(*args, **(kwargs or {}))

    called = []

    def without_reading(owner, name):
        method = getattr(owner, name)

        def wrapped(self, *args):
            called.append(name)
            with monkeypatch.context() as patch, Refuse():
                for reading in READING:
                    patch.setattr(torch.Tensor, reading, refuse)
                method(self, *args)

        monkeypatch.setattr(owner, name, wrapped)

    for owner, name in ((Trainer, "train_step"), (SafeStep, "take"), (Trainer, "log_train_loss")):
        without_reading(owner, name)
    options = ["--train.epochs=1", "--train.log_every_steps=3", "--train.accumulation_steps=2"]
    options += ["--train.ema_decay=0.9", "--train.clip_grad_norm=1", "--train.precision=bf16", "--loss.name=ols"]
    with pytest.raises(AssertionError, match="read from the device"):
        train("run", *options)
    assert called == [*["train_step"] * 2, "take"] * 3 + ["log_train_loss"]  # which reads


def test_a_run_says_how_long_it_takes_and_profiles_itself(train, monkeypatch, capsys):
    monkeypatch.setattr(ols.training.clock, "FORECAST_STEPS", 8)
    run_dir = train("run", "--profile", "--train.epochs=4")
    printed = capsys.readouterr().out
    assert re.search(r"^speed \d+ img/s, \d+ ms a step: 0 min 0\d s of training left.* limits it", printed, re.M)
    rows = dict(re.findall(r"^([a-z ]{12}) +([\d.]+) +[\d.]+%", printed, re.M))
    rows = {name.strip(): float(seconds) for name, seconds in rows.items()}
    assert {"data wait", "forward", "loss", "backward", "optimizer", "metrics", "checkpoint", "all"} <= rows.keys()
    assert rows["all"] == pytest.approx(sum(rows.values()) / 2, abs=0.06)
    (trace,) = run_dir.glob("rank0.*.pt.trace.json.gz")  # where TensorBoard's plugin looks
    names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"forward", "loss", "backward", "optimizer", "ProfilerStep#7", "CollectingCrossEntropy"} <= names
    train("run", "--train.epochs=4")  # the same run, profiled or not


@pytest.mark.slow
def test_a_compiled_model_learns_what_it_learns_without(train, monkeypatch):
    """Traced and differentiated ahead of time; the code generator, which takes a minute, is left to the slow tests."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    options = ["--train.epochs=1", "--train.precision=float64"]
    eager = train("eager", *options)
    torch._dynamo.utils.counters.clear()
    compiled = train("compiled", *options, "--train.compile=true")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    expected, found = _final(eager, "model", 1), _final(compiled, "model", 1)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)


def test_a_gradient_scaler_changes_nothing_but_the_range(train, monkeypatch):
    """That of fp16, here on the CPU in float32: it scales by powers of 2, skips the same step, clips the same norm."""

    def spoil(trainer, batch):
        if trainer.progress.step == 4:
            batch["image"].fill_(torch.nan)

    def scaling(config):
        accelerator = build(config)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    build = ols.training.machine.build_accelerator
    _spy_on_train_steps(monkeypatch, spoil)
    options = ["--train.clip_grad_norm=0.5", "--train.ema_decay=0.9", "--train.accumulation_steps=2"]
    plain = train("plain", *options)
    monkeypatch.setattr(ols.training.machine, "build_accelerator", scaling)
    scaled = train("scaled", *options)
    _assert_same(plain, scaled, atol=1e-6)
    for run_dir in (plain, scaled):
        assert [r["train/nonfinite_steps"] for r in _records(run_dir) if "train/loss" in r] == [0] * 4 + [1] * 5
    state = json.loads((scaled / "checkpoints/epoch-0003/state.json").read_text())
    assert state["scaler"]["scale"] == 2**15  # halved once


def test_fp16_is_refused_without_a_gpu(train):
    with pytest.raises(ValueError, match=r"train\.precision fp16 needs a GPU, got cpu"):
        train("run", "--train.precision=fp16")


def test_dropout_is_keyed_by_where_the_run_is(train, monkeypatch):
    def numbers(trainer, batch):
        return torch.rand(3).tolist()

    options = ["--train.epochs=2", "--train.accumulation_steps=2", "--loss.name=hard"]
    seen = _spy_on_train_steps(monkeypatch, numbers)
    train("first", *options)
    first = seen.copy()
    seen.clear()
    torch.rand(17)
    train("second", *options)
    assert seen == first
    assert len({tuple(drawn) for drawn in first}) == len(first) == 2 * 3 * 2


def test_the_moving_average_is_evaluated_beside_the_model_and_exported(train):
    run_dir = train("run", "--train.ema_decay=0.5")
    last = _records(run_dir)[-1]
    assert {"test/top1", "test_ema/top1", "test_ema/ece"} <= last.keys()
    exported = load_file(run_dir / "export" / "model.safetensors")
    best = json.loads((run_dir / "checkpoints/best.json").read_text())["best"]["epoch"]
    average, raw = _final(run_dir, "ema", best), _final(run_dir, "model", best)
    assert all(torch.equal(exported[name], average[name]) for name in average)
    assert any(not torch.equal(exported[name], raw[name]) for name in raw)


def test_the_epoch_is_chosen_on_validation_and_pruned_to_the_best_and_the_last(train):
    run_dir = train("run", "--train.epochs=4", "--train.select_by=nll")
    losses = {record["epoch"]: record["val/nll"] for record in _records(run_dir) if "val/nll" in record}
    best = min(losses, key=losses.get)
    assert _records(run_dir)[-1]["epoch"] == best  # the record of the test names the epoch that was tested
    kept = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert kept == {"best.json"} | {f"epoch-{epoch:04d}" for epoch in {best, 3, 4}}
    record = json.loads((run_dir / "checkpoints/best.json").read_text())
    assert (record["metric"], record["best"]) == ("val/nll", {"epoch": best, "metric": losses[best]})
    exported = load_file(run_dir / "export" / "model.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in _final(run_dir, "model", best).items())


@pytest.mark.slow
def test_a_few_batches_can_be_overfitted(train):
    run_dir = train("run", "--overfit_batches=1", "--train.epochs=40", "--optim.peak_lr=0.05", "--loss.name=hard")
    assert _records(run_dir)[-1]["test/top1"] == 1
    assert _records(run_dir)[-1]["test/count"] == 8


def test_a_dry_run_takes_two_steps_of_everything(train):
    run_dir = train("run", "--dry_run=true", "--loss.name=hard")
    records = _records(Path(f"{run_dir}-dry_run"))
    assert [record["images_seen"] for record in records if "train/loss" in record] == [8, 16]
    _assert_folder_is_complete(Path(f"{run_dir}-dry_run"))
    assert not run_dir.exists()
    train("run", "--dry_run", "--loss.name=hard")
    assert [path.name for path in run_dir.parent.iterdir() if path.name.startswith("run")] == ["run-dry_run"]


def test_a_step_that_is_not_finite_is_skipped_and_counted_and_changes_nothing(train, monkeypatch):
    end_step, seen = Trainer.end_step, []

    def spoil(trainer, batch):
        if trainer.progress.step == 4 and len(trainer.safe_step._indices) == 2:
            batch["image"].fill_(torch.nan)
        if trainer.progress.step == 4 and len(trainer.safe_step._indices) == 1:
            seen.append(_everything(trainer))

    def look(trainer):
        end_step(trainer)
        if trainer.progress.step == 5:
            seen.append(_everything(trainer))

    _spy_on_train_steps(monkeypatch, spoil)
    monkeypatch.setattr(Trainer, "end_step", look)
    options = ["--train.accumulation_steps=2", "--model.name=test_resnet", "--train.ema_decay=0.9"]
    run_dir = train("run", *options, "--optim.peak_lr=0.01")
    before, after = seen
    assert len(before) > 100
    assert {name for name in before if not torch.equal(before[name], after[name])} == set()
    assert before["loss.prob_sums"].sum() > 0  # half collected
    counts = [record["train/nonfinite_steps"] for record in _records(run_dir) if "train/loss" in record]
    assert counts == [0] * 4 + [1] * 5
    assert _records(run_dir)[-1]["test/count"] == 12
    losses = [record["train/loss"] for record in _records(run_dir) if "train/loss" in record]
    assert losses[4] is None  # of no image
    assert all(value > 0 for value in losses[:4] + losses[5:])


def _everything(trainer) -> dict[str, torch.Tensor]:
    parts = {"model": trainer.raw_model, "ema": trainer.ema.module, "loss": trainer.loss}
    tensors = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    for number, values in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in values.items()}
    return {name: value.clone() for name, value in tensors.items()}


def test_a_gradient_that_is_not_finite_is_skipped_too(train, monkeypatch):
    def hook(trainer, batch):
        if trainer.progress.step == 1:
            parameter = next(trainer.raw_model.parameters())
            handle = parameter.register_hook(lambda gradient: handle.remove() or gradient * torch.inf)

    _spy_on_train_steps(monkeypatch, hook)
    run_dir = train("run", "--train.epochs=1", "--loss.name=hard")
    assert [r["train/nonfinite_steps"] for r in _records(run_dir) if "train/loss" in r] == [0, 1, 1]
    assert all(value.isfinite().all() for value in _final(run_dir, "model", 1).values())


def test_a_loss_that_diverges_stops_the_run_and_says_what_to_do_and_which_samples_it_met(train, tmp_path):
    with pytest.raises(
        RuntimeError, match=r"not finite in 2 steps in a row, .*nonfinite_samples\.json; .*optim\.peak_lr"
    ):
        train("run", "--optim.peak_lr=1e20", "--optim.warmup_epochs=0", "--train.max_nonfinite_steps=2")
    named = json.loads((tmp_path / "run/nonfinite_samples.json").read_text())
    assert len(set(named["sample_ids"])) == 8
    assert all((tmp_path / "set" / sample).is_file() for sample in named["sample_ids"])


def test_self_training_takes_a_teacher_and_asks_for_one(train):
    options = ["--train.epochs=1", "--loss.name=self_teacher_kd"]
    with pytest.raises(ValueError, match="SelfTeacherKD needs a teacher"):
        train("student", *options)
    teacher = train("teacher", "--train.epochs=1", "--loss.name=hard")
    student = train("student", *options, f"--teacher={teacher / 'export'}")
    assert _records(student)[-1]["test/count"] == 12


def test_synchronised_batch_norm_is_refused_on_the_cpu(train):
    with pytest.raises(ValueError, match=r"train\.sync_bn needs CUDA devices, got cpu"):
        train("run", "--train.sync_bn=true")


def test_a_run_starts_from_another_run_and_says_so(train, monkeypatch, capsys):
    first = train("first", "--train.epochs=1")
    with monkeypatch.context() as patch:
        weights = _spy_on_train_steps(
            patch, lambda trainer, _: {name: value.clone() for name, value in trainer.raw_model.state_dict().items()}
        )
        train("second", "--train.epochs=1", f"--model.start=run:{first}")
    assert f"tensors of {first / 'export'}" in capsys.readouterr().out
    exported = load_file(first / "export" / "model.safetensors")
    assert all(torch.equal(value, exported[name]) for name, value in weights[0].items())


def test_a_teacher_is_refused_with_a_loss_that_learns_from_none(train):
    teacher = train("teacher", "--train.epochs=1", "--loss.name=hard")
    with pytest.raises(ValueError, match="HardLabels needs no teacher"):
        train("student", "--train.epochs=1", "--loss.name=hard", f"--teacher={teacher / 'export'}")
