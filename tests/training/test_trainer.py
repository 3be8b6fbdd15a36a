"""The loop, on a small set in memory; `tests/test_pretrain.py` goes through the recipe."""

import gzip
import json
import re

import pytest
import torch
from accelerate.state import GradientState
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training.small_trainer import GrayLevels, small_net

import ols.training.clock
from ols.evaluation.evaluate import tagged
from ols.runs.checkpoint import load_state, load_tensors
from ols.training.safe_step import SafeStep
from ols.training.trainer import Trainer


def _learned(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Train to the end, and return what the last epoch's checkpoint has: weights, optimizer, what the loss learned."""
    trainer.fit()
    parts = ["model", "loss", "optimizer"] + ["ema"] * (trainer.ema is not None)
    path = trainer.folder.checkpoint(trainer.config.epochs)
    return {f"{part}.{name}": value for part in parts for name, value in load_tensors(path, part).items()}


def _before_steps(trainer: Trainer, look) -> list:
    """Call `look(batch)` before every training step, and return the list of what it returns."""
    seen, train_step = [], trainer.train_step

    def spying_train_step(batch):
        seen.append(look(batch))
        train_step(batch)

    trainer.train_step = spying_train_step
    return seen


def test_accumulated_micro_batches_are_the_large_batch(build_trainer):
    options = {"precision": "float64", "class_weights": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    one, four = (_learned(build_trainer(f"{n}", accumulation_steps=n, **options)) for n in (1, 4))
    assert {name.partition(".")[0] for name in one} == {"model", "loss", "optimizer"}
    assert one.keys() == four.keys()
    for name, expected in one.items():
        torch.testing.assert_close(four[name], expected, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def _differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


def test_accumulation_does_not_go_by_what_else_uses_accelerate(build_trainer):
    options = {"epochs": 1, "accumulation_steps": 2}
    alone = _learned(build_trainer("alone", **options))
    beside = build_trainer("beside", **options)
    calls = _before_steps(beside, lambda batch: GradientState()._set_sync_gradients(False))
    assert _differing(alone, _learned(beside)) == set()
    assert len(calls) == 6


@pytest.mark.parametrize("option", [{"clip_grad_norm": 0.01}, {"precision": "bf16"}])
def test_an_option_of_the_loop_changes_the_weights(build_trainer, option):
    plain, changed = (_learned(build_trainer(n, epochs=1, loss="hard", **o)) for n, o in (("a", {}), ("b", option)))
    assert any(name.startswith("model.") for name in _differing(plain, changed))
    assert all(value.isfinite().all() for value in changed.values())


def test_autocast_runs_the_model_in_bfloat16_and_leaves_the_loss_in_float32(build_trainer):
    trainer, dtypes = build_trainer(epochs=1, precision="bf16", loss="hard"), []
    for module in (trainer.raw_model[-1], trainer.loss):
        module.register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))
    trainer.fit()
    assert dtypes[:2] == [torch.bfloat16, torch.float32]


def test_the_loss_that_is_logged_is_the_mean_over_the_images_since_the_last_reading(build_trainer):
    trainer, losses = build_trainer(epochs=2, loss="hard", log_every_steps=2), []
    trainer.loss.register_forward_hook(lambda _, args, loss: losses.append(nn.functional.cross_entropy(*args).item()))
    trainer.fit()
    expected = [(losses[0] + losses[1]) / 2, losses[2], losses[3], (losses[4] + losses[5]) / 2]  # an epoch is 3 steps
    assert trainer.log.tracker.of("train/loss") == pytest.approx(expected, rel=1e-6)
    read_at = [record["images_seen"] for record in trainer.log.tracker.records if "train/loss" in record]
    assert read_at == [16, 24, 32, 48]


READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


def test_steps_of_training_read_nothing_from_the_device(build_trainer, monkeypatch):
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
    options = {"log_every_steps": 3, "accumulation_steps": 2, "ema_decay": 0.9, "clip_grad_norm": 1.0}
    trainer = build_trainer(model=small_net(batch_norm=True), epochs=1, precision="bf16", **options)
    with pytest.raises(AssertionError, match="read from the device"):
        trainer.fit()
    assert called == [*["train_step"] * 2, "take"] * 3 + ["log_train_loss"]  # which reads


def test_a_run_says_how_long_it_takes_and_profiles_itself(build_trainer, monkeypatch, capsys):
    monkeypatch.setattr(ols.training.clock, "FORECAST_STEPS", 8)
    trainer = build_trainer(epochs=3, profile=True)
    trainer.fit()
    speed = r"^speed [\d,]+ img/s, \d+ ms a step: 0 min 0\d s of training left.* limits it"
    assert re.search(speed, capsys.readouterr().out, re.M)
    rows = dict(re.findall(r"^([a-z ]{12}) +([\d.]+) +[\d.]+%", trainer.clock.table(), re.M))
    rows = {name.strip(): float(seconds) for name, seconds in rows.items()}
    assert {"data wait", "forward", "loss", "backward", "optimizer", "metrics", "checkpoint", "all"} <= rows.keys()
    assert rows["all"] == pytest.approx(sum(rows.values()) / 2, abs=0.06)
    (trace,) = trainer.folder.path.glob("rank0.*.pt.trace.json.gz")  # where TensorBoard's plugin looks
    names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"forward", "loss", "backward", "optimizer", "ProfilerStep#7", "CollectingCrossEntropy"} <= names


