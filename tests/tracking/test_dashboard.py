"""What TensorBoard itself answers about runs that the tracker wrote, one of them interrupted and continued."""

import json
import re
import shlex
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from html.parser import HTMLParser
from multiprocessing import get_context
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from werkzeug.test import Client

from ols.runs.folder import RunFolder
from ols.tasks import build_task
from ols.tracking.dashboard import comparison_url, confusion_table, write_comparison_page, write_perfect
from ols.tracking.tracker import Tracker

# TensorBoard's own, of packages that it carries along
pytestmark = pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")

CLASSES, GROUPS = ["stone", "normal | none", "cyst"], ["CT abd", "CT abd", "US\tkidney"]
TASK = build_task("multiclass", CLASSES, GROUPS)
BINARY = build_task("binary", ["benign", "malignant"], ["CT"] * 2)
CURVE = "calibration/val (x: mean confidence, y: accuracy)"


def _config(loss: dict, seed: int) -> dict:
    return {
        "seed": seed,
        "loss": loss,
        "model": {"name": "test_resnet"},
        "optim": {"name": "sgd", "peak_lr": 0.5},
        "train": {"global_batch_size": 8, "epochs": 2, "precision": "float32", "ema_decay": None},
    }


def _reliability(shift: float) -> torch.Tensor:
    table = torch.full((15, 3), torch.nan, dtype=torch.float64)
    table[:, 0] = 0
    for row, count in ((4, 10), (9, 20), (14, 40)):  # with empty bins below, between and none above
        table[row] = torch.tensor([count, (row + 0.5) / 15, (row + 0.5) / 15 - shift], dtype=torch.float64)
    table[9, 2] = 0.5
    return table


def _write(folder, config, *, start: int, epochs: range, end: bool, metrics_bytes: int = 0) -> list[int]:
    environment = {"command": ["pretrain.py"]}
    tracker = Tracker(RunFolder(folder), config=config, environment=environment, task=TASK, enabled=True)
    tracker.start(images_seen=start, metrics_bytes=metrics_bytes, purge_from=start and start + 1)
    flushed = []
    for epoch in epochs:
        at = {"images_seen": 100 * epoch}
        values = {"ece": 0.1 * epoch, "ece_low": 0.05 * epoch, "ece_high": 0.2 * epoch, "top1": 0.5}
        tracker.log({f"val/{key}": value for key, value in values.items()}, epoch=epoch, **at)
        tracker.log_reliability("val", _reliability(0.1 * epoch), **at)
        confusion = torch.tensor([[7, 3, 0, 0], [1, 8, 0, 0], [0, 5, 4, 1]])
        tracker.log_confusion("val/most_confused", confusion, CLASSES, GROUPS, **at)
        flushed.append(tracker.flush())
    if end:
        test = {"test/top1": 0.75, "test/ece": 0.25, "test/count": 70.0}
        tracker.log(test, images_seen=200, epoch=2)
        tracker.log_reliability("test", _reliability(0.2), images_seen=200)
        soft = torch.eye(3) if config["loss"]["name"] == "ols" else None
        tracker.log_end(test, epoch=2, soft_labels=soft, classes=CLASSES, groups=GROUPS)
    flushed.append(tracker.flush())
    tracker.close()
    time.sleep(1)  # event files are read in the order of their names, which begin with the second they were opened in
    return flushed


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    ols = _config({"name": "ols", "hard_weight": 0.25}, seed=0)
    run = folder / "ols-seed0"
    first, *_ = _write(run, ols, start=0, epochs=range(1, 4), end=False)  # killed in a third epoch, and
    *_, last = _write(run, ols, start=100, epochs=range(2, 3), end=True, metrics_bytes=first)  # continued after one
    _write(run, ols, start=200, epochs=range(0), end=False, metrics_bytes=last)  # and typed again
    hard = _config({"name": "hard"}, seed=1)
    _write(folder / "hard-seed1", hard, start=0, epochs=range(1, 3), end=True)
    return folder


