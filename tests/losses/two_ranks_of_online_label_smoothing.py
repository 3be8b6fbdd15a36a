"""Two gloo ranks that learn soft labels together; run by `test_online_label_smoothing_ranks.py`, each step asserted."""

import copy
import sys
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing

from ols.losses import LabelSmoothingPlusPlus, OnlineLabelSmoothing, ProgressiveSelfKD

NUM_CLASSES = 4


def epoch(seed):
    """Return batches of logits and labels by rank: uneven, and class 3 is seen by rank 1 alone."""
    generator = torch.Generator().manual_seed(seed)
    by_rank = {}
    for rank, sizes in {0: [7, 5], 1: [16, 3, 9]}.items():
        batches = []
        for size in sizes:
            labels = torch.randint(0, NUM_CLASSES - 1 + rank, (size,), generator=generator)
            noise = torch.randn(size, NUM_CLASSES, generator=generator)
            batches.append((noise + 2 * torch.eye(NUM_CLASSES)[labels], labels))
        by_rank[rank] = batches
    return by_rank


def train(loss, batches):
    for logits, labels in batches:
        loss(logits, labels)


def of_one_process(*seeds):
    loss = OnlineLabelSmoothing(NUM_CLASSES)
    for seed in seeds:
        train(loss, [batch for batches in epoch(seed).values() for batch in batches])
        loss.end_epoch(reduce=lambda sums: sums)
    return loss


def assert_same_on_both_ranks(tensor):
    gathered = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(gathered, tensor)
    assert torch.equal(*gathered)


def two_ranks_learn_the_soft_labels_of_one(rank):
    loss = OnlineLabelSmoothing(NUM_CLASSES)
    for seed in (0, 1):
        train(loss, epoch(seed)[rank])
        diagnostics = loss.end_epoch()
        assert_same_on_both_ranks(loss.soft_labels)
        assert_same_on_both_ranks(torch.tensor(list(diagnostics.values())))
    torch.testing.assert_close(loss.soft_labels, of_one_process(0, 1).soft_labels)
    assert diagnostics["soft_labels/unseen_classes"] == 0


def a_rank_that_collected_nothing_learns_from_the_other(rank):
    loss, batches = OnlineLabelSmoothing(NUM_CLASSES), epoch(2)[1]
    if rank == 1:
        train(loss, batches)
    loss.end_epoch()
    alone = OnlineLabelSmoothing(NUM_CLASSES)
    train(alone, batches)
    alone.end_epoch(reduce=lambda sums: sums)
    torch.testing.assert_close(loss.soft_labels, alone.soft_labels)
    before = loss.soft_labels.clone()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss.end_epoch()
    assert [str(warning.message).partition(";")[0] for warning in caught] == [
        "end_epoch: no correct prediction was collected, so the soft labels stay"
    ]
    assert torch.equal(loss.soft_labels, before)


def a_checkpoint_inside_an_epoch_holds_the_sums_of_both_ranks(rank):
    loss = OnlineLabelSmoothing(NUM_CLASSES)
    first, rest = epoch(3)[rank][:1], epoch(3)[rank][1:]
    train(loss, first)
    seen_here = loss.correct_counts.clone()
    loss.sum_over_ranks()
    state = [copy.deepcopy(loss.state_dict())]
    dist.broadcast_object_list(state, src=0)  # as both ranks read the file that rank 0 wrote
    dist.all_reduce(seen_here)
    assert torch.equal(state[0]["correct_counts"], seen_here)
    resumed = OnlineLabelSmoothing(NUM_CLASSES)
    resumed.load_state_dict(state[0])
    for each in (loss, resumed):  # whoever goes on, and whoever resumes
        train(each, rest)
        each.end_epoch()
        torch.testing.assert_close(each.soft_labels, of_one_process(3).soft_labels)


def the_reduction_can_be_replaced(rank):
    def gathered(tensor):
        tensors = [torch.empty_like(tensor) for _ in range(2)]
        dist.all_gather(tensors, tensor)
        return sum(tensors)

    def in_place(tensor):
        dist.all_reduce(tensor)

    for reduce in (gathered, in_place):
        loss = OnlineLabelSmoothing(NUM_CLASSES)
        train(loss, epoch(4)[rank])
        loss.end_epoch(reduce=reduce)
        torch.testing.assert_close(loss.soft_labels, of_one_process(4).soft_labels)


def two_ranks_remember_what_one_remembers(rank):
    """In float64, uneven batches: the second epoch rests on what both ranks predicted in the first."""
    logits = torch.randn(2, 13, NUM_CLASSES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    labels, share = torch.arange(13) % NUM_CLASSES, [slice(0, 4), slice(4, 13)][rank]

    def train_two_epochs(loss, mine, reduce=None):
        index = [torch.arange(13)[mine]] if loss.needs_index else []
        for of_epoch in logits:
            total = loss(of_epoch[mine].clone().requires_grad_(), labels[mine], *index).detach()
            loss.end_epoch(reduce=reduce)
        return total

    for build in (
        lambda: LabelSmoothingPlusPlus(NUM_CLASSES, reduction="sum"),
        lambda: ProgressiveSelfKD(NUM_CLASSES, num_samples=13, epochs=3, memory="float32", reduction="sum"),
    ):
        loss, alone = build().double(), build().double()
        total = train_two_epochs(loss, share)
        dist.all_reduce(total)
        torch.testing.assert_close(total, train_two_epochs(alone, slice(None), lambda sums: sums))
        for name, value in loss.state_dict().items():
            assert_same_on_both_ranks(value)
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-12, atol=1e-15)


STEPS = (
    two_ranks_remember_what_one_remembers,
    two_ranks_learn_the_soft_labels_of_one,
    a_rank_that_collected_nothing_learns_from_the_other,
    a_checkpoint_inside_an_epoch_holds_the_sums_of_both_ranks,
    the_reduction_can_be_replaced,
)


def run(rank, store):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for step in STEPS:
        step(rank)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(*(step.__name__ for step in STEPS), sep="\n")


if __name__ == "__main__":
    torch.multiprocessing.spawn(run, (sys.argv[1],), nprocs=2)
