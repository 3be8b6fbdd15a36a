"""What only a GPU can show; skipped where there is none."""

import json

import pytest
import torch
from conftest import build_loaders_of
from safetensors.torch import load_file

from ols.losses import OnlineLabelSmoothing
from ols.training.safe_step import SafeStep
from ols.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
ON_GPU = ["--train.device=auto", "--train.epochs=1", "--train.log_every_steps=3"]


@pytest.fixture
def errors_where_the_host_waits():
    """Return a context in which torch raises where the host would wait for the device."""

    class Strict:
        def __enter__(self):
            torch.cuda.set_sync_debug_mode("error")

        def __exit__(self, *_):
            torch.cuda.set_sync_debug_mode("default")

    yield Strict()
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [{}, {"ignore_index": 0}, {"reduction": "sum"}, {"reduction": "none"}])
def test_a_step_of_the_loss_waits_for_nothing(errors_where_the_host_waits, options):
    loss = OnlineLabelSmoothing(165, **options).cuda()
    logits = torch.randn(256, 165, device="cuda", requires_grad=True)
    labels = torch.randint(165, (256,), device="cuda")
    mixed = torch.softmax(torch.randn(256, 165, device="cuda"), 1)
    targets = [labels] if "ignore_index" in options else [labels, mixed]
    for target in targets:
        with errors_where_the_host_waits:
            loss(logits, target).sum().backward()
    torch.cuda.synchronize()
    assert logits.grad.isfinite().all()


def test_the_loss_runs_in_a_cuda_graph():
    loss, alone = OnlineLabelSmoothing(165).cuda(), OnlineLabelSmoothing(165).cuda()
    labels = torch.randint(165, (256,), device="cuda")
    static = torch.randn(256, 165, device="cuda", requires_grad=True)

    def step():
        static.grad = None
        loss(static, labels).backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    loss.load_state_dict(alone.state_dict())  # what the warm-up has collected
    with torch.no_grad():
        static.copy_(3 * torch.randn(256, 165, device="cuda"))
    graph.replay()
    logits = static.detach().clone().requires_grad_()
    alone(logits, labels).backward()
    torch.testing.assert_close(static.grad, logits.grad)
    torch.testing.assert_close(loss.prob_sums, alone.prob_sums)
    assert torch.equal(loss.correct_counts, alone.correct_counts)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_steps_of_training_wait_for_nothing(train, monkeypatch, errors_where_the_host_waits, precision):
    called = []
    for owner, name in ((Trainer, "train_step"), (SafeStep, "take")):
        method = getattr(owner, name)

        def wrapped(self, *args, name=name, method=method):
            called.append(name)
            with errors_where_the_host_waits:
                method(self, *args)

        monkeypatch.setattr(owner, name, wrapped)
    options = ["--train.ema_decay=0.9", "--train.clip_grad_norm=1", "--train.channels_last=true"]
    train("run", *ON_GPU, *options, f"--train.precision={precision}", "--data.mixup_alpha=0.4", "--data.mix_prob=0.5")
    assert called == ["train_step", "take"] * 3


def test_batches_come_as_on_the_cpu(tree):
    tree.write_csvs()
    sizes = {"image_size": 12, "resize_size": 14, "workers": 0, "global_batch_size": 4}
    pairs = zip(*(build_loaders_of(tree.root, **sizes, device=device).train for device in ("cpu", "cuda")), strict=True)
    compared = 0
    for expected, found in pairs:
        assert found["image"].is_cuda
        for name, value in expected.items():
            torch.testing.assert_close(found[name].cpu(), value)
        compared += 1
    assert compared == 6


def test_fp16_counters_overflow_and_skips_a_loss_that_is_not_finite(train, monkeypatch):
    weights, train_step = [], Trainer.train_step

    def spoil(self, batch):
        weights.append(next(self.raw_model.parameters()).detach().clone())
        if self.progress.step == 1:
            batch["image"].fill_(torch.nan)
        train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", spoil)
    run_dir = train("run", *ON_GPU, "--train.precision=fp16", "--loss.name=hard", "--train.epochs=3")
    assert len(weights) == 9
    assert torch.equal(weights[1], weights[2])  # the second step was skipped
    assert not torch.equal(weights[2], weights[-1])
    assert all(value.isfinite().all() for value in load_file(run_dir / "export/model.safetensors").values())


def test_a_step_that_is_not_finite_is_skipped_and_counted(train, monkeypatch):
    weights, train_step = [], Trainer.train_step

    def spoil(self, batch):
        weights.append({name: value.clone() for name, value in self.raw_model.state_dict().items()})
        if self.progress.step == 1:
            batch["image"].fill_(torch.nan)
        train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", spoil)
    run_dir = train("run", *ON_GPU, "--model.name=test_resnet", "--train.channels_last=true")
    assert all(torch.equal(value, weights[2][name]) for name, value in weights[1].items())
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [record["train/nonfinite_steps"] for record in records if "train/loss" in record] == [1]


def test_synchronised_batch_norm_trains(train, monkeypatch):
    kinds = []
    monkeypatch.setattr(
        Trainer, "fit", lambda self, fit=Trainer.fit: kinds.extend(map(type, self.raw_model.modules())) or fit(self)
    )
    train("run", *ON_GPU, "--model.name=test_resnet", "--train.sync_bn=true")
    assert any(issubclass(kind, torch.nn.SyncBatchNorm) for kind in kinds)


def test_deterministic_runs_repeat_their_bits(train):
    first, second = (
        load_file(train(name, *ON_GPU, "--train.deterministic=true") / "export/model.safetensors") for name in "ab"
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())
