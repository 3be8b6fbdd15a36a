"""All layers against all, on features whose relation is known."""

import numpy as np
import pytest

from ols.representations.layers import LayerShape, Points, draw_points
from ols.representations.pairs import compare_layers
from ols.representations.similarity import MEASURES, Representation

IMAGES, POINTS, SIZE = 100, 4, 5


@pytest.fixture
def points():
    return draw_points(IMAGES, [LayerShape(2, 2, SIZE)], rows=IMAGES * POINTS)


def _noise(seed, size=SIZE):
    return np.random.default_rng(seed).normal(size=(IMAGES * POINTS, size))


def test_every_layer_is_compared_with_every_one_and_a_rotated_one_is_found_again(points):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]
    first = {"a": _noise(1), "b": _noise(2)}
    second = {"c": 3 * first["b"] @ rotation, "d": _noise(3), "e": first["a"] + _noise(4)}
    pairs = compare_layers(first, second, points, ceiling={**second, "c": _noise(5), "d": first["a"]})
    assert [(pair.first, pair.second) for pair in pairs] == [(a, b) for a in "ab" for b in "cde"]
    by_name = {(pair.first, pair.second): pair for pair in pairs}
    for measure in MEASURES:
        value = {names: pair.similarities[measure].value for names, pair in by_name.items()}
        assert value["b", "c"] == pytest.approx(1, abs=1e-9)
        assert max(value["a", "c"], value["a", "d"], value["b", "d"], value["b", "e"]) < 0.2
        assert 0.4 < value["a", "e"] < 0.8
        found = by_name["a", "e"].similarities[measure]
        assert found.null_low <= found.null <= found.null_high < 0.2
        assert by_name["a", "d"].ceiling[measure] == pytest.approx(1, abs=1e-9)
        assert by_name["b", "c"].ceiling[measure] < 0.2
    assert pairs[0].directions == pairs[0].components == (SIZE, SIZE)
    assert pairs[0].rows == 400
    assert compare_layers(first, second, points)[0].ceiling == {}


def test_what_all_images_have_in_common_at_a_place_is_chance(points):
    place = np.tile(np.random.default_rng(0).normal(size=(POINTS, 3)), (IMAGES, 1))
    first, second = ({"a": np.concatenate([place + 0.1 * _noise(seed, 3), _noise(seed + 9, 1)], 1)} for seed in (1, 2))
    (pair,) = compare_layers(first, second, points)
    found = pair.similarities["mean_cca"]
    assert found.value > 0.6
    assert found.null == pytest.approx(found.value, abs=0.05)
    # were rows permuted, and not images, this would be taken for what networks have learned
    order = np.random.default_rng(1).permutation(IMAGES * POINTS)
    assert Representation(first["a"]).likeness(Representation(second["a"]), order)["mean_cca"] < 0.2


def test_too_few_rows_for_canonical_correlations_are_enough_for_cka(points):
    wide = {"a": _noise(1, 41)}
    (pair,) = compare_layers(wide, wide, points)
    assert all(np.isnan(pair.similarities[name]).all() for name in ("mean_cca", "svcca", "pwcca"))
    assert pair.similarities["cka"].value == pytest.approx(1)
    assert pair.directions == (41, 41)
    (enough,) = compare_layers(wide, wide, points, rows_per_feature=9)
    assert enough.similarities["mean_cca"].value == pytest.approx(1)


def test_chance_is_keyed_and_its_draws_differ(points):
    first, second = {"a": _noise(1)}, {"a": _noise(2)}
    (found,), (again,), (other,) = (compare_layers(first, second, points, seed=seed) for seed in (0, 0, 1))
    assert found == again
    assert found.similarities["cka"].value == other.similarities["cka"].value
    assert found.similarities["cka"].null != other.similarities["cka"].null
    assert found.similarities["cka"].null_low < found.similarities["cka"].null_high


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        ({"dead": np.ones((400, 3))}, {}, "layer dead: features must vary"),
        ({"short": _noise(1)[:-1]}, {}, "layer short has 399 rows, the points are 400"),
        ({"a": _noise(1)}, {"ceiling": {"b": _noise(1)}}, "the layers of the ceiling, b, are not"),
        ({"a": _noise(1)}, {"draws": 0}, "at least one draw"),
    ],
)
def test_layers_that_cannot_be_compared_are_named(second, options, message):
    points = Points(None, np.zeros(400, np.int64))
    with pytest.raises(ValueError, match=message):
        compare_layers({"a": _noise(1)}, second, points, **options)
