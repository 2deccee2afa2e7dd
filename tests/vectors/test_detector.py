"""A vector as a detector, against numbers worked by hand and scikit-learn's."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors import detector
from neurosteer_cli.vectors.metadata import Detector


def test_a_projection_is_added_up_over_hook_points() -> None:
    one, two = HookPoint(1), HookPoint(2)
    means = {one: torch.tensor([[1.0, 2.0], [0.0, 1.0]]), two: torch.tensor([[3.0, 0.0], [1.0, 1.0]])}
    pushes = {one: torch.tensor([1.0, -1.0]), two: torch.tensor([0.5, 2.0])}
    assert detector.projection(means, pushes).tolist() == [0.5, 1.5]


def test_the_spread_is_that_within_a_side() -> None:
    around = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    found = detector.measured(around + 5, around - 5, 5.0)
    assert found is not None
    assert (found.middle, found.n_texts) == (5.0, 8)
    assert found.spread == pytest.approx(1.4826)
    assert detector.scores(found, torch.tensor([5.0, 5 + found.spread])).tolist() == pytest.approx([0, 1])


def test_one_text_far_from_all_changes_neither_the_spread_nor_how_sure_others_are() -> None:
    positive, negative = torch.linspace(0, 4, 41), torch.linspace(-4, 0, 41)
    usual = detector.measured(positive, negative, 0.0)
    odd = detector.measured(torch.cat([positive, torch.tensor([-1000.0])]), negative, 0.0)
    assert usual is not None and odd is not None
    assert odd.spread == pytest.approx(usual.spread, rel=0.05)
    assert 0.5 < odd.slope / usual.slope < 1
    near, far = detector.probabilities(odd, torch.tensor([4.0, 1000.0]))
    assert near == far < 1


def test_probabilities_are_the_logistic_regression_of_platts_targets() -> None:
    draw = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(30, generator=draw) + 1, torch.randn(40, generator=draw)
    found = detector.measured(positive, negative, 0.0)
    assert found is not None
    z = detector.scores(found, torch.cat([positive, negative]))
    high, low = 31 / 32, 1 / 42
    weights = [high] * 30 + [low] * 40 + [1 - high] * 30 + [1 - low] * 40  # each text on both sides
    labels = [1] * 70 + [0] * 70
    twice = torch.cat([z, z])[:, None].numpy()
    reference = LogisticRegression(C=1e8, tol=1e-10).fit(twice, labels, sample_weight=weights)
    assert found.slope == pytest.approx(float(reference.coef_[0, 0]), rel=1e-4)
    assert found.intercept == pytest.approx(float(reference.intercept_[0]), rel=1e-3)
    expected = reference.predict_proba(z[:, None].numpy())[:, 1]
    assert detector.probabilities(found, z).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_sides_far_apart_give_finite_numbers() -> None:
    found = detector.measured(torch.arange(8.0) + 496, torch.arange(8.0) - 504, 504.0)
    assert found is not None and math.isfinite(found.slope)
    assert float(detector.probabilities(found, detector.scores(found, torch.tensor([1003.0])))[0]) > 0.85


def test_too_few_texts_or_equal_ones_measure_nothing() -> None:
    assert detector.measured(torch.arange(3.0), torch.arange(9.0), 0.0) is None
    assert detector.measured(torch.ones(8), torch.zeros(8), 0.0) is None


def test_a_detector_is_kept_as_it_is() -> None:
    kept = Detector(middle=1.0, spread=2.0, slope=3.0, intercept=4.0, n_texts=8)
    assert Detector.model_validate(kept.model_dump()) == kept
