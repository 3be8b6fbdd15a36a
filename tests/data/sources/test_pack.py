"""Packs: the same batches as from files, and what is refused."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections import namedtuple
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SPLITS, Tree, build_loaders_of, fill
from PIL import Image

from ols.data import packing
from ols.data.packing import write_pack
from ols.data.sources.opening import open_sources
from ols.data.sources.pack import open_pack
from ols.data.transforms import Preprocessing

PACK = Path(__file__).parents[3] / "recipes" / "pack.py"


def _pack(tree, output, *, in_chans=1, **options):
    tree.write_csvs()
    sources, _ = open_sources(tree.root, in_chans=in_chans)
    return write_pack(sources, output, **{"size": 14, "shard_images": 7, **options})


def _loaders(root, preprocessing, **options):
    return build_loaders_of(root, **{**vars(preprocessing), "workers": 0, "global_batch_size": 5, "seed": 3, **options})


def _flip_a_bit(path, position):
    with open(path, "r+b") as file:
        file.seek(position, os.SEEK_SET if position >= 0 else os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))


@pytest.mark.parametrize(("aspect", "in_chans"), [("shorter", 1), ("longest", 3), ("squash", 1)])
def test_a_pack_gives_the_batches_of_the_files_bit_by_bit(tree, tmp_path, aspect, in_chans):
    for number, size in enumerate([(14, 14), (31, 14), (14, 40), (15, 16), (9, 30)]):  # some need no resizing
        tree.add("train", f"radiology_ai/US/gb/size{number}.png", "us-a", size=size, mode="RGB", level=200)
    _pack(tree, tmp_path / "pack", aspect=aspect, in_chans=in_chans)
    preprocessing = Preprocessing(12, 14, in_chans, aspect=aspect)
    files, packed = (_loaders(root, preprocessing) for root in (tree.root, tmp_path / "pack"))
    assert (packed.classes, packed.groups) == (files.classes, files.groups)
    compared = 0
    for epoch in (0, 1):
        for split in SPLITS:
            ours, theirs = getattr(packed, split), getattr(files, split)
            ours.batches.epoch = theirs.batches.epoch = epoch
            for found, expected in zip(ours, theirs, strict=True):
                assert found.keys() == expected.keys()
                assert all(torch.equal(found[name], expected[name]) for name in expected)
                compared += 1
            ids = [[loader.source.sample_id(index) for index in range(len(loader.source))] for loader in (ours, theirs)]
            assert ids[0] == ids[1]
    assert compared == 2 * (29 // 5 + 3 + 3)


def test_worker_processes_map_the_files_themselves(tree, tmp_path):
    _pack(tree, tmp_path / "pack")
    here, there = (_loaders(tmp_path / "pack", Preprocessing(12, 14), workers=workers).train for workers in (0, 1))
    assert all(
        torch.equal(a["image"], b["image"]) and torch.equal(a["index"], b["index"])
        for a, b in zip(here, there, strict=True)
    )


def test_another_size_is_resized_as_it_is_read_and_said(tree, tmp_path):
    _pack(tree, tmp_path / "pack")
    loaders = _loaders(tmp_path / "pack", Preprocessing(8, 9))
    assert "a pack of 14 px (shorter), resized to 9 px as it is read" in loaders.description
    assert next(iter(loaders.train))["image"].shape == (5, 1, 8, 8)


def test_another_aspect_or_number_of_channels_is_refused(tree, tmp_path):
    _pack(tree, tmp_path / "pack", aspect="squash")
    with pytest.raises(ValueError, match=r"the pack has aspect 'squash', data.aspect asks for 'shorter'"):
        _loaders(tmp_path / "pack", Preprocessing(12, 14))
    with pytest.raises(ValueError, match="is a pack of 1 channels; in_chans asks for 3"):
        _loaders(tmp_path / "pack", Preprocessing(12, 14, 3, aspect="squash"))


def test_shards_are_plain_arrays_and_the_manifest_says_what_they_hold(tree, tmp_path):
    manifest = _pack(tree, tmp_path / "pack", aspect="longest", size=10)
    assert manifest["format"] == 1
    assert (manifest["size"], manifest["aspect"], manifest["in_chans"]) == (10, "longest", 1)
    assert (manifest["classes"][0], manifest["groups"][0]) == ("ct-a", "CT/abd")
    assert [shard["shape"][0] for shard in manifest["shards"]] == [7] * 6 + [6]
    arrays = [np.load(tmp_path / "pack" / shard["file"], mmap_mode="r") for shard in manifest["shards"]]
    assert [list(array.shape) for array in arrays] == [shard["shape"] for shard in manifest["shards"]]
    assert [f"{zlib.crc32(array.tobytes()):08x}" for array in arrays] == [s["crc32"] for s in manifest["shards"]]
    whole = np.concatenate(arrays)
    rows = [row for split in SPLITS for row in tree.rows[split]]
    ids = [sample_id for split in SPLITS for sample_id in manifest["splits"][split]["ids"]]
    labels = [manifest["classes"][k] for split in SPLITS for k in manifest["splits"][split]["targets"]]
    assert list(zip(ids, labels, strict=True)) == rows
    for image, (name, _) in zip(whole, rows, strict=True):
        with Image.open(tree.root / name) as original:
            resized = np.asarray(original.convert("L").resize((10, 8), Image.Resampling.BILINEAR))
        assert np.array_equal(image[0, 1:9], resized)
        assert not image[0, [0, 9]].any()


@pytest.mark.parametrize("position", [0, 20, 100, 127, 128, 1000, -1])
def test_any_flipped_bit_of_a_shard_is_refused_with_its_name(tree, tmp_path, position):
    _pack(tree, tmp_path / "pack")
    path = tmp_path / "pack" / "shard-00003.npy"
    before = path.stat()
    _flip_a_bit(path, position)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(ValueError, match=r"shard-00003\.npy is damaged: its checksum"):
        open_pack(tmp_path / "pack")


@pytest.mark.parametrize("position", [2, 16, 100, 2000, -1])
def test_any_flipped_bit_of_the_manifest_is_refused_with_its_name(tree, tmp_path, position):
    _pack(tree, tmp_path / "pack")
    _flip_a_bit(tmp_path / "pack" / "manifest.json", position)
    with pytest.raises(ValueError, match=r"manifest\.json(:| is damaged)"):
        open_pack(tmp_path / "pack")


def test_a_missing_or_truncated_shard_is_named_and_written_anew_alone(tree, tmp_path):
    _pack(tree, tmp_path / "pack")
    path = tmp_path / "pack" / "shard-00002.npy"
    content, inodes = path.read_bytes(), _inodes(tmp_path / "pack")
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"shard-00002\.npy is damaged: 1,891 bytes instead of 1,892"):
        open_pack(tmp_path / "pack")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00002\.npy is missing"):
        open_pack(tmp_path / "pack")
    _pack(tree, tmp_path / "pack")
    assert path.read_bytes() == content
    assert {name for name, inode in _inodes(tmp_path / "pack").items() if inode != inodes[name]} <= {path.name}
    assert len(open_pack(tmp_path / "pack")["train"]) == 24


def test_another_version_is_refused(tree, tmp_path):
    _pack(tree, tmp_path / "pack")
    path = tmp_path / "pack" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match=r"manifest\.json: pack format 2; this version reads format 1"):
        open_pack(tmp_path / "pack")


def test_checksums_are_read_again_only_when_a_file_was_touched(tree, tmp_path, monkeypatch):
    from ols.data.sources import pack as packed

    _pack(tree, tmp_path / "pack")
    read = []
    original = packed._verify_shard
    monkeypatch.setattr(packed, "_verify_shard", lambda path, shard: read.append(path.name) or original(path, shard))
    open_pack(tmp_path / "pack")
    assert read == []
    os.utime(tmp_path / "pack" / "shard-00001.npy")
    open_pack(tmp_path / "pack")
    open_pack(tmp_path / "pack")
    assert read == ["shard-00001.npy"]
    shutil.copytree(tmp_path / "pack", tmp_path / "copy")
    open_pack(tmp_path / "copy")
    assert len(read) == 8


def test_a_full_disk_is_refused_before_anything_is_written(tree, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    # 48 images of 14 x 18 or 14 x 14 pixels: 12 kB, and the manifest
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 9_000, 9_000))
    with pytest.raises(OSError, match=r"needs about 0\.00 GB; its disk has 0\.00 GB free"):
        _pack(tree, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()
    with pytest.raises(OSError, match=r"needs about 0\.05 GB; its disk has 0\.00 GB"):
        _pack(tree, tmp_path / "pack", size=1000, aspect="squash")
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 30_000, 30_000))
    _pack(tree, tmp_path / "pack")


def test_a_disk_that_fills_up_meanwhile_is_named(tree, tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    tree.write_csvs()
    sources, _ = open_sources(tree.root)
    monkeypatch.setattr(packing, "write_record", lambda path, record: path.write_text(json.dumps(record)))
    with pytest.raises(OSError, match=r"No space left on device: .*shard-00000\.npy"):
        write_pack(sources, tmp_path / "pack", size=14, shard_images=7)
    assert list((tmp_path / "pack").glob("*shard*")) == []


def test_an_unreadable_image_stops_or_is_left_out_and_listed(tree, tmp_path):
    tree.write_csvs()
    bad = [tree.rows["train"][index][0] for index in (0, 9)]
    for name in bad:
        (tree.root / name).write_bytes((tree.root / name).read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"RadiologyAI_train\.csv, line 2: cannot read .*train0\.png"):
        _pack(tree, tmp_path / "pack")
    manifest = _pack(tree, tmp_path / "other", unreadable="skip", workers=2)
    assert manifest["skipped"] == bad
    packs = open_pack(tmp_path / "other")
    assert [len(packs[split]) for split in SPLITS] == [22, 12, 12]
    kept = [(name, label) for name, label in tree.rows["train"] if name not in bad]
    train = packs["train"]
    assert [(train.sample_id(i), train.classes[train.targets[i]]) for i in range(22)] == kept
    for index, (name, _) in enumerate(kept):
        with Image.open(tree.root / name) as original:
            expected = np.asarray(original.convert("L").resize((18, 14), Image.Resampling.BILINEAR))
        assert np.array_equal(np.asarray(train.read(index)), expected)

    (tree.root / tree.rows["val"][3][0]).write_bytes(b"oops")
    with pytest.raises(ValueError, match=r"RadiologyAI_val\.csv, line 5: cannot read"):
        _pack(tree, tmp_path / "third", unreadable="skip")


def test_a_folder_with_something_else_is_left_alone(tree, tmp_path):
    _pack(tree, tmp_path / "pack")
    with pytest.raises(ValueError, match=r"holds another pack \(size 14, not 16\): choose another folder"):
        _pack(tree, tmp_path / "pack", size=16)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="is not empty, and holds no pack"):
        _pack(tree, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("stop", ["fsync", "replace", "write_record", "write_file", "verify_pack", "load_manifest"])
@pytest.mark.parametrize("at", [1, 4])
def test_a_pack_that_stopped_anywhere_is_refused_and_continues(tree, tmp_path, monkeypatch, stop, at):
    """`at` the so-manieth call: within a shard, between a shard and its record, before and after the manifest."""
    _pack(tree, tmp_path / "whole")

    class StoppedError(BaseException):
        pass

    owner = {"fsync": os, "replace": Path}.get(stop, packing)
    original, calls = getattr(owner, stop), []

    def stopping(*args, **options):
        calls.append(1)
        if len(calls) == at:
            raise StoppedError
        return original(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(owner, stop, stopping)
        try:
            _pack(tree, tmp_path / "pack")
        except StoppedError:
            if stop != "load_manifest":
                with pytest.raises(FileNotFoundError):
                    open_pack(tmp_path / "pack")
        else:
            assert stop in ("write_file", "verify_pack", "load_manifest")  # called once only
            assert at == 4
    finished = {path.stem for path in (tmp_path / "pack").glob("shard-*.json")}
    inodes = _inodes(tmp_path / "pack")
    _pack(tree, tmp_path / "pack")
    assert all(inodes[f"{name}.npy"] == _inodes(tmp_path / "pack")[f"{name}.npy"] for name in finished)
    for path in (tmp_path / "whole").glob("[!v]*"):
        assert (tmp_path / "pack" / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in (tmp_path / "pack").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def _inodes(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("shard-*.npy")}


def _children(pid):
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


@pytest.mark.slow
def test_kill_9_loses_at_most_the_shards_in_work(tmp_path):
    tree = fill(Tree(tmp_path / "set"), {"train": 150, "val": 5, "test": 5})
    tree.write_csvs()
    output = tmp_path / "pack"
    command = [sys.executable, PACK, "--data.root", tree.root, "--output", output, "--size", "14"]
    command += ["--shard_images", "8", "--workers", "2"]
    states, orphans = [{}], []
    for wanted in (1, 30):  # complete shards at which it is killed
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while len(list(output.glob("shard-*.json"))) < wanted:
            assert process.poll() is None
            time.sleep(0.002)
        orphans += _children(process.pid)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (output / "manifest.json").exists()
        with pytest.raises(FileNotFoundError, match=r"unfinished pack: pack again, and it continues"):
            open_sources(output)
        finished = {path.with_suffix(".npy").name for path in output.glob("shard-*.json")}
        states.append({name: inode for name, inode in _inodes(output).items() if name in finished})
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "600 train, 20 val, 20 test images in 80 files" in printed
    states.append(_inodes(output))
    assert len(states[1]) < len(states[2]) < len(states[3]) == 80
    for before, after in pairwise(states):
        assert before.items() <= after.items()  # not one of them was written again
    _pack(tree, tmp_path / "whole", shard_images=8)
    for name in ("manifest.json", *states[3]):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(orphans) == 4
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_recipe_verifies(tree, tmp_path, monkeypatch, capsys):
    _pack(tree, tmp_path / "pack")
    monkeypatch.setattr(sys, "argv", [str(PACK), "--output", str(tmp_path / "pack"), "--verify"])
    path = tmp_path / "pack" / "shard-00005.npy"
    _flip_a_bit(path, 500)
    stamp = json.loads((tmp_path / "pack" / "verified.json").read_text())
    status = path.stat()  # as when the disk itself corrupts a file
    stamp["files"][path.name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    (tmp_path / "pack" / "verified.json").write_text(json.dumps(stamp))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PACK), run_name="__main__")
    assert ended.value.code == 2
    assert "shard-00005.npy is damaged" in capsys.readouterr().err


def test_packs_of_other_pixels_sizes_or_aspects_have_another_content_and_copies_have_the_same(tree, tmp_path):
    said = {}
    for name, options in {"one": {}, "smaller": {"size": 12}, "padded": {"aspect": "longest"}}.items():
        _pack(tree, tmp_path / name, **options)
        said[name] = open_pack(tmp_path / name)["val"].content()
    image = tree.root / tree.rows["test"][0][0]
    Image.open(image).rotate(180).save(image)
    _pack(tree, tmp_path / "turned")
    said["turned"] = open_pack(tmp_path / "turned")["val"].content()
    assert len(set(said.values())) == 4
    assert said["smaller"].startswith("a pack of 12 px (shorter) with shards ")
    shutil.copytree(tmp_path / "one", tmp_path / "copy", copy_function=shutil.copy)
    assert open_pack(tmp_path / "copy")["val"].content() == said["one"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "files": [1]}', '{"format": 1, "files": null}']
)
def test_a_damaged_list_of_verified_files_costs_a_verification_and_no_more(tree, tmp_path, text):
    _pack(tree, tmp_path / "pack")
    stamp = tmp_path / "pack" / "verified.json"
    before = json.loads(stamp.read_text())
    stamp.write_text(text)
    open_pack(tmp_path / "pack")
    assert json.loads(stamp.read_text()) == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}"])
def test_a_damaged_entry_of_an_unfinished_pack_is_made_anew_and_a_damaged_plan_is_refused(tree, tmp_path, damage):
    _pack(tree, tmp_path / "pack")
    output = tmp_path / "pack"
    manifest = (output / "manifest.json").read_bytes()
    missing = output / "shard-00004.npy"
    missing.unlink()

    def no_writing(*_):
        raise OSError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_write_missing", no_writing)
        with pytest.raises(OSError, match="stopped"):
            _pack(tree, output)
    (output / "shard-00001.json").write_bytes(damage)
    plan = (output / "plan.json").read_bytes()
    (output / "plan.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"plan\.json is truncated or altered, so that .*: delete .*pack, pack again"):
        _pack(tree, output)
    (output / "plan.json").write_bytes(plan)
    _pack(tree, output)
    assert (output / "manifest.json").read_bytes() == manifest
    assert len(open_pack(output)["train"]) == 24
