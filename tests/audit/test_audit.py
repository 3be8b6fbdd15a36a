import hashlib
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from ols.audit import audit, near
from ols.audit.clean import write_cleaned
from ols.audit.page import EXAMPLES, write_page
from ols.data.sources.radimagenet import RadImageNet

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "audit.py"
RADIOLOGY13 = ROOT.parent / "shared" / "data" / "radiology13"
SIDE = 96


def _picture(seed: int) -> np.ndarray:
    """Ellipses of random place, size and brightness over a smooth ground, uint8 [SIDE, SIDE]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    image = 60 + 40 * rng.random() * x
    for _ in range(12):
        centre, size, level = rng.random(2), rng.uniform(0.05, 0.3, 2), rng.uniform(-90, 110)
        image = image + level * (((x - centre[0]) / size[0]) ** 2 + ((y - centre[1]) / size[1]) ** 2 < 1)
    return image.clip(0, 255).astype(np.uint8)


class Set:
    """A data set without fault, to plant faults in: two classes in three splits, a different picture each."""

    def __init__(self, tree):
        self.root, self.rows = tree.root, tree.rows
        self._tree = tree
        for number, (split, count) in enumerate({"train": 8, "val": 4, "test": 4}.items()):
            for i in range(count):
                self.add(split, f"{split}{i}.png", f"ct-{'ab'[i % 2]}", _picture(100 * number + i))

    def add(self, split: str, name: str, label: str, pixels: np.ndarray | None, **options) -> str:
        filename = f"radiology_ai/CT/chest/{label}/{name}"
        path = self.root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is not None:
            Image.fromarray(pixels).save(path, **options)
        self.rows[split].append((filename, label))
        return filename

    def audit(self):
        self._tree.write_csvs()
        return audit(self.root, log=self.root.parent / "scan.jsonl", workers=1)

    def findings(self) -> dict[str, list[set[tuple]]]:
        """Split and base name of every row, of every occurrence of every finding but notes."""
        return {
            f.kind: [
                {(row.get("split"), row["filename"].rpartition("/")[2]) for row in item["rows"]} for item in f.items
            ]
            for f in self.audit().findings
            if f.severity != "note"
        }


@pytest.fixture
def clean(tmp_path) -> Set:
    from conftest import Tree

    return Set(Tree(tmp_path / "set"))


def test_a_set_without_fault_has_none(clean):
    found = clean.audit()
    assert [finding.kind for finding in found.findings] == ["patients"]
    assert not found.leaks
    assert found.opened == 16


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
def test_a_png_cut_off_anywhere_is_truncated(clean, share):
    path = clean.root / clean.add("train", "cut.png", "ct-a", None)
    content = _png(_picture(5001))
    path.write_bytes(content[: max(8, int(share * len(content)))])
    assert clean.findings() == {"truncated": [{("train", "cut.png")}]}


def test_a_cut_off_jpeg_text_an_empty_file_and_a_flipped_byte_are_told_apart(clean):
    buffer = io.BytesIO()
    Image.fromarray(_picture(2)).save(buffer, "JPEG")
    damaged = bytearray(_png(_picture(3)))
    damaged[len(damaged) // 2] ^= 1
    contents = {
        "cut.jpg": buffer.getvalue()[:-300],
        "text.png": b"not an image",
        "empty.png": b"",
        "flipped.png": bytes(damaged),
    }
    for name, content in contents.items():
        (clean.root / clean.add("val", name, "ct-a", None)).write_bytes(content)
    assert clean.findings() == {
        "truncated": [{("val", "cut.jpg")}],
        "unreadable": [{("val", "text.png")}, {("val", "empty.png")}, {("val", "flipped.png")}],
    }


def test_missing_files_odd_modes_sizes_and_blanks_are_named(clean):
    clean.add("test", "gone.png", "ct-a", None)
    clean.add("train", "deep.png", "ct-a", np.full((SIDE, SIDE), 40_000, np.uint16))
    for split in ("train", "val"):  # in two splits, and yet no leak
        clean.add(split, f"black_{split}.png", "ct-b", np.zeros((SIDE, SIDE), np.uint8))
    clean.add("train", "alpha.png", "ct-b", np.dstack([_picture(5004)] * 4))
    clean.add("train", "small.png", "ct-b", _picture(5005)[:50, :40])
    assert clean.findings() == {
        "missing": [{("test", "gone.png")}],
        "refused": [{("train", "deep.png")}],
        "blank": [{("train", "black_train.png")}, {("val", "black_val.png")}],
        "odd_mode": [{("train", "alpha.png")}],
    }
    (size,) = [finding for finding in clean.audit().findings if finding.kind == "odd_size"]
    assert (size.count, size.items[0]["note"]) == (1, "40 x 50")


def test_the_same_pixels_are_one_picture_whatever_the_name_the_format_and_the_channels(clean):
    pixels = _picture(5006)
    clean.add("train", "a.png", "ct-a", pixels)
    clean.add("test", "b.png", "ct-a", pixels, compress_level=1)
    clean.add("val", "c.bmp", "ct-a", np.dstack([pixels] * 3))
    clean.add("train", "d.tif", "ct-a", pixels)
    assert clean.findings() == {
        "picture_across_splits": [{("train", "a.png"), ("test", "b.png"), ("val", "c.bmp"), ("train", "d.tif")}],
        "picture_repeated": [{("train", "a.png"), ("train", "d.tif")}],
    }
    assert [f.items[0]["note"] for f in clean.audit().findings[:2]] == ["other bytes, the same pixels"] * 2
    assert clean.audit().leaks


def _jpeg(pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


ALTERATIONS = {
    "noise": lambda p: (p + np.random.default_rng(0).normal(0, 5, p.shape)).clip(0, 255).astype(np.uint8),
    "brightness": lambda p: (0.8 * p + 30).astype(np.uint8),
    "shift": lambda p: np.pad(p, 1, mode="edge")[:SIDE, 1:-1],
    "compression": _jpeg,
    "size": lambda p: np.asarray(Image.fromarray(p).resize((72, 72))),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_a_slightly_altered_copy_in_another_split_is_a_near_duplicate(clean, alteration):
    for seed in range(5):
        clean.add("train", f"original{seed}.png", "ct-a", _picture(1000 + seed))
        clean.add("test", f"altered{seed}.png", "ct-a", ALTERATIONS[alteration](_picture(1000 + seed)))
    found = clean.findings()
    assert set(found) == {"near_across_splits"}
    pairs = [{("train", f"original{seed}.png"), ("test", f"altered{seed}.png")} for seed in range(5)]
    assert sorted(map(sorted, found["near_across_splits"])) == sorted(map(sorted, pairs))


def test_an_altered_copy_in_the_same_split_is_no_leak(clean):
    clean.add("train", "original.png", "ct-a", _picture(1000))
    clean.add("train", "altered.png", "ct-a", ALTERATIONS["brightness"](_picture(1000)))
    assert clean.findings() == {}


def test_hash_pairs_are_those_of_comparing_all_with_all():
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2**64, 20, np.uint64)
    flips = np.array(
        [sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 8), False)) for _ in range(600)], np.uint64
    )
    hashes = centres[rng.integers(0, 20, 600)] ^ flips
    queries = np.flatnonzero(rng.random(600) < 0.4)
    found = [pair for i, j in near.hash_pairs(hashes, queries) for pair in zip(i.tolist(), j.tolist(), strict=True)]
    bits = np.unpackbits(hashes[:, None].view(np.uint8), axis=1)
    images = [imagehash.ImageHash(row.astype(bool).reshape(8, 8)) for row in bits]
    expected = {(i, j) for i in queries.tolist() for j in range(600) if i != j and images[i] - images[j] <= near.RADIUS}
    assert len(found) == len(set(found)), "a pair came twice"
    assert set(found) == expected
    distances = {images[i] - images[j] for i, j in expected}
    assert distances == set(range(9))


def test_chunks_of_the_search_lose_no_pair(monkeypatch):
    hashes = np.random.default_rng(1).integers(0, 2**10, 300, np.uint64)
    queries = np.arange(300)

    def pairs():
        return {pair for i, j in near.hash_pairs(hashes, queries) for pair in zip(i, j, strict=True)}

    whole = pairs()
    monkeypatch.setattr(near, "PAIRS_AT_ONCE", 7)
    assert pairs() == whole
    assert len(whole) > 1000


def test_contradicting_labels_duplicate_rows_and_unusable_rows_are_named(clean):
    filename, _ = clean.rows["train"][0]
    clean.rows["train"] += [(filename, "ct-b"), clean.rows["train"][2], ("radiology_ai/x.png", ""), ("", "ct-a")]
    clean.add("train", "copy.png", "ct-b", _picture(2))  # train2.png is ct-a
    found = clean.findings()
    assert found.pop("file_under_labels") == [{("train", "train0.png")}]
    assert found.pop("picture_under_labels") == [{("train", "train2.png"), ("train", "copy.png")}]
    assert found.pop("duplicate_rows") == [{("train", "train2.png")}]
    assert found.pop("picture_repeated") == [{("train", "train2.png"), ("train", "copy.png")}]
    assert found.pop("unusable_rows") == [set(), set()]
    assert found.pop("label_unlike_folder") == [{("train", "train0.png")}]
    assert found == {}


def test_labels_absent_from_a_split_or_from_training_are_named(clean):
    clean.rows["test"] = [row for row in clean.rows["test"] if row[1] == "ct-a"]
    clean.rows["val"][0] = (clean.rows["val"][0][0], "ct_a")
    found = {finding.kind: finding for finding in clean.audit().findings}
    assert [item["note"] for item in found["absent_labels"].items] == ["'ct-b': not in test"]
    assert found["unknown_labels"].items[0]["note"] == "'ct_a': 1 row"
    assert found["unknown_labels"].items[0]["rows"][0]["line"] == 2


def test_a_label_unlike_those_of_its_folder_is_suspected(clean):
    for i in range(12):
        clean.add("train", f"more{i}.png", "ct-a", _picture(2000 + i))
    clean.rows["train"][4] = (clean.rows["train"][4][0], "ct-b")
    assert clean.findings() == {"label_unlike_folder": [{("train", "train4.png")}]}


def test_a_missing_csv_is_a_finding_and_a_missing_tree_an_error(clean, tmp_path):
    clean.audit()
    (clean.root / "RadiologyAI_val.csv").unlink()
    found = audit(clean.root, log=tmp_path / "scan.jsonl", workers=1)
    (unusable,) = [finding for finding in found.findings if finding.kind == "unusable_rows"]
    assert "no such CSV file" in unusable.items[0]["note"]
    with pytest.raises(FileNotFoundError, match="is no data set"):
        audit(tmp_path, log=tmp_path / "other.jsonl")
    for split in ("train", "test"):
        (clean.root / f"RadiologyAI_{split}.csv").write_text("filename,label\n")
    with pytest.raises(ValueError, match="have no usable row"):
        audit(clean.root, log=tmp_path / "other.jsonl")


def test_pixel_statistics_are_those_of_all_pixels_together(clean):
    names = [clean.add("train", f"{i}.png", "ct-a", _picture(3000 + i)[: 20 + i]) for i in range(5)]
    clean.add("train", "blank.png", "ct-a", np.full((9, 9), 255, np.uint8))
    statistics = clean.audit().pixel_statistics()
    named = {name for rows in clean.rows.values() for name, _ in rows}
    pixels = np.concatenate([np.asarray(Image.open(clean.root / name)).ravel() for name in named]) / 255
    assert set(names) < named
    assert [row["modality"] for row in statistics] == ["CT"]
    assert statistics[0]["images"] == len(named)
    expected = (pixels.mean(), pixels.std(), pixels.min(), pixels.max())
    assert tuple(statistics[0][key] for key in ("mean", "std", "min", "max")) == pytest.approx(expected, rel=1e-9)


def test_a_second_audit_opens_only_what_has_changed_and_a_torn_line_is_survived(clean):
    assert clean.audit().opened == 16
    log = clean.root.parent / "scan.jsonl"
    assert clean.audit().opened == 0
    path = clean.root / clean.rows["train"][3][0]
    path.write_bytes(path.read_bytes()[:100])
    assert clean.audit().opened == 1
    assert set(clean.findings()) == {"truncated"}
    content = log.read_bytes()
    log.write_bytes(content[:-40])
    again = clean.audit()
    assert again.opened == 1
    assert [f.kind for f in again.findings] == ["truncated", "patients"]
    assert log.read_bytes() == content


def test_copies_of_an_image_that_is_not_8_bit_are_found_by_their_bytes(clean):
    for split in ("train", "test"):
        clean.add(split, f"deep_{split}.png", "ct-a", np.full((SIDE, SIDE), 40_000, np.uint16))
    for split in ("train", "val"):  # two empty files are not one picture
        (clean.root / clean.add(split, f"empty_{split}.png", "ct-a", None)).write_bytes(b"")
    found = clean.findings()
    assert found["picture_across_splits"] == [{("train", "deep_train.png"), ("test", "deep_test.png")}]
    assert set(found) == {"picture_across_splits", "refused", "unreadable"}


def test_without_imagehash_the_message_says_how_to_install_it(clean, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(ImportError, match=r"pip install 'online-label-smoothing\[audit\]'"):
        clean.audit()


def test_the_log_of_another_set_is_not_believed(clean, tmp_path):
    clean.audit()
    log = tmp_path / "scan.jsonl"
    lines = log.read_text().splitlines()
    header = json.loads(lines[0]) | {"root": "/another"}
    log.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    assert clean.audit().opened == 16


@pytest.fixture
def recipe(monkeypatch, capsys):
    """Run the recipe in this process, and return its status and what it printed to both streams."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(RECIPE), *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(RECIPE), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return run


