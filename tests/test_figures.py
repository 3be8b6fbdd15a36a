import numpy as np
import pytest
import torch

from ols.figures import (
    confusion_matrix,
    embedding,
    reliability_diagram,
    risk_coverage,
    roc_curve,
    soft_label_heatmap,
)


def test_a_reliability_diagram_shows_counts_and_intervals_of_filled_bins():
    reliability = torch.full((15, 3), torch.nan, dtype=torch.float64)
    reliability[:, 0] = 0
    reliability[9], reliability[14] = torch.tensor([[7, 0.63, 0.5], [40, 0.98, 0.7]], dtype=torch.float64)
    intervals = torch.full((15, 2), torch.nan, dtype=torch.float64)
    intervals[9], intervals[14] = torch.tensor([[0.2, 0.8], [0.6, 0.8]], dtype=torch.float64)
    upper, lower = reliability_diagram(reliability, title="test", intervals=intervals).axes
    lines = [segment[:, 1].tolist() for segment in upper.collections[0].get_segments()]
    assert lines == [pytest.approx([0.2, 0.8]), pytest.approx([0.6, 0.8])]
    assert [text.get_text() for text in lower.texts if text.get_text()] == ["7", "40"]


def test_risk_coverage_has_a_line_for_each_curve():
    curves = {"a": (np.array([0.5, 1.0]), np.array([0.0, 0.2])), "b": (np.array([1.0]), np.array([0.2]))}
    axes = risk_coverage(curves, title="test").axes[0]
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert axes.lines[0].get_ydata().tolist() == [0.0, 0.2]
    assert risk_coverage({}, title="none").axes[0].get_legend() is None


def test_a_roc_curve_is_beside_chance_and_may_be_missing():
    points = np.array([[0.0, 0.0], [0.0, 0.5], [1.0, 1.0]])
    chance, model = roc_curve(points, title="test").axes[0].lines
    assert model.get_xydata().tolist() == points.tolist()
    assert chance.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert len(roc_curve(np.empty((0, 2)), title="none").axes[0].lines[1].get_xdata()) == 0


def test_an_embedding_has_the_points_of_every_label_and_names_those_that_occur():
    coordinates, labels = np.arange(12.0).reshape(6, 2), np.array([0, 2, 0, 2, 2, 0])
    figure = embedding(coordinates, labels, ["CT", "MR", "US"], title="test")
    points = figure.axes[0].collections
    assert [len(group.get_offsets()) for group in points] == [3, 3]
    assert points[1].get_offsets().tolist() == coordinates[labels == 2].tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CT", "US"]
    many = embedding(np.zeros((50, 2)), np.arange(50), [str(i) for i in range(50)], title="many")
    assert not many.legends


def test_the_gap_of_an_under_confident_bin_has_the_colour_of_its_legend():
    table = torch.tensor([[60.0, 0.3, 0.7], [60.0, 0.8, 0.6]])
    figure = reliability_diagram(table, title="")
    (upper, *_) = figure.axes
    bars = [container for container in upper.containers if container.get_label() == "gap to confidence"]
    colours = {patch.get_facecolor() for container in bars for patch in container}
    (handle,) = [
        h
        for h, t in zip(figure.legends[0].legend_handles, figure.legends[0].get_texts(), strict=True)
        if t.get_text() == "gap to confidence"
    ]
    assert colours == {handle.get_facecolor()}
    assert handle.get_facecolor()[3] == 1  # else the bar below would shine through


def test_a_confusion_matrix_shows_shares_of_its_rows():
    figure = confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"], title="")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert [text.get_text() for text in axes.texts] == ["75", "25"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (4)", "b (0)"]


def test_names_are_drawn_as_they_are():
    names = [r"$\frac$", "a $x$ b", "_hidden", "two\nlines"]
    shown = [r"$\frac$", "a $x$ b", " _hidden", "two lines"]
    figures = {
        "confusion": confusion_matrix(np.eye(4), names, title=""),
        "soft labels": soft_label_heatmap(torch.eye(4), names, ["CT"] * 4, title=""),
        "embedding": embedding(np.zeros((4, 2)), np.arange(4), names, title=""),
    }
    for what, figure in figures.items():
        figure.draw_without_rendering()  # a formula that cannot be read would raise
        texts = figure.legends[0].get_texts() if figure.legends else figure.axes[0].get_xticklabels()
        drawn = [text._preprocess_math(text.get_text()) for text in texts]
        assert sorted(drawn) == sorted((name, False) for name in shown), what