@pytest.mark.slow
def test_a_compiled_model_learns_what_it_learns_without(build_trainer, monkeypatch):
    """Traced and differentiated ahead of time; the code generator, which takes a minute, is left to the slow tests."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    eager = _learned(build_trainer("eager", epochs=1, precision="float64"))
    torch._dynamo.utils.counters.clear()
    compiled = _learned(build_trainer("compiled", epochs=1, precision="float64", compile=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=0, atol=1e-9)


def test_a_gradient_scaler_changes_nothing_but_the_range(build_trainer):
    """That of fp16, here on the CPU in float32: it scales by powers of 2, skips the same step, clips the same norm."""
    learned = {}
    for name, scaler in (("plain", None), ("scaled", torch.amp.GradScaler("cpu"))):
        options = {"clip_grad_norm": 0.5, "ema_decay": 0.9, "accumulation_steps": 2}
        trainer = build_trainer(name, scaler=scaler, **options)
        _before_steps(
            trainer, lambda batch, trainer=trainer: trainer.progress.step != 4 or batch["image"].fill_(torch.nan)
        )
        learned[name] = _learned(trainer)
        assert trainer.log.tracker.of("train/nonfinite_steps") == [0] * 4 + [1] * 5
    assert learned["plain"].keys() == learned["scaled"].keys()
    for name, expected in learned["plain"].items():
        torch.testing.assert_close(learned["scaled"][name], expected, rtol=0, atol=1e-6)
    assert load_state(trainer.folder.checkpoint(3))["scaler"]["scale"] == 2**15  # halved once


def test_dropout_is_keyed_by_where_the_run_is(build_trainer):
    drawn = []
    for name in ("first", "second"):
        trainer = build_trainer(name, epochs=2, accumulation_steps=2, loss="hard")
        drawn.append(_before_steps(trainer, lambda batch: tuple(torch.rand(3).tolist())))
        torch.rand(len(drawn))
        trainer.fit()
    first, second = drawn
    assert first == second
    assert len(set(first)) == len(first) == 2 * 3 * 2


def test_the_moving_average_is_evaluated_beside_the_model_and_selected(build_trainer):
    trainer = build_trainer(ema_decay=0.5)
    best = trainer.fit()
    trainer.log_test(trainer.evaluate(trainer.val_loader, "test"))
    records = trainer.log.tracker.records
    assert {"test/top1", "test_ema/top1", "test_ema/ece"} <= records[-1].keys()
    assert best.metric == max(trainer.log.tracker.of("val_ema/top1"))
    path = trainer.folder.checkpoint(best.epoch)
    average, raw, selected = load_tensors(path, "ema"), load_tensors(path, "model"), trainer.selected_model.state_dict()
    assert _differing(average, selected) == set()
    assert _differing(raw, selected) > {"0.weight"}
    assert json.loads(trainer.folder.best.read_text())["metric"] == "val_ema/top1"


def test_the_epoch_is_chosen_on_validation_and_pruned_to_the_best_and_the_last(build_trainer, monkeypatch):
    scripted = {1: 0.9, 2: 0.5, 3: 0.7, 4: 0.6, 5: 0.8}
    trainer = build_trainer(epochs=5, select_by="nll")
    evaluate = trainer.evaluate

    def as_scripted(loader, split):
        evaluations = evaluate(loader, split)
        evaluations[split].metrics["nll"] = scripted[trainer.progress.epoch]
        return evaluations

    monkeypatch.setattr(trainer, "evaluate", as_scripted)
    best = trainer.fit()
    assert (best.epoch, best.metric) == (2, 0.5)
    trainer.log_test(evaluate(trainer.val_loader, "test"))
    trainer.log_test(evaluate(trainer.val_loader, "test"))  # the command typed once more
    tested = [record for record in trainer.log.tracker.records if "test/top1" in record]
    assert [record["epoch"] for record in tested] == [2]  # the record of the test names the epoch that was tested
    kept = {path.name for path in trainer.folder.checkpoints.iterdir()}
    assert kept == {"best.json", "epoch-0002", "epoch-0004", "epoch-0005"}
    record = json.loads(trainer.folder.best.read_text())
    assert (record["metric"], record["best"]) == ("val/nll", {"epoch": 2, "metric": 0.5})
    weights = load_tensors(trainer.folder.checkpoint(2), "model")
    assert _differing(weights, trainer.selected_model.state_dict()) == set()


def test_a_run_that_has_ended_is_not_trained_again(build_trainer):
    first = build_trainer(epochs=1)
    learned, results = _learned(first), first.evaluate(first.val_loader, "test")
    first.log_test(results)
    again = build_trainer(epochs=1)
    steps = _before_steps(again, lambda batch: None)
    assert _differing(learned, _learned(again)) == set()
    tested = again.evaluate(again.val_loader, "test")
    again.log_test(tested)
    assert tagged(tested) == tagged(results)
    assert steps == again.log.tracker.records == []


def _everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    parts = {"model": trainer.raw_model, "ema": trainer.ema.module, "loss": trainer.loss}
    tensors = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    for number, values in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in values.items()}
    return {name: value.clone() for name, value in tensors.items()}


def test_a_step_that_is_not_finite_is_skipped_and_counted_and_changes_nothing(build_trainer):
    trainer = build_trainer(model=small_net(batch_norm=True), accumulation_steps=2, ema_decay=0.9)
    end_step, seen = trainer.end_step, []

    def spoil(batch):
        if trainer.progress.step == 4 and len(trainer.safe_step._indices) == 2:
            batch["image"].fill_(torch.nan)
        if trainer.progress.step == 4 and len(trainer.safe_step._indices) == 1:
            seen.append(_everything(trainer))

    def look():
        end_step()
        if trainer.progress.step == 5:
            seen.append(_everything(trainer))

    _before_steps(trainer, spoil)
    trainer.end_step = look
    trainer.fit()
    before, after = seen
    assert len(before) > 25
    assert _differing(before, after) == set()
    assert before["model.1.num_batches_tracked"] == 4 * 2
    assert before["loss.prob_sums"].sum() > 0  # half collected
    assert trainer.log.tracker.of("train/nonfinite_steps") == [0] * 4 + [1] * 5
    losses = torch.tensor(trainer.log.tracker.of("train/loss"))
    assert losses.isnan().nonzero().tolist() == [[4]]  # of no image
    assert (losses[~losses.isnan()] > 0).all()


def test_a_gradient_that_is_not_finite_is_skipped_too(build_trainer):
    trainer = build_trainer(epochs=1, loss="hard")

    def spoil(batch):
        if trainer.progress.step == 1:
            weight = trainer.raw_model[0].weight
            handle = weight.register_hook(lambda gradient: handle.remove() or gradient * torch.inf)

    _before_steps(trainer, spoil)
    learned = _learned(trainer)
    assert trainer.log.tracker.of("train/nonfinite_steps") == [0, 1, 1]
    assert all(value.isfinite().all() for value in learned.values())


def test_a_loss_that_diverges_stops_the_run_and_says_what_to_do_and_which_samples_it_met(build_trainer):
    trainer = build_trainer(peak_lr=1e20, warmup_epochs=0, max_nonfinite_steps=2)
    message = r"not finite in 2 steps in a row, .*nonfinite_samples\.json; .*optim\.peak_lr"
    with pytest.raises(RuntimeError, match=message):
        trainer.fit()
    named = json.loads(trainer.folder.nonfinite_samples.read_text())["sample_ids"]
    assert len(set(named)) == 8
    assert set(named) <= {f"train/{index}" for index in range(24)}


def test_training_images_that_cannot_be_read_stop_a_run_unless_they_are_to_be_skipped_and_listed(build_trainer, capsys):
    with pytest.raises(ValueError, match="train/2 cannot be read"):
        build_trainer("stopped", epochs=1, train_source=GrayLevels("train", unreadable={2})).fit()
    trainer = build_trainer(epochs=2, train_source=GrayLevels("train", unreadable={2}), unreadable="skip")
    assert trainer.fit().epoch > 0
    assert json.loads(trainer.folder.unreadable_samples.read_text())["sample_ids"] == ["train/2"]
    assert capsys.readouterr().out.count("1 training images could not be read and are skipped") == 1


def test_a_teacher_is_asked_in_eval_mode_for_the_images_of_every_step_and_is_not_trained(build_trainer):
    teacher = small_net(batch_norm=True)
    before, asked = {name: value.clone() for name, value in teacher.state_dict().items()}, []
    teacher.register_forward_hook(lambda module, args, logits: asked.append((args[0], logits, module.training)))
    trainer = build_trainer(epochs=1, loss="self_teacher_kd", teacher=teacher)
    images = _before_steps(trainer, lambda batch: batch["image"])
    passed = []
    trainer.loss.register_forward_pre_hook(lambda _, args: passed.append(args[2]))
    trainer.fit()
    assert len(images) == len(asked) == 3
    for image, logits, (seen, given, training) in zip(images, passed, asked, strict=True):
        assert torch.equal(seen, image)
        assert torch.equal(given, logits)
        assert not training
        assert not logits.requires_grad
    assert _differing(before, teacher.state_dict()) == set()


def test_a_teacher_is_asked_for_where_a_loss_needs_one_and_refused_where_it_does_not(build_trainer):
    with pytest.raises(ValueError, match="SelfTeacherKD needs a teacher: name the export"):
        build_trainer(loss="self_teacher_kd")
    with pytest.raises(ValueError, match="HardLabels needs no teacher"):
        build_trainer(loss="hard", teacher=small_net())


def test_synchronised_batch_norm_is_refused_on_the_cpu(build_trainer):
    with pytest.raises(ValueError, match=r"train\.sync_bn needs CUDA devices, got cpu"):
        build_trainer(sync_bn=True)
