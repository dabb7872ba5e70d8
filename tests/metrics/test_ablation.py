"""What a model loses without a part, against the comparison of two models and cases worked out by hand."""

import numpy as np
import pytest

from vitpe.metrics.ablation import ABLATION_METRICS, measure_ablations
from vitpe.metrics.comparison import compare

NAMES = ("Common", "Rare", "Absent")


@pytest.fixture(scope="module")
def answers():
    """(labels, probabilities of a good model, of two poor ones); no image has the last attribute."""
    rng = np.random.default_rng(0)
    labels = (rng.random((150, 3)) < [0.5, 0.1, 0.0]).astype(np.uint8)

    def probs(signal):
        return 1 / (1 + np.exp(-(signal * (2.0 * labels - 1) + rng.normal(size=labels.shape))))

    return labels, probs(2.0), probs(0.2), probs(0.1)


def test_one_draw_is_the_comparison_of_two_models(answers):
    labels, whole, poor, _ = answers
    found = measure_ablations(whole, {"poor": [poor]}, labels, NAMES, num_resamples=200)
    expected = compare(whole, poor, labels, NAMES, num_resamples=200)
    part = found.parts["poor"]
    for metric in ABLATION_METRICS:
        np.testing.assert_array_equal(part.values[metric], expected.second[metric])
        for one, other in (
            (part.per_attribute[metric], expected.per_attribute[metric]),
            (part.mean_change[metric], expected.means[metric]),
        ):
            np.testing.assert_allclose(
                [one.value, one.low, one.high], [other.value, other.low, other.high], rtol=0, atol=1e-12
            )
    assert part.mean_change["accuracy"].exceeds
    assert np.isnan(part.values["average_precision"][2])
    assert found.means["average_precision"].num_undefined == 1
    assert found.means["prevalence"].value == pytest.approx(labels.mean())


def test_of_several_draws_the_mean_counts(answers):
    labels, whole, *poor = answers
    both = measure_ablations(whole, {"part": poor}, labels, NAMES, num_resamples=200).parts["part"]
    each = [measure_ablations(whole, {"part": [one]}, labels, NAMES, num_resamples=200).parts["part"] for one in poor]
    for metric in ABLATION_METRICS:
        np.testing.assert_allclose(
            both.per_attribute[metric].value,
            np.mean([one.per_attribute[metric].value for one in each], axis=0),
            atol=1e-12,
        )
        assert both.draws[metric].tolist() == [one.means[metric] for one in each]
        assert both.means[metric] == pytest.approx(np.mean(both.draws[metric]))
        low, high = both.mean_change[metric].low, both.mean_change[metric].high
        assert low < both.mean_change[metric].value < high


def test_what_changes_nothing_costs_nothing(answers):
    labels, whole, *_ = answers
    part = measure_ablations(whole, {"nothing": [whole, whole, whole]}, labels, NAMES, num_resamples=50).parts[
        "nothing"
    ]
    for metric in ABLATION_METRICS:
        change = part.mean_change[metric]
        assert float(change.value) == float(change.low) == float(change.high) == 0
        assert not change.exceeds