@pytest.fixture(scope="module")
def board(log_dir):
    """A function from a path below /data and a query to what TensorBoard answers."""
    board = program.TensorBoard(server_class=lambda application, flags: application)
    read_once = ["--load_fast=false", "--reload_task=blocking", "--reload_interval=0"]
    board.configure(argv=["tensorboard", "--logdir", str(log_dir), *read_once])
    client = Client(board._make_server())

    def get(path, *, post=None, **query):
        answer = client.open(f"/data/{path}", query_string=query, json=post, method="POST" if post else "GET")
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return answer.json

    return get


def test_there_are_no_runs_but_the_folders_and_the_diagonal(board):
    assert sorted(board("runs")) == ["hard-seed1", "ols-seed0", "perfect"]


def test_all_runs_have_their_reliability_in_one_chart_with_a_step_per_epoch(board):
    tags = board("plugin/pr_curves/tags")
    assert {run for run, names in tags.items() if CURVE in names} == {"hard-seed1", "ols-seed0", "perfect"}
    # The page takes the steps of a run's slider from its first tag alone: that must be the one of every epoch.
    assert sorted(tags["hard-seed1"]) == [CURVE, "final calibration/test (x: mean confidence, y: accuracy)"]
    assert tags["perfect"].keys() == tags["hard-seed1"].keys()
    (diagonal,) = board("plugin/pr_curves/pr_curves", tag=CURVE, run="perfect")["perfect"]
    assert (diagonal["recall"], diagonal["precision"]) == ([1, 0], [1, 0])
    for run in ("hard-seed1", "ols-seed0"):  # the second was interrupted
        curves = board("plugin/pr_curves/pr_curves", tag=CURVE, run=run)[run]
        assert [curve["step"] for curve in curves] == [100, 200]
        assert curves[1]["recall"] == pytest.approx([14.5 / 15, 9.5 / 15, 4.5 / 15])  # no empty bin
        assert curves[1]["precision"] == pytest.approx([14.5 / 15 - 0.2, 0.5, 0.1])
        assert curves[1]["true_positives"] == [31, 10, 1]  # 30.67 of 40, 10 of 20, 1 of 10
        assert curves[1]["false_positives"] == [9, 10, 9]


def test_a_split_without_a_sample_has_no_curve(tmp_path):
    tracker = Tracker(RunFolder(tmp_path / "run"), config={}, environment={"command": []}, task=TASK, enabled=True)
    tracker.start(images_seen=0)
    tracker.log_reliability("val", torch.tensor([[0, torch.nan, torch.nan]] * 15), images_seen=1)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [tag for tag in events.Tags()["tensors"] if "calibration" in tag] == []


def test_runs_that_start_together_write_one_diagonal(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write_perfect(tmp_path, "val"), range(8)))
    assert len(list(tmp_path.glob("perfect/events.*"))) == 1
    events = EventAccumulator(str(tmp_path / "perfect")).Reload()
    assert len(events.Tensors(CURVE)) == 1


def test_the_calibration_error_has_a_margin_chart_and_its_parts_are_not_smoothed(board):
    (category,) = board("plugin/custom_scalars/layout")["category"]
    charts = {chart["title"]: chart for chart in category["chart"]}
    (series,) = charts["val: ECE with its 95 % interval"]["margin"]["series"]
    assert series == {"value": "val/ece", "lower": "val/ece_low", "upper": "val/ece_high"}
    (part,) = charts["val: overconfidence"]["margin"]["series"]
    assert set(part.values()) == {"val/overconfidence"}
    assert set(charts) == {"val: ECE with its 95 % interval", "val: overconfidence", "val: underconfidence"}
    for tag in series.values():
        points = board("plugin/scalars/scalars", tag=tag, run="ols-seed0")
        assert [step for _, step, _ in points] == [100, 200]


