"""Names of metrics and what they stand for."""

import pytest

from metrics.names import KINDS, Metric, parse_metrics
from metrics.summaries import SUMMARIES


@pytest.mark.parametrize(
    ("name", "key", "fakes", "reals"),
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
def test_a_name_says_what_and_how_many(name, key, fakes, reals):
    (metric,) = parse_metrics([name])
    assert (metric.key, metric.fakes, metric.reals) == (key, fakes, reals)


WRONG = ("beauty", "FID", "fid50m", "fid0", "fid50k3", "miou50k", "fid_full", "", "fid 50k", "pr3k33", "fid٣")


@pytest.mark.parametrize("name", WRONG)
def test_other_names_are_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match=f"^{name}: no such metric; there are fid, kid"):
        parse_metrics([name])


def test_more_samples_than_fit_into_any_memory_are_refused():
    with pytest.raises(ValueError, match=r"^fid999999999999k: expected 10000000 samples at most"):
        parse_metrics(["fid999999999999k"])


def test_a_metric_asked_for_twice_is_computed_once():
    assert parse_metrics(["fid", "miou", "fid"]) == [Metric("fid"), Metric("miou")]


def test_the_name_goes_before_the_asked_number_and_that_before_the_metrics_own():
    (fid,) = parse_metrics(["fid7"])
    (sg,) = parse_metrics(["sg"])
    assert fid.samples(asked=3, available=5) == 7
    assert [sg.samples(3, 5), sg.samples(None, 5), sg.samples(None, 5000)] == [3, 5, 200]


def test_every_kind_of_metric_has_its_arithmetic():
    assert SUMMARIES.keys() == KINDS.keys()
