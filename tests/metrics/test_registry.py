"""Names of metrics: numbers of samples, unknown names, defaults."""

import pytest

from metrics.registry import METRICS, EvalMode, Metric, parse_metrics


@pytest.mark.parametrize(
    ("name", "key", "num_generated", "max_real"),
    [
        ("fid50k_full", "fid", 50_000, None),
        ("kid50k_full", "kid", 50_000, 1_000_000),
        ("pr50k3_full", "pr", 50_000, 200_000),
        ("fid50k", "fid", 50_000, 50_000),
        ("kid50k", "kid", 50_000, 50_000),
        ("pr50k3", "pr", 50_000, 50_000),
        ("is50k", "is", 50_000, 50_000),
        ("fid1k", "fid", 1000, 1000),
        ("fid123_full", "fid", 123, None),
        ("pr53", "pr", 53, 53),
        ("fid", "fid", None, None),
        ("nvs", "nvs", None, None),
    ],
)
def test_a_name_states_the_metric_and_its_numbers_of_samples(name, key, num_generated, max_real):
    (metric,) = parse_metrics([name])
    assert metric == Metric(name, key, num_generated, max_real)


WRONG = ("beauty", "FID", "fid50m", "fid0", "fid50k3", "miou50k", "fid_full", "", "fid 50k", "pr3k33", "fid٣")


@pytest.mark.parametrize("name", WRONG)
def test_unknown_names_are_rejected_with_the_allowed_ones(name):
    with pytest.raises(ValueError, match=f"^metrics: no such metric, got '{name}', expected one or more of fid, kid"):
        parse_metrics([name])


def test_too_many_samples_are_rejected():
    with pytest.raises(ValueError, match=r"got 'fid999999999999k', expected at most 10000000 samples"):
        parse_metrics(["fid999999999999k"])


def test_repeated_names_count_once():
    assert parse_metrics(["fid", "miou", "fid"]) == [Metric("fid", "fid"), Metric("miou", "miou")]


def test_number_of_samples_is_that_of_the_name_or_the_requested_one_or_the_default():
    (fid,) = parse_metrics(["fid7"])
    (sg,) = parse_metrics(["sg"])
    assert fid.num_samples(requested=3, available=5) == 7
    assert [sg.num_samples(3, 5), sg.num_samples(None, 5), sg.num_samples(None, 5000)] == [3, 5, 200]


def test_every_metric_has_figures_and_every_mode_has_metrics():
    assert all(spec.compute or spec.means for spec in METRICS.values())
    assert {spec.mode for spec in METRICS.values()} == set(EvalMode)
