import json
import resource
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ols.figures import reliability_diagram, soft_label_heatmap
from ols.runs.folder import RunFolder
from ols.tasks import build_task
from ols.tracking.tracker import Tracker

TASK = build_task("multiclass", ["a", "b", "c"], ["CT"] * 3)
ENVIRONMENT = {"command": ["pretrain.py", "--seed", "1 2"], "versions": {}}


def _tracker(folder, **options):
    usual = {"config": {"seed": 1}, "environment": ENVIRONMENT, "task": TASK, "enabled": True}
    return Tracker(RunFolder(folder), **{**usual, **options})


def _events(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def test_the_folder_says_how_the_run_was_made_before_the_first_record(tmp_path):
    tracker = _tracker(tmp_path / "run")
    tracker.start(images_seen=0)
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 1\n"
    assert (tmp_path / "run" / "command.txt").read_text() == "pretrain.py --seed '1 2'\n"
    assert json.loads((tmp_path / "run" / "environment.jsonl").read_text())["images_seen"] == 0
    tracker.close()


@pytest.mark.parametrize("set_back", [0, 1000, 100_000_000])
def test_a_continued_run_has_no_doubled_and_no_missing_points_whatever_the_clock_says(tmp_path, monkeypatch, set_back):
    clock = time.time

    def record(tag, images_seen, value):
        tracker.log({tag: value}, images_seen=images_seen, epoch=1)

    tracker = _tracker(tmp_path)
    tracker.start(images_seen=0)
    record("train/loss", 10, 0.1)
    record("train/loss", 20, float("nan"))
    place = tracker.flush()
    record("val/top1", 20, 0.5)  # at the same place, but after the checkpoint
    record("train/loss", 30, 0.3)
    tracker._writer.flush()  # and no close: the attempt is killed

    tracker = _tracker(tmp_path)
    monkeypatch.setattr(time, "time", lambda: clock() - set_back)  # or another machine's
    tracker.start(images_seen=20, metrics_bytes=place, purge_from=20)
    record("val/top1", 20, 0.6)
    place = tracker.flush()
    record("train/loss", 30, 0.4)
    tracker._writer.flush()

    tracker = _tracker(tmp_path)
    monkeypatch.setattr(time, "time", lambda: clock() - 2 * set_back)
    tracker.start(images_seen=20, metrics_bytes=place, purge_from=21)
    record("train/loss", 30, 0.5)
    tracker.close()

    expected = [("train/loss", 10, 0.1), ("train/loss", 20, None), ("val/top1", 20, 0.6), ("train/loss", 30, 0.5)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(tag, r["images_seen"], r[tag]) for r in lines for tag in r if "/" in tag] == expected
    events = _events(tmp_path)
    train = [(scalar.step, pytest.approx(scalar.value, nan_ok=True)) for scalar in events.Scalars("train/loss")]
    assert train == [(10, 0.1), (20, float("nan")), (30, 0.5)]
    assert [(scalar.step, pytest.approx(scalar.value)) for scalar in events.Scalars("val/top1")] == [(20, 0.6)]


def test_an_attempt_that_left_no_checkpoint_leaves_no_points(tmp_path):
    for value in (0.1, 0.2):
        tracker = _tracker(tmp_path)
        tracker.start(images_seen=0)
        tracker.log({"train/loss": value}, images_seen=5, epoch=0)
        tracker.close()
    assert [pytest.approx(scalar.value) for scalar in _events(tmp_path).Scalars("train/loss")] == [0.2]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_metrics_are_json_even_where_they_are_not_numbers(tmp_path):
    tracker = _tracker(tmp_path)
    tracker.start(images_seen=0)
    tracker.log({"a": float("nan"), "b": 1.0}, images_seen=1, epoch=1)
    tracker.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (record["a"], record["b"], record["format"]) == (None, 1.0, 1)


def test_a_full_disk_is_a_message_that_names_the_file(tmp_path):
    tracker = _tracker(tmp_path)
    tracker.start(images_seen=0)
    tracker.flush()  # TensorBoard writes in a thread of its own
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write: File too large: .*metrics\.jsonl"):
            tracker.log({"a": 1.0}, images_seen=1, epoch=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    tracker.close()


def test_other_processes_write_nothing(tmp_path):
    tracker = _tracker(tmp_path / "run", enabled=False)
    tracker.start(images_seen=0)
    tracker.log({"a": 1.0}, images_seen=1, epoch=1)
    tracker.close()
    assert not (tmp_path / "run").exists()


def test_figures_show_what_they_are_given(tmp_path):
    reliability = torch.full((15, 3), torch.nan, dtype=torch.float64)
    reliability[:, 0] = 0
    reliability[14] = torch.tensor([40.0, 0.98, 0.7], dtype=torch.float64)
    diagram = reliability_diagram(reliability, title="val")
    upper, lower = diagram.axes
    accuracy = [bar.get_height() for bar in upper.containers[0]]
    gaps = [(bar.get_y(), bar.get_height()) for bar in upper.containers[1]]
    assert accuracy == pytest.approx([0] * 14 + [0.7])
    assert gaps[14] == pytest.approx((0.7, 0.28))
    assert [bar.get_height() for bar in lower.containers[0]] == [0] * 14 + [40]

    soft_labels = torch.tensor([[0.8, 0.1, 0.1], [0.0, 1.0, 0.0], [0.3, 0.0, 0.7]])
    heatmap = soft_label_heatmap(soft_labels, ["c", "b", "a"], ["MR", "CT", "CT"], title="epoch 1")
    axes = heatmap.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]  # by group, then by name
    drawn = 10 ** axes.images[0].get_array()
    assert drawn[2].tolist() == pytest.approx([0.1, 0.1, 0.8], rel=1e-4)
    assert drawn[1].tolist() == pytest.approx([1e-6, 1, 1e-6], rel=1e-4)

    tracker = _tracker(tmp_path)
    tracker.start(images_seen=0)
    tracker.log_figure("val/reliability", diagram, images_seen=5)
    tracker.log_figure("soft_labels/matrix", heatmap, images_seen=5)
    tracker.close()
    assert _events(tmp_path).Tags()["images"] == ["val/reliability", "soft_labels/matrix"]


@pytest.mark.parametrize(("damage", "kept"), [(lambda b: b[:-30], 1), (lambda b: b"", 0), (lambda b: b"\xff" + b, 0)])
def test_damaged_metrics_are_set_aside_with_a_warning_and_what_is_intact_is_kept(tmp_path, damage, kept):
    tracker = _tracker(tmp_path)
    tracker.start(images_seen=0)
    for images_seen in (5, 10):
        tracker.log({"train/loss": 0.5}, images_seen=images_seen, epoch=0)
    place = tracker.flush()
    tracker.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(damaged := damage(path.read_bytes()))
    tracker = _tracker(tmp_path)
    with pytest.warns(UserWarning, match=rf"metrics\.jsonl was truncated or altered: its first {kept} records"):
        tracker.start(images_seen=10, metrics_bytes=place, purge_from=11)
    tracker.log({"train/loss": 0.25}, images_seen=15, epoch=0)
    tracker.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["images_seen"] for record in records] == [*[5, 10][:kept], 15]
    assert (tmp_path / "damaged-metrics.jsonl").read_bytes() == damaged
