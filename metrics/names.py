"""Metrics by name, as data: what each measures, on how many samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

MANY = 50_000
FEW = 200
MAX_SAMPLES = 10_000_000  # features of more would fit into no memory


class Pass(Enum):
    """Which pictures a metric looks at."""

    OWN_VIEW = "a picture of each label map, from the pose of its sample"
    SEEDS = "pictures of one label map with several seeds"
    TURN = "views of one scene, turned to either side"
    TRUTH = "views of one object, of which the data set knows others"


@dataclass(frozen=True)
class Kind:
    """One sort of metric.

    Args:
        samples: label maps at most, where neither the name nor the user says how many.
        data_type: seg or edge, where it is for these alone.
        least: label maps, below which there is no figure.
        counted: whether names with a number of samples exist (fid50k_full).
        all_real: real pictures at most, of a name that ends in _full.
    """

    seen: Pass
    what: str
    samples: int = MANY
    data_type: str | None = None
    least: int = 1
    counted: bool = False
    all_real: int | None = None


KINDS = {
    "fid": Kind(Pass.OWN_VIEW, "Frechet distance to the real pictures", counted=True),
    "kid": Kind(Pass.OWN_VIEW, "kernel distance to the real pictures", least=2, counted=True, all_real=1_000_000),
    "pr": Kind(Pass.OWN_VIEW, "precision and recall of the real pictures", least=4, counted=True, all_real=200_000),
    "is": Kind(Pass.OWN_VIEW, "Inception score, mean and deviation over 10 parts", least=10, counted=True),
    "miou": Kind(Pass.OWN_VIEW, "mean IoU of rendered and given label maps", data_type="seg"),
    "acc": Kind(Pass.OWN_VIEW, "pixel accuracy of rendered label maps", data_type="seg"),
    "ap": Kind(Pass.OWN_VIEW, "average precision of rendered edges", data_type="edge"),
    "sg": Kind(Pass.SEEDS, "mean distance between pictures of one label map", FEW),
    "fvv": Kind(Pass.TURN, "consistency of views", FEW),
    "nvs": Kind(Pass.TRUTH, "novel views against those of the data set", FEW),
    "chamfer": Kind(Pass.TRUTH, "distance between the mesh and the data set's depth", FEW),
}
NAME = re.compile(r"(?P<kind>[a-z]+)(?:(?P<number>[0-9]+)(?P<kilo>k?)(?P<nearest>(?<=k)3)?(?P<full>_full)?)?")
EXAMPLES = "fid, kid, pr, is, sg, miou, acc, ap, fvv, nvs, chamfer, or with a number fid50k_full, kid5k, pr50k3, is10k"


@dataclass(frozen=True)
class Metric:
    """A metric as asked for.

    Args:
        fakes: samples to make; None where the name does not say.
        reals: real pictures at most; None for all.
    """

    name: str
    fakes: int | None = None
    reals: int | None = None

    @property
    def kind(self) -> Kind:
        return KINDS[self.key]

    @property
    def key(self) -> str:
        """Of KINDS."""
        return NAME.fullmatch(self.name)["kind"]

    def samples(self, asked: int | None, available: int) -> int:
        """How many to make, where the user asked for a number or not and so many label maps are there."""
        return self.fakes or asked or min(available, self.kind.samples)


def parse_metrics(names: Sequence[str]) -> list[Metric]:
    """Metrics by their names, each once.

    fid50k_full: 50,000 pictures against all real ones; fid50k: against 50,000; any number, with k for thousands. pr
    may end its thousands with 3, the number of neighbors. Without a number: see `Metric.samples`.

    Raises:
        ValueError: no such metric, or none at all.
    """
    if not names:
        raise ValueError(f"expected some of {EXAMPLES}")
    return [_parse(name) for name in dict.fromkeys(names)]


def _parse(name: str) -> Metric:
    match = NAME.fullmatch(name)
    kind = KINDS.get(match["kind"]) if match else None
    if kind is None:
        raise ValueError(f"{name}: no such metric; there are {EXAMPLES}")
    if match["number"] is None:
        return Metric(name)
    count = int(match["number"]) * (1000 if match["kilo"] else 1)
    if not kind.counted or not count or (match["nearest"] and match["kind"] != "pr"):
        raise ValueError(f"{name}: no such metric; there are {EXAMPLES}")
    if count > MAX_SAMPLES:
        raise ValueError(f"{name}: expected {MAX_SAMPLES} samples at most")
    return Metric(name, count, kind.all_real if match["full"] else count)