def test_hyperparameters_come_with_final_metrics_and_one_session_a_run(board):
    experiment = board("plugin/hparams/experiment", post={"experimentName": ""})
    columns = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert columns["loss"] == columns["loss_options"] == columns["seed"] == "DATA_TYPE_STRING"
    assert columns["peak_lr"] == columns["epochs"] == "DATA_TYPE_FLOAT64"
    metrics = [info["name"] for info in experiment["metricInfos"]]
    assert sorted(name["tag"] for name in metrics) == ["test/ece", "test/top1"]
    request = {
        "experimentName": "",
        "startIndex": 0,
        "sliceSize": 10,
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": name} for name in metrics],
    }
    groups = board("plugin/hparams/session_groups", post=request)["sessionGroups"]
    sessions = {session["name"]: (group, session) for group in groups for session in group["sessions"]}
    assert sorted(sessions) == ["hard-seed1", "ols-seed0"]
    assert [len(group["sessions"]) for group in groups] == [1, 1]
    group, session = sessions["ols-seed0"]
    assert group["hparams"]["loss"] == "ols"
    assert group["hparams"]["loss_options"] == "hard_weight=0.25"
    assert group["hparams"]["seed"] == "0"
    assert group["hparams"]["peak_lr"] == 0.5
    assert {value["name"]["tag"]: value["value"] for value in session["metricValues"]} == {
        "test/ece": 0.25,
        "test/top1": 0.75,
    }


def test_confused_pairs_configuration_and_command_are_readable(board):
    tags = board("plugin/text/tags")["ols-seed0"]
    assert sorted(tags) == [f"{tag}/text_summary" for tag in ("run/command", "run/config", "val/most_confused")]
    texts = board("plugin/text/text", run="ols-seed0", tag="val/most_confused/text_summary")
    assert [text["step"] for text in texts] == [100, 200]
    assert "<table>" in texts[0]["text"]
    assert "normal | none (CT abd)" in texts[0]["text"]
    assert "hard_weight" in board("plugin/text/text", run="ols-seed0", tag="run/config/text_summary")[0]["text"]


def test_confused_pairs_are_sorted_and_their_share_is_that_of_the_true_class():
    confusion = torch.tensor([[7, 3, 0, 0], [1, 8, 0, 0], [0, 5, 4, 1]])
    assert confusion_table(confusion, ["a", "b", "c"], ["x", "x", "y"]).splitlines()[2:] == [
        "| c (y) | b (x) | 5 | 50.0% |",
        "| a (x) | b (x) | 3 | 30.0% |",
        "| b (x) | a (x) | 1 | 11.1% |",
    ]
    assert len(confusion_table(confusion, ["a", "b", "c"], ["x", "x", "y"], rows=1).splitlines()) == 3
    assert "No sample" in confusion_table(torch.eye(2, 3), ["a", "b"], ["x", "x"])


def test_soft_labels_are_projected_once_with_class_and_group(board, log_dir):
    assert board("plugin/projector/runs") == ["ols-seed0"]
    (embedding,) = board("plugin/projector/info", run="ols-seed0")["embeddings"]
    assert embedding["tensorName"] == "soft_labels:00002"
    assert embedding["tensorShape"] == [3, 3]
    metadata = (log_dir / "ols-seed0" / embedding["metadataPath"]).read_text().splitlines()
    assert metadata == ["class\tgroup", "stone\tCT abd", "normal | none\tCT abd", "cyst\tUS kidney"]


def test_the_address_pins_calibration_unsmoothed_and_filters_runs():
    address = urlsplit(comparison_url(TASK, runs=["ols.a-seed0", "hard-seed1"], host="board", port=7000))
    assert (address.scheme, address.netloc, address.path, address.fragment) == ("http", "board:7000", "/", "timeseries")
    query = {key: value for key, (value,) in parse_qs(address.query).items()}
    assert query["smoothing"] == "0"
    assert {"plugin": "scalars", "tag": "val/ece"} in json.loads(query["pinnedCards"])
    shown = re.compile(query["runFilter"])
    assert [name for name in ("ols.a-seed0", "olsXa-seed0", "hard-seed1", "hard-seed10") if shown.search(name)] == [
        "ols.a-seed0",
        "hard-seed1",
    ]
    every = re.compile(parse_qs(urlsplit(comparison_url(TASK)).query)["runFilter"][0])
    assert [name for name in ("perfect", "perfectly", "ols") if every.search(name)] == ["perfectly", "ols"]


