import csv
from dataclasses import replace

import numpy as np
import pytest

from ols.studies.comparison import compare_runs, summarise
from ols.studies.evaluated_runs import IMAGE_MEASURES
from ols.studies.report import markdown, sentences, write_comparison
from recipes.compare import main, parse_arguments


def test_the_words_name_the_floor_and_follow_the_tests(runs_of_six_seeds):
    runs = [run for run in runs_of_six_seeds if run.seed < 5]
    comparisons = compare_runs(runs)
    text = markdown(summarise(runs), comparisons, "conditions")
    assert "With 5 seeds no p over seeds below 0.062 is possible" in text
    assert "the smallest of 2 is not below 0.12 when adjusted: nothing can be shown of other seeds." in text
    assert f"(null {np.mean([run.nulls['ece'] for run in runs if run.label == 'ols']):.4f})" in text
    (shown,) = (s for s in sentences([c for c in comparisons if c.label == "ols"]) if "Top-1" in s)
    assert shown.startswith(
        "Shown for other images, not shown for other seeds: ols has lower (worse) Top-1 (difference -"
    )
    (same,) = sentences([c for c in comparisons if c.label == "max_sup"])
    assert same.startswith("Not shown, neither for other images nor for other seeds: max_sup has no other Top-1")
    assert "Shown for other images, not shown for other seeds: optim.peak_lr ols has lower" in " ".join(
        sentences([replace(c, axis="optim.peak_lr") for c in comparisons if c.label == "ols"])
    )


def test_one_seed_has_words_and_no_empty_numbers(runs_of_six_seeds):
    runs = [run for run in runs_of_six_seeds if run.seed == 0]
    text = markdown(summarise(runs), compare_runs(runs), "")
    assert "With one seed nothing can be said of other seeds." in text
    assert "over seeds Holm" not in text
    assert "nan" not in text


def test_measures_that_no_image_has_are_tested_over_seeds_alone(runs_of_six_seeds):
    runs = [
        replace(run, measures=run.measures | {"silhouette": 0.3 + (run.label == "hard") * (1 + run.seed) / 100})
        for run in runs_of_six_seeds
        if run.label != "max_sup"
    ]
    comparisons = compare_runs(runs)
    (silhouette,) = (c for c in comparisons if c.measure == "silhouette")
    assert np.isnan(silhouette.p_images)
    assert silhouette.p_seeds == 0.03125
    text = markdown(summarise(runs), comparisons, "")
    assert (
        "Shown for other seeds: ols has lower (worse) silhouette (difference -0.0350, over seeds Holm p 0.031)" in text
    )
    assert "nan" not in text


def test_settings_have_headings_of_their_own(runs_of_six_seeds):
    runs = [
        replace(run, setting={"model": model})
        for model in ("vgg19", "resnet18")
        for run in runs_of_six_seeds
        if run.seed < 2
    ]
    text = markdown(summarise(runs), compare_runs(runs), "")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Runs compared along loss",
        "## Mean and standard deviation over seeds, vgg19",
        "## Differences from hard, vgg19",
        "## What is shown and what is not, vgg19",
        "## Mean and standard deviation over seeds, resnet18",
        "## Differences from hard, resnet18",
        "## What is shown and what is not, resnet18",
    ]


def test_the_csv_files_hold_what_the_table_prints(runs_of_six_seeds, tmp_path):
    runs = [run for run in runs_of_six_seeds if run.seed < 3]
    write_comparison(tmp_path / "out", runs, summarise(runs), compare_runs(runs), "conditions")
    with (tmp_path / "out" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert {row["model"] for row in rows} == {"test_resnet"}
    values = [float(row["nll"]) for row in rows if row["loss"] == "ols"]
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert f"{mean:.4f} ± {deviation:.4f}" in (tmp_path / "out" / "comparison.md").read_text()
    with (tmp_path / "out" / "summaries.csv").open() as file:
        summary = {row["loss"]: row for row in csv.DictReader(file)}
    assert float(summary["ols"]["nll_mean"]) == pytest.approx(mean)
    with (tmp_path / "out" / "comparisons.csv").open() as file:
        compared = list(csv.DictReader(file))
    assert [(row["loss"], row["reference"], row["format"]) for row in compared[:2]] == [
        ("ols", "hard", "1"),
        ("max_sup", "hard", "1"),
    ]
    assert len(compared) == 2 * len(IMAGE_MEASURES)


def test_the_command_prints_and_writes_the_comparison(write_run, tmp_path, capsys):
    runs = [write_run("hard", 0), write_run("max_sup", 0, "--optim.peak_lr=0.3")]
    options = ["--reference", "max_sup", "--along", "loss", "optim.peak_lr", "--output", str(tmp_path / "out")]
    (tmp_path / "runs" / "a-file").touch()  # as `runs/*` names it
    main(parse_arguments([*map(str, (tmp_path / "runs").iterdir()), *options]))
    assert len(runs) == 2
    printed = capsys.readouterr().out
    assert "## Differences from max_sup, test_resnet" in printed
    assert "2 runs, 600 test images each." in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"comparison.md", "comparison.png", "runs.csv", "summaries.csv", "comparisons.csv"}
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
