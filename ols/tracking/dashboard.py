"""What TensorBoard is told beside scalars and pictures, so that runs are compared by their calibration at a glance."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlencode

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ols.evaluation.report.markdown import markdown_text
from ols.files import write_file
from ols.metrics.measures import MEASURES
from ols.tasks.task import Task

PERFECT = "perfect"
COMPARISON_PAGE = "comparison.html"
MIN_IMAGES = 10  # of a bin of the reliability chart

SIGNED_PARTS = {"ece": ("overconfidence", "underconfidence")}  # shown where the measure is
BELONGING = ("low", "high", "null")  # what belongs to a measure, as `NAME_low`

# The page asks first, because a browser that is sent to a port where nothing listens shows only its own error.
_PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Comparison of runs</title>
<noscript><meta http-equiv="refresh" content="2; url=$url"></noscript>
<style>body { font: 1rem/1.5 sans-serif; max-width: 45rem; margin: 4rem auto; padding: 0 1rem }</style>
<h1>Comparison of runs</h1>
<p><a id="board" href="$url">Calibration and accuracy of the runs in TensorBoard</a></p>
<p>This page opens it as soon as TensorBoard answers at $address. If nothing happens, TensorBoard is not running
there. Start it with</p>
<pre>$command</pre>
<script>
const board = document.getElementById("board").href;
const open = () => fetch(board, {mode: "no-cors"}).then(() => location.replace(board), () => setTimeout(open, 1000));
open();
</script>
</html>
""")


def add_reliability(writer: SummaryWriter, prefix: str, reliability: Tensor, *, images_seen: int) -> None:
    """Add a reliability curve to the chart that all runs share in the PR Curves tab.

    The chart's recall is mean confidence, its precision accuracy, its true and false positives the right and wrong
    predictions of a bin; its thresholds and negatives mean nothing. The chart joins its points and shows no interval,
    so bins of fewer than 10 images are left out where two others remain. Nothing is added where there is no sample.

    Args:
        writer: Of the run.
        prefix: What was evaluated, such as `val`.
        reliability: Count, mean confidence and accuracy of each bin `[15, 3]`, NaN where a bin is empty.
        images_seen: Step of the slider.
    """
    least = MIN_IMAGES if (reliability[:, 0] >= MIN_IMAGES).sum() > 1 else 1
    filled = reliability[reliability[:, 0] >= least].flip(0)  # the page reverses it, and wants ascending recall then
    if not len(filled):
        return
    # The plugin cuts off columns at the end that have no positives; elsewhere it would draw them.
    columns = torch.zeros(len(reliability), 3, dtype=reliability.dtype)
    columns[: len(filled)] = filled
    count, confidence, accuracy = columns.numpy().T
    right = (count * accuracy).round()
    nothing = 0 * count
    # A run's slider takes its steps from the run's first tag, so what is evaluated once must not come first.
    section = "calibration" if prefix.startswith("val") else "final calibration"
    writer.add_pr_curve_raw(
        f"{section}/{prefix} (x: mean confidence, y: accuracy)",
        true_positive_counts=right,
        false_positive_counts=count - right,
        true_negative_counts=nothing,
        false_negative_counts=nothing,
        precision=accuracy,
        recall=confidence,
        global_step=images_seen,
        num_thresholds=len(count),
    )


def write_perfect(log_dir: Path, prefix: str) -> None:
    """Write the diagonal of a reliability chart as the run `perfect`, unless some run has done so.

    Args:
        log_dir: Folder of all runs.
        prefix: What was evaluated, such as `val`.
    """
    folder = log_dir / PERFECT
    folder.mkdir(exist_ok=True)
    try:
        (folder / f"{prefix}.written").touch(exist_ok=False)  # of several runs, one
    except FileExistsError:
        return
    ends = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    with SummaryWriter(str(folder), filename_suffix=f".{prefix}") as writer:
        add_reliability(writer, prefix, ends, images_seen=0)


def pinned_measures(task: Task | type[Task]) -> list[str]:
    """Return the measures that runs are compared by: those on the line of an epoch, and the ECE's signed parts."""
    return [*task.line, *(part for name in task.line for part in SIGNED_PARTS.get(name, ()))]


def add_layout(writer: SummaryWriter, task: Task, prefixes: Sequence[str]) -> None:
    """Lay out the Custom Scalars tab: what has a 95 % interval with it, and the ECE's signed parts, of all runs.

    Args:
        writer: Of the run.
        task: What is predicted; its line says which measures.
        prefixes: What is evaluated in every epoch, such as `val`.
    """
    charts: dict[str, list] = {}
    for prefix in prefixes:
        for name in task.line:
            if MEASURES[name].interval:
                tags = [f"{prefix}/{name}", f"{prefix}/{name}_low", f"{prefix}/{name}_high"]
                charts[f"{prefix}: {MEASURES[name].label} with its 95 % interval"] = ["Margin", tags]
            for part in SIGNED_PARTS.get(name, ()):
                # A line chart would be smoothed by 0.6, as the tab always begins; a margin without width is not.
                charts[f"{prefix}: {MEASURES[part].label}"] = ["Margin", [f"{prefix}/{part}"] * 3]
    writer.add_custom_scalars({"evaluation": charts})