def _listing(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_fix_writes_three_csvs_that_load_and_do_not_leak_and_touches_nothing_else(clean, recipe, tmp_path):
    shared = _picture(4000)
    clean.add("train", "in_train.png", "ct-a", shared)
    clean.add("val", "in_val.png", "ct-a", shared)
    clean.add("test", "in_test.png", "ct-a", shared)
    clean.add("val", "near_val.png", "ct-b", _picture(4001))
    clean.add("train", "near_train.png", "ct-b", ALTERATIONS["noise"](_picture(4001)))
    clean.add("train", "one.png", "ct-a", _picture(4002))
    clean.add("test", "other.png", "ct-b", _picture(4002))
    clean.add("train", "gone.png", "ct-a", None)
    clean.add("test", "odd.png", "ct-odd", _picture(4003))
    clean.rows["train"] += [clean.rows["train"][1], ("", "ct-a")]
    clean._tree.write_csvs(newline="\r\n", encoding="utf-8-sig")
    before = _listing(clean.root)

    arguments = ("--data.root", clean.root, "--report", tmp_path / "r" / "audit.html", "--workers", 1)
    status, printed, errors = recipe(*arguments, "--fix")
    assert status == 1, printed + errors
    after = _listing(clean.root)
    new = {f"cleaned/RadiologyAI_{split}.csv" for split in ("train", "val", "test")}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == new
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["audit.html", "audit.json", "audit.scan.jsonl"]
    dropped = set(re.findall(r"dropped +(\w+) +(\d+)  (.*)", printed))
    assert dropped == {
        ("train", "1", "same picture, kept in test"),
        ("val", "1", "same picture, kept in test"),
        ("train", "1", "near-duplicate, kept in val"),
        ("train", "1", "several labels"),
        ("test", "1", "several labels"),
        ("train", "1", "file missing"),
        ("test", "1", "label not in training"),
        ("train", "1", "duplicate row, kept in this split"),
        ("train", "1", "filename or label is empty"),
    }

    kept = {split: [Path(row[0]).name for row in rows] for split, rows in clean.rows.items()}
    expected = {
        "train": [f"train{i}.png" for i in range(8)],
        "val": [*kept["val"][:4], "near_val.png"],
        "test": [*kept["test"][:4], "in_test.png"],
    }
    for split, names in expected.items():
        data = RadImageNet(clean.root, split, splits=clean.root / "cleaned")
        assert [Path(data.sample_id(i)).name for i in range(len(data))] == names
    status, printed, errors = recipe(*arguments, "--data.splits", clean.root / "cleaned")
    assert status == 0, printed + errors
    assert "0 were opened now" in printed


def test_a_split_of_which_nothing_would_be_left_is_not_written(clean):
    for name, _ in clean.rows["val"]:
        (clean.root / name).unlink()
    found = clean.audit()
    with pytest.raises(ValueError, match=r"nothing would be left of val: .*file missing"):
        write_cleaned(found)
    assert not (clean.root / "cleaned").exists()


def test_a_command_that_cannot_be_carried_out_exits_with_2(recipe, tmp_path):
    status, _, errors = recipe("--data.root", tmp_path / "nowhere", "--report", tmp_path / "audit.html")
    assert status == 2
    assert "is no data set" in errors
    status, printed, _ = recipe("--help")
    assert status == 0
    assert "1 when splits leak" in printed


def test_a_scan_that_is_killed_leaves_no_process_and_is_continued(clean, tmp_path):
    for i in range(600):
        clean.add("train", f"more{i}.png", "ct-a", np.random.default_rng(i).integers(0, 256, (200, 200), np.uint8))
    clean._tree.write_csvs()
    log = tmp_path / "audit.scan.jsonl"
    command = [sys.executable, RECIPE, "--data.root", clean.root, "--report", tmp_path / "audit.html", "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (log.exists() and log.read_bytes().count(b"\n") > 64):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()  # the workers get no signal
    process.wait()
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("workers outlived the scan")
        time.sleep(0.1)
    finished = log.read_bytes().count(b"\n") - 1
    assert 64 <= finished < 616
    found = audit(clean.root, log=log, workers=1)
    assert found.opened == 616 - finished
    assert [finding.kind for finding in found.findings if finding.severity != "note"] == []


def test_the_page_stands_alone_and_the_json_is_complete(clean, tmp_path):
    clean.add("val", "<script>alert(1)</script>&.png", "ct-b", _picture(1))  # a copy of train1.png
    for i in range(1000):
        clean.rows["train"].append((f"radiology_ai/CT/chest/ct-a/gone{i}.png", "ct-a"))
    found = clean.audit()
    data = write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("gone") < 5 * EXAMPLES
    assert "The splits leak." in page
    assert "1,000" in page
    summary = json.loads(data.read_text())
    by_kind = {finding["kind"]: finding for finding in summary["findings"]}
    assert summary["format"] == 1
    assert summary["leaks"] is True
    assert len(by_kind["missing"]["occurrences"]) == by_kind["missing"]["count"] == 1000
    assert summary["splits"]["train"] == {
        "rows": 1008,
        "classes": 2,
        "smallest": 4,
        "largest": 1004,
        "imbalance": 251.0,
    }
    assert len(page) < 200_000


def test_no_pair_of_thumbnails_is_compared_without_an_error():
    nobody = np.empty(0, np.int64)
    assert near.alike(np.zeros((5, 256), np.uint8), nobody, nobody).tolist() == []


@pytest.mark.slow
@pytest.mark.skipif(not RADIOLOGY13.is_dir(), reason=f"no {RADIOLOGY13}: the faults above are planted in drawn images")
def test_real_images_have_no_exact_leak_and_known_near_copies(tmp_path):
    found = audit(RADIOLOGY13, log=tmp_path / "scan.jsonl")
    kinds = {finding.kind: finding for finding in found.findings}
    assert {f.kind for f in found.findings if f.severity in ("leak", "error", "warning")} == {"near_across_splits"}
    labels = {row["label"] for item in kinds["near_across_splits"].items for row in item["rows"]}
    assert "brain-notumor" in labels
    assert "hand-xr" not in labels, "hands of different people are not copies"


def test_spaces_around_a_label_are_an_error_that_shows_them_and_fix_removes_them(clean):
    name, label = clean.rows["train"][0]
    clean.rows["train"][0] = (name, f"{label} ")
    found = {finding.kind: finding for finding in clean.audit().findings}
    assert found["spaces"].severity == "error"
    assert [item["note"] for item in found["spaces"].items] == [f"RadiologyAI_train.csv, line 2: label '{label} '"]
    folder, _ = write_cleaned(clean.audit())
    assert f"{label} " not in (folder / "RadiologyAI_train.csv").read_text()
    assert len(RadImageNet(clean.root, "train", splits=folder).classes) == 2


def test_names_that_leave_the_data_set_and_what_is_no_file_are_findings(clean):
    pipe = clean.add("train", "pipe.png", "ct-a", None)
    os.mkfifo(clean.root / pipe)
    clean.rows["train"].append(("../elsewhere.png", "ct-a"))
    found = {finding.kind: finding for finding in clean.audit().findings}
    assert [item["note"] for item in found["unreadable"].items] == ["not a regular file"]
    assert "'../elsewhere.png' leads out of the data set" in found["unusable_rows"].items[0]["note"]


def test_class_folders_and_medmnist_files_are_audited_as_they_are_trained_on(tmp_path):
    images = {
        split: np.stack([_picture(10 * i + j) for j in range(4)]) for i, split in enumerate(("train", "val", "test"))
    }
    images["test"][3] = images["train"][1]
    arrays = {f"{split}_images": stack for split, stack in images.items()}
    np.savez(tmp_path / "set.npz", **arrays, **{f"{split}_labels": np.array([0, 1, 0, 1]) for split in images})
    for split, stack in images.items():
        for number, pixels in enumerate(stack):
            path = tmp_path / "folders" / split / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    for name in ("set.npz", "folders"):
        found = audit(tmp_path / name, log=tmp_path / f"{name}.jsonl", workers=1)
        (leak,) = [finding for finding in found.findings if finding.severity == "leak"]
        assert (leak.kind, leak.count) == ("picture_across_splits", 1)
        assert sum(row["train"] for row in found.class_counts()) == 4
        write_page(found, tmp_path / f"{name}.html")
        with pytest.raises(ValueError, match="has no CSVs to clean"):
            write_cleaned(found)


def test_near_copies_under_two_labels_are_found_within_a_split_too(clean):
    picture = _picture(4242)
    brighter = (picture * 0.8 + 20).astype(np.uint8)
    clean.add("train", "one.png", "ct-a", picture)
    clean.add("train", "other.png", "ct-b", brighter)
    clean.add("train", "same_label.png", "ct-a", (picture * 0.9).astype(np.uint8))
    found = {finding.kind: finding for finding in clean.audit().findings}
    named = [{row["filename"].rsplit("/", 1)[1] for row in item["rows"]} for item in found["near_under_labels"].items]
    assert all("other.png" in pair for pair in named)
    assert {"one.png", "other.png"} in named
    assert "near_across_splits" not in found


def test_images_that_exif_turns_are_counted_and_compared_as_they_are_shown(clean):
    picture = Image.fromarray(_picture(77)[:60])
    exif = Image.Exif()
    exif[0x0112] = 3  # by half a turn
    clean.add("train", "plain.png", "ct-a", np.asarray(picture))
    name = clean.add("val", "turned.png", "ct-a", None)
    picture.rotate(180).save(clean.root / name, exif=exif)
    found = {finding.kind: finding for finding in clean.audit().findings}
    assert [item["rows"][0]["filename"] for item in found["turned"].items] == [name]
    assert found["picture_across_splits"].count == 1


def test_hidden_files_are_no_forgotten_images(clean):
    (clean.root / "radiology_ai" / "CT" / "chest" / "ct-a" / "._train0.png").write_bytes(b"what macOS leaves")
    assert "unnamed" not in {finding.kind for finding in clean.audit().findings}
