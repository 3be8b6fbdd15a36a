"""Runs that start from weights: in gray, and continued when the source or the checkpoints are gone."""

import json
import shutil

import pytest
import timm
import torch

from ols.runs.checkpoint import load_tensors
from ols.runs.export import load_description
from ols.runs.folder import RunFolder

OPTIONS = ("--model.name=test_resnet", "--train.epochs=2")
STILL = ("--optim.peak_lr=1e-9", "--optim.warmup_epochs=0", "--optim.weight_decay=0")  # weights stay the source's


def test_gray_images_start_from_weights_of_colour_images_and_the_scale_is_checked(train, capsys):
    path = train.folder / "weights.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)  # whose three channels have means of their own
    run = train("gray", "--model.name=resnet18", "--train.epochs=1", f"--model.start=imagenet:{path}")
    printed = capsys.readouterr().out
    assert "conv1.weight adapted from 3 to 1 channels" in printed
    assert "\nscale variances of these images" in printed
    recorded = json.loads(RunFolder(run).environment.read_text().splitlines()[0])["start"]
    assert recorded in printed
    assert "; sha256 " in recorded


def test_a_run_continues_when_its_source_is_gone(train):
    source = train("source", *OPTIONS)
    start = (*OPTIONS, f"--model.start=run:{source}", "--data.mean=null", "--data.std=null")
    run = train("run", *start)
    origin = load_description(run / "export")["ols"]["origin"]
    assert [line.partition(" tensors of ")[2].partition(";")[0] for line in origin] == [str(source / "export")]
    shutil.rmtree(run / "export")
    shutil.rmtree(source)
    train("run", *start)
    assert RunFolder(run).is_complete
    assert load_description(run / "export")["ols"]["origin"] == origin
    with pytest.raises(FileNotFoundError, match="no export in"):
        train("another", *start)


def test_a_run_whose_checkpoints_are_all_damaged_begins_from_its_source_again(train):
    source = train("source", *OPTIONS)
    start = (*OPTIONS, *STILL, f"--model.start=run:{source}")
    run = train("run", *start)
    weight = "conv1.0.weight"
    expected = load_tensors(source / "export", "model")[weight]
    shutil.rmtree(run / "export")
    for checkpoint in RunFolder(run).list_checkpoints():
        (checkpoint / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="is not used, and moved to"):
        train("run", *start)
    torch.testing.assert_close(load_tensors(run / "export", "model")[weight], expected, rtol=0, atol=1e-6)
