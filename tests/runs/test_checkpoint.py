import copy
import resource
import shutil
from pathlib import Path

import pytest
import torch

from ols.files import DamagedFileError
from ols.runs.checkpoint import (
    clean_checkpoints,
    load_optimizer,
    load_state,
    load_tensors,
    optimizer_tensors,
    prune_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)
from ols.runs.folder import RunFolder

TENSORS = {
    "model": {"weight": torch.arange(600.0).view(20, 30).t(), "count": torch.tensor(3)},
    "loss": {"soft_labels": torch.eye(4, dtype=torch.float64)},
}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def saved(run):
    folder = run.checkpoints / "epoch-0001"
    save_checkpoint(folder, TENSORS, {"epoch": 1, "values": [0.1, None]})
    return folder


def test_what_is_loaded_is_what_was_saved(saved):
    verify_checkpoint(saved)
    assert load_state(saved) == {"format": 1, "name": "epoch-0001", "epoch": 1, "values": [0.1, None]}
    for part, tensors in TENSORS.items():
        loaded = load_tensors(saved, part)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    assert sorted(path.name for path in saved.iterdir()) == [
        "loss.safetensors",
        "manifest.json",
        "model.safetensors",
        "state.json",
    ]


def test_every_file_truncated_at_every_quarter_or_with_a_flipped_byte_is_named(saved, run):
    cases = 0
    for original in saved.iterdir():
        contents = original.read_bytes()
        size = len(contents)
        truncated = [contents[: size * quarter // 4] for quarter in range(4)]
        flipped = [contents[:n] + bytes([contents[n] ^ 1]) + contents[n + 1 :] for n in range(0, size, size // 20)]
        for number, wrong in enumerate([*truncated, *flipped]):
            folder = run.checkpoints / f"epoch-{number + 2:04d}"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(saved, folder)
            (folder / original.name).write_bytes(wrong)
            with pytest.raises(DamagedFileError, match=str(folder / original.name).replace(".", r"\.")):
                verify_checkpoint(folder)
            cases += 1
        original.rename(saved / "elsewhere")
        with pytest.raises(DamagedFileError, match=f"{original.name} is missing"):
            verify_checkpoint(saved)
        (saved / "elsewhere").rename(original)
    assert cases >= 4 * 24
    verify_checkpoint(saved)


def test_a_damaged_checkpoint_is_set_aside_with_a_warning_and_the_others_stay(saved, run):
    newer = run.checkpoints / "epoch-0002"
    save_checkpoint(newer, TENSORS, {"epoch": 2})
    (newer / "loss.safetensors").write_bytes(b"")
    with pytest.warns(
        UserWarning, match=rf"{newer}/loss\.safetensors has 0 bytes, expected \d+; epoch-0002 is not used"
    ):
        clean_checkpoints(run)
    assert run.list_checkpoints() == [saved]
    assert (run.checkpoints / "damaged-epoch-0002").is_dir()


def test_odd_entries_among_the_checkpoints_are_passed_over_or_set_aside(saved, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run.checkpoints / "epoch-0002").symlink_to(elsewhere)
    (run.checkpoints / "epoch-0003").write_text("a file")
    (run.checkpoints / "epoch-0004").mkdir()
    (run.checkpoints / ".epoch-0005.partial").symlink_to(elsewhere)
    with pytest.warns(UserWarning, match="epoch-0004 is not used"):
        clean_checkpoints(run)
    assert run.list_checkpoints() == [saved]
    for epoch in (2, 3, 4, 5):  # and give way to what the run writes under their names
        save_checkpoint(run.checkpoints / f"epoch-000{epoch}", TENSORS, {})
        verify_checkpoint(run.checkpoints / f"epoch-000{epoch}")
    assert list(elsewhere.iterdir()) == []


def test_a_full_disk_is_a_message_that_names_the_file_and_leaves_the_older_checkpoint(saved, run):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write: File too large.*epoch-0002\.partial/model\.safetensors"):
            save_checkpoint(run.checkpoints / "epoch-0002", TENSORS, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.list_checkpoints() == [saved]
    verify_checkpoint(saved)
    clean_checkpoints(run)
    assert list(run.checkpoints.iterdir()) == [saved]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file is in the way, which stops root, too")
    with pytest.raises(OSError, match=str(tmp_path / "checkpoints")):
        save_checkpoint(tmp_path / "checkpoints" / "epoch-0001", TENSORS, {})


def test_a_checkpoint_appears_with_all_its_files_and_not_before(run, monkeypatch):
    seen, replace = [], Path.replace

    def looking(self, target):
        if self.is_dir():
            seen.append((sorted(path.name for path in self.iterdir()), run.list_checkpoints()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", looking)
    save_checkpoint(run.checkpoints / "epoch-0001", TENSORS, {})
    assert seen == [(["loss.safetensors", "manifest.json", "model.safetensors", "state.json"], [])]


def test_pruning_keeps_the_newest_and_one_more_and_hides_what_it_deletes(run, monkeypatch):
    names = ["epoch-0000-step-00000002", "epoch-0001", "epoch-0001-step-00000005", "epoch-0002", "epoch-0010"]
    for name in names:
        save_checkpoint(run.checkpoints / name, TENSORS, {})
    assert [path.name for path in run.list_checkpoints()] == names
    prune_checkpoints(run, keep_last=2, keep=run.checkpoints / "epoch-0001")
    assert [path.name for path in run.list_checkpoints()] == ["epoch-0001", "epoch-0002", "epoch-0010"]

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **options: None if options else killed(path))
        with pytest.raises(KeyboardInterrupt):
            prune_checkpoints(run, keep_last=1, keep=run.checkpoints / "epoch-0001")
    assert [path.name for path in run.list_checkpoints()] == ["epoch-0001", "epoch-0010"]
    clean_checkpoints(run)
    assert {path.name for path in run.checkpoints.iterdir()} == {"epoch-0001", "epoch-0010"}


def test_a_checkpoint_in_the_folder_of_another_is_not_used(saved, run):
    saved.rename(run.checkpoints / "epoch-0007")
    with pytest.warns(UserWarning, match=r"epoch-0007 holds the checkpoint epoch-0001; epoch-0007 is not used"):
        clean_checkpoints(run)
    assert run.list_checkpoints() == []


@pytest.mark.parametrize(
    "build", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, 0.1)]
)
def test_an_optimizer_continues_with_the_same_bits_and_memory_format(run, build):
    def step(layer, optimizer, seed):
        images = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed))
        layer(images.contiguous(memory_format=torch.channels_last)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    layers = [torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    optimizers = [build(layer.parameters()) for layer in layers]
    step(layers[0], optimizers[0], 0)
    tensors, rest = optimizer_tensors(optimizers[0])
    save_checkpoint(
        run.checkpoints / "epoch-0001", {"optimizer": tensors, "model": layers[0].state_dict()}, {"rest": rest}
    )
    layers[1].load_state_dict(load_tensors(run.checkpoints / "epoch-0001", "model"))
    load_optimizer(
        optimizers[1],
        load_tensors(run.checkpoints / "epoch-0001", "optimizer"),
        load_state(run.checkpoints / "epoch-0001")["rest"],
    )
    for seed in (1, 2):
        for layer, optimizer in zip(layers, optimizers, strict=True):
            step(layer, optimizer, seed)
    assert torch.equal(layers[0].weight, layers[1].weight)
    states = [next(iter(optimizer.state.values())) for optimizer in optimizers]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])
        assert value.stride() == states[1][key].stride()


def test_an_optimizer_keeps_its_own_implementation_whatever_wrote_the_checkpoint():
    """`fused` is how a step is taken, and what lets it be skipped on the device: no state of a run."""
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    written, loaded = (
        torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, fused=fused)
        for layer, lr, fused in zip(layers, (0.3, 0.1), (None, True), strict=True)
    )
    layers[0](torch.ones(1, 3)).sum().backward()
    written.step()
    load_optimizer(loaded, *optimizer_tensors(written))
    assert [(group["lr"], group["fused"]) for group in loaded.param_groups] == [(0.3, True)]
    before = layers[1].weight.clone()
    layers[1](torch.full((1, 3), torch.nan)).sum().backward()
    loaded.found_inf = torch.tensor(1.0)
    loaded.step()
    assert torch.equal(layers[1].weight, before)


class _Hoarder(torch.optim.Optimizer):
    """Keeps every kind of thing that an optimizer's state dict may hold."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "dtype": torch.bfloat16, "betas": (0.9, (0.5, None))})
        for group in self.param_groups:
            group["step"] = torch.tensor(0.0)
            for parameter in group["params"]:
                self.state[parameter] = {
                    "step": torch.tensor(3, dtype=torch.int32),
                    "moment": torch.full_like(parameter, 0.1, dtype=torch.bfloat16),
                    "wide": torch.full_like(parameter, 0.1, dtype=torch.float64),
                    "nested": [[torch.ones(2), torch.zeros(())], (torch.ones(1), "word")],
                    "by_number": {0: torch.tensor(1.0), "0": torch.tensor(2.0), 7: None},
                    "nan": float("nan"),
                    "__type__": True,
                }
        self.state["of no parameter"] = torch.tensor([1.0, 2.0])


def test_whatever_an_optimizer_keeps_comes_back_as_what_it_was(run):
    layer = torch.nn.Linear(3, 2)
    written, loaded = _Hoarder(layer.parameters()), _Hoarder(layer.parameters())
    expected = copy.deepcopy(written.state_dict())
    for values in loaded.state.values():
        for value in values.values() if isinstance(values, dict) else [values]:
            if isinstance(value, torch.Tensor):
                value.zero_()
    tensors, rest = optimizer_tensors(written)
    save_checkpoint(run.checkpoints / "epoch-0001", {"optimizer": tensors}, {"rest": rest})
    load_optimizer(
        loaded,
        load_tensors(run.checkpoints / "epoch-0001", "optimizer"),
        load_state(run.checkpoints / "epoch-0001")["rest"],
    )
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    assert _plain(found) == _plain(expected)


def _plain(value):
    """Return everything inside as what `==` compares with its type, tensors' own with their values."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return (value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else (type(value), repr(value))


def test_lbfgs_whose_history_is_lists_of_tensors_continues_with_the_same_bits(run):
    layers = [torch.nn.Linear(4, 3) for _ in range(2)]
    optimizers = [torch.optim.LBFGS(layer.parameters(), max_iter=3) for layer in layers]
    images, targets = torch.randn(20, 4), torch.arange(20) % 3

    def step(layer, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(layer(images), targets)
            loss.backward()
            return loss

        optimizer.step(closure)

    step(layers[0], optimizers[0])
    layers[1].load_state_dict(layers[0].state_dict())
    tensors, rest = optimizer_tensors(optimizers[0])
    save_checkpoint(run.checkpoints / "epoch-0001", {"optimizer": tensors}, {"rest": rest})
    assert any(name.startswith("state.0.old_dirs.") for name in tensors)
    load_optimizer(
        optimizers[1],
        load_tensors(run.checkpoints / "epoch-0001", "optimizer"),
        load_state(run.checkpoints / "epoch-0001")["rest"],
    )
    for layer, optimizer in zip(layers, optimizers, strict=True):
        step(layer, optimizer)
    assert torch.equal(layers[0].weight, layers[1].weight)


def test_what_is_loaded_shares_nothing_with_what_was_saved():
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    written, loaded = (torch.optim.Adam(layer.parameters()) for layer in layers)
    layers[0](torch.ones(1, 3)).sum().backward()
    written.step()
    load_optimizer(loaded, *optimizer_tensors(written))
    written.step()
    assert [values["step"].item() for values in loaded.state.values()] == [1.0, 1.0]


def test_an_optimizer_that_keeps_an_object_is_named():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    optimizer.state[layer.weight]["history"] = [{1, 2}]
    with pytest.raises(TypeError, match=r"SGD keeps a set as state\.0\.history\.0"):
        optimizer_tensors(optimizer)