def test_a_binary_run_is_compared_by_its_auc_and_a_run_of_classes_is_not():
    tags = {}
    for task in (TASK, BINARY):
        (pinned,) = parse_qs(urlsplit(comparison_url(task)).query)["pinnedCards"]
        tags[task.name] = [card["tag"] for card in json.loads(pinned)]
    assert tags["binary"][0] == "val/auc"
    assert "val/auc" not in tags["multiclass"]
    assert "val/top5" not in tags["binary"]
    for found in tags.values():
        assert {"val/ece", "val/overconfidence", "val/underconfidence"} <= set(found)
        assert len(found) <= 10  # TensorBoard drops what is more


def test_a_binary_run_has_its_auc_among_charts_and_hyperparameters(tmp_path):
    config = _config({"name": "hard"}, seed=0)
    tracker = Tracker(RunFolder(tmp_path), config=config, environment={"command": []}, task=BINARY, enabled=True)
    tracker.start(images_seen=0)
    test = {"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9, "ece": 0.1, "top1": 0.75, "positives": 13.0}
    metrics = {f"test/{name}": value for name, value in test.items()}
    tracker.log(metrics, images_seen=10, epoch=1)
    tracker.log_end(metrics, epoch=1, soft_labels=None, classes=BINARY.classes, groups=BINARY.groups)
    tracker.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    content = {tag: events.summary_metadata[tag].plugin_data.content for tag in events.summary_metadata}
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    columns = {info.name.tag for info in experiment.metric_infos}
    assert columns == {"test/auc", "test/auc_low", "test/auc_high", "test/ece"}
    (layout,) = events.Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(layout.tensor_proto.string_val[0]).category
    charts = {chart.title: chart for chart in category.chart}
    (series,) = charts["val: AUC with its 95 % interval"].margin.series
    assert (series.value, series.lower, series.upper) == ("val/auc", "val/auc_low", "val/auc_high")


def test_hyperparameters_carry_the_axes_of_the_study_under_their_names(tmp_path):
    axes = {"source": "radimagenet", "fold": "3", "loss": "hard labels"}
    options = {"config": _config({"name": "hard"}, seed=0), "environment": {"command": []}, "task": TASK}
    tracker = Tracker(RunFolder(tmp_path), **options, enabled=True, axes=axes)
    tracker.start(images_seen=0)
    tracker.log_end({"test/top1": 0.5}, epoch=1, soft_labels=None, classes=CLASSES, groups=GROUPS)
    tracker.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    start = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    found = {name: value.string_value for name, value in start.session_start_info.hparams.items()}
    assert axes.items() <= found.items()
    assert found["model"] == "test_resnet"


class _Page(HTMLParser):
    """Tags with their attributes, and the text of each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        self.texts[self.inside] = self.texts.get(self.inside, "") + data


def test_the_page_leads_to_the_comparison_and_says_how_to_start_tensorboard(tmp_path):
    log_dir = tmp_path / "runs of <today> & 'yesterday'"
    page = write_comparison_page(log_dir, TASK, runs=["ols.a-seed0"], port=7000)
    assert page == log_dir / "comparison.html"
    assert [path.name for path in log_dir.iterdir()] == ["comparison.html"]
    read = _Page(page.read_text())
    url = comparison_url(TASK, runs=["ols.a-seed0"], port=7000)
    assert [attrs["href"] for tag, attrs in read.tags if tag == "a"] == [url]
    (refresh,) = [attrs["content"] for _, attrs in read.tags if "http-equiv" in attrs]
    assert refresh.partition("url=")[2] == url
    assert shlex.split(read.texts["pre"]) == ["tensorboard", "--logdir", str(log_dir)]
    assert "localhost:7000" in read.texts["p"]


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    read = _Page(write_comparison_page(tmp_path, TASK).read_text())
    assert [tag for tag, attrs in read.tags if "src" in attrs or tag == "link"] == []


def test_runs_that_end_together_write_one_page(tmp_path):
    write = partial(write_comparison_page, task=TASK)
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert set(pool.map(write, [tmp_path] * 100)) == {tmp_path / "comparison.html"}
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.html"]