def add_hparams(
    writer: SummaryWriter,
    config: dict[str, Any],
    task: Task,
    metrics: dict[str, float],
    *,
    axes: Mapping[str, str] | None = None,
) -> None:
    """Add the run to the HParams tab, which shows the newest scalars of the metrics' tags.

    TensorBoard takes the columns from any one run, so they are the same for all losses of a task: the measures of the
    table that a run prints at its end, with what belongs to each.

    Args:
        writer: Of the run.
        task: What is predicted.
        config: Resolved configuration.
        metrics: Final metrics by tag.
        axes: Label of the run on each axis of its study, by the axis's name; they go before what the configuration
            says under the same names.
    """
    loss = dict(config["loss"])
    chosen = {
        "loss": loss.pop("name"),
        "loss_options": ", ".join(f"{key}={value}" for key, value in sorted(loss.items())) or "default",
        "model": config["model"]["name"],
        "peak_lr": config["optim"]["peak_lr"],
        "global_batch_size": config["train"]["global_batch_size"],
        "epochs": config["train"]["epochs"],
        "precision": config["train"]["precision"],
        "seed": str(config["seed"]),  # a name, not a quantity
    } | dict(axes or {})
    columns = {*task.table, *(f"{name}_{end}" for name in task.table for end in BELONGING)}
    shown = {tag: value for tag, value in metrics.items() if tag.rpartition("/")[2] in columns}
    for summary in hparams(chosen, shown):
        writer._get_file_writer().add_summary(summary)


def add_projector(
    writer: SummaryWriter, tag: str, matrix: Tensor, classes: Sequence[str], groups: Sequence[str], *, epoch: int
) -> None:
    """Put one vector per class into the Projector tab, in place of an earlier one.

    Args:
        writer: Of the run.
        tag: Name.
        matrix: One row per class `[K, D]`.
        classes: Label of each class.
        groups: Modality and anatomy of each class.
        epoch: Epoch that it is from.
    """
    shutil.rmtree(Path(writer.log_dir) / f"{epoch:05}", ignore_errors=True)  # of the same command, typed before
    rows = [[" ".join(cell.split()) for cell in row] for row in zip(classes, groups, strict=True)]
    writer.add_embedding(
        matrix.detach().float().cpu(), metadata=rows, metadata_header=["class", "group"], global_step=epoch, tag=tag
    )


def confusion_table(confusion: Tensor, classes: Sequence[str], groups: Sequence[str], *, rows: int = 20) -> str:
    """Return the most confused pairs of classes as a Markdown table, the most frequent first.

    Args:
        confusion: Counts `[K, K + 1]`: true class by predicted class, and a last column for no prediction.
        classes: Label of each class.
        groups: Modality and anatomy of each class.
        rows: Most pairs that are listed.
    """
    names = [markdown_text(f"{name} ({group})") for name, group in zip(classes, groups, strict=True)]
    errors = confusion[:, : len(names)].clone().fill_diagonal_(0)
    support = confusion.sum(dim=1)
    lines = ["| true class | taken for | images | of the class |", "|---|---|---:|---:|"]
    for cell in errors.flatten().argsort(descending=True, stable=True)[:rows].tolist():
        true, predicted = divmod(cell, len(names))
        count = int(errors[true, predicted])
        if count:
            share = count / int(support[true])
            lines.append(f"| {names[true]} | {names[predicted]} | {count} | {share:.1%} |")
    return "\n".join(lines) if len(lines) > 2 else "No sample was taken for another class."


def comparison_url(
    task: Task | type[Task],
    *,
    runs: Sequence[str] = (),
    prefix: str = "val",
    host: str = "localhost",
    port: int = 6006,
) -> str:
    """Return the address at which TensorBoard shows the `pinned_measures` of runs as pinned cards, unsmoothed.

    Args:
        task: What the runs predict.
        runs: Names of the runs to show, relative to the log directory; by default all.
        prefix: What was evaluated, such as `val`.
        host: Where TensorBoard runs.
        port: Port that it listens to.
    """
    names = "|".join(re.sub(r"([.+*?^$(){}|\[\]\\])", r"\\\1", run) for run in runs)  # also for JavaScript
    pinned = [{"plugin": "scalars", "tag": f"{prefix}/{name}"} for name in pinned_measures(task)]
    query = {
        "pinnedCards": json.dumps(pinned, separators=(",", ":")),
        "smoothing": "0",
        "runFilter": f"^({names})$" if runs else f"^(?!{PERFECT}$)",
    }
    return f"http://{host}:{port}/?{urlencode(query)}#timeseries"


def write_comparison_page(
    log_dir: Path,
    task: Task | type[Task],
    *,
    runs: Sequence[str] = (),
    prefix: str = "val",
    host: str = "localhost",
    port: int = 6006,
) -> Path:
    """Write a page that opens the comparison of `comparison_url`, or says how to start TensorBoard.

    The page needs no network. Runs that end at the same moment may write it at the same time.

    Args:
        log_dir: Folder of all runs, which receives the page.
        task: What the runs predict.
        runs: Names of the runs to show, relative to the log directory; by default all.
        prefix: What was evaluated, such as `val`.
        host: Where TensorBoard runs.
        port: Port that it listens to.

    Returns:
        The page.

    Raises:
        OSError: The page could not be written; the message names it.
    """
    page = log_dir / COMPARISON_PAGE
    content = _PAGE.substitute(
        url=escape(comparison_url(task, runs=runs, prefix=prefix, host=host, port=port)),
        address=escape(f"{host}:{port}"),
        command=escape(f"tensorboard --logdir {shlex.quote(str(log_dir.resolve()))}"),
    )
    own = page.with_name(f".{page.name}.{os.getpid()}")  # no other process has this name
    write_file(own, content)
    return own.replace(page)
