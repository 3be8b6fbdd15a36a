"""Two gloo ranks under other people's trainers; run by `test_two_ranks_of_other_trainers.py`, each step asserted."""

import logging
import os
import sys
import warnings
from pathlib import Path

import by_hand
import lightning.pytorch as pl
import torch
import torch.distributed as dist
import torch.multiprocessing
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from transformers import Trainer, TrainingArguments

from ols.integrations import lightning, transformers
from ols.losses import OnlineLabelSmoothing

EPOCHS, BATCH_SIZE, STEPS = 3, 4, 3  # of each rank; in order, two of them are one batch of 8
SAMPLES = by_hand.samples(24)


def online(**options):
    return OnlineLabelSmoothing(by_hand.NUM_CLASSES, hard_weight=by_hand.HARD_WEIGHT, **options)


def assert_learnt(soft_labels, weight):
    """Compare both ranks with one process that trains on batches of 8."""
    expected, layer = by_hand.train(*SAMPLES, epochs=EPOCHS, batch_size=2 * BATCH_SIZE)
    torch.testing.assert_close(soft_labels, expected[-1])
    torch.testing.assert_close(weight, layer.weight)


def plain_loop(rank, folder):
    loss, model = online(), DistributedDataParallel(by_hand.linear())
    optimizer = by_hand.sgd(model)
    dataset = TensorDataset(*SAMPLES)
    loader = DataLoader(dataset, BATCH_SIZE, sampler=DistributedSampler(dataset, shuffle=False))
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        loss.end_epoch()
    assert_learnt(loss.soft_labels, model.module.weight)


class Batches:
    """The batches of one rank, in the order of `DistributedSampler`, from a loader that can resume inside an epoch."""

    def __init__(self, rank):
        self.position, self.samples = 0, [each[rank::2] for each in SAMPLES]

    def __len__(self):
        return STEPS

    def __iter__(self):
        self.position %= STEPS
        while self.position < STEPS:
            start = self.position * BATCH_SIZE
            self.position += 1
            yield tuple(each[start : start + BATCH_SIZE] for each in self.samples)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Module(pl.LightningModule):
    def __init__(self, loss, attribute):
        super().__init__()
        self.layer = by_hand.linear()
        self.losses = torch.nn.ModuleList([loss]) if attribute else [loss]
        self.register_buffer("steps", torch.zeros(()))

    def training_step(self, batch):
        assert len(self.trainer.model.modules_buffers) == 1  # DDP broadcasts this one, and not those of the loss
        return self.losses[0](self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return by_hand.sgd(self)


def lightning_trainer(rank, folder, attribute=True):
    """The whole run, then its resumption from the checkpoint of each step."""
    options = {"max_epochs": EPOCHS, "accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    for step in (None, *range(1, 6)):
        loss = online()
        module = Module(loss, attribute)
        save_top_k = -1 if step is None else 0
        checkpoint = ModelCheckpoint(folder, "{step}", save_top_k=save_top_k, every_n_train_steps=1)
        callback = lightning.LabelLossCallback(None if attribute else loss)
        trainer = pl.Trainer(callbacks=[callback, checkpoint], **options)
        trainer.fit(module, Batches(rank), ckpt_path=step and folder / f"step={step}.ckpt")
        assert_learnt(loss.soft_labels, module.layer.weight)


def lightning_trainer_and_a_loss_outside_the_module(rank, folder):
    lightning_trainer(rank, folder, attribute=False)


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = by_hand.linear()

    def forward(self, pixel_values, labels=None):
        return {"logits": self.layer(pixel_values)}


def transformers_trainer(rank, folder):
    """The whole run, then its resumption from the checkpoint of each step."""
    dataset = [{"pixel_values": x, "labels": y} for x, y in zip(*SAMPLES, strict=True)]
    for step in (None, *range(1, 6)):
        callback, model = transformers.LabelLossCallback(online(reduction="sum")), Classifier()
        optimizer = by_hand.sgd(model)
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH_SIZE // 2,
            gradient_accumulation_steps=2,
            num_train_epochs=EPOCHS,
            train_sampling_strategy="sequential",
            save_strategy="no" if step else "steps",
            save_steps=1,
            eval_strategy="epoch",
            max_grad_norm=0,
            disable_tqdm=True,
            use_cpu=True,
            ddp_backend="gloo",
            report_to="none",
            dataloader_pin_memory=False,
            log_level="error",
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=dataset,
            eval_dataset=dataset,
            optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
            compute_loss_func=callback.compute_loss,
            callbacks=[callback],
        )
        trainer.train(resume_from_checkpoint=step and str(folder / f"checkpoint-{step}"))
        assert_learnt(callback.loss.soft_labels, model.layer.weight)
        cross_entropy = by_hand.cross_entropy(model.layer, *SAMPLES)
        assert abs(trainer.state.log_history[-2]["eval_loss"] - cross_entropy) < 1e-5


ROUTES = (plain_loop, lightning_trainer, lightning_trainer_and_a_loss_outside_the_module, transformers_trainer)


def run(rank, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for route in ROUTES:
        route(rank, Path(folder) / route.__name__)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(*(route.__name__ for route in ROUTES), sep="\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.multiprocessing.start_processes(run, (sys.argv[1],), nprocs=2, start_method="spawn")
