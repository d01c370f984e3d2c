import pytest

from brainuad.catalogue import CATALOGUE, PROTOCOLS, REGIONS, documentation
from conftest import ROOT


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_metric_is_described(name):
    metric = CATALOGUE[name]
    assert metric.name == name
    assert metric.direction in ("higher is better", "lower is better")
    assert all((metric.title, metric.formula, metric.range, metric.regions, metric.pooling))


def test_protocols_show_what_the_catalogue_has():
    for groups in PROTOCOLS.values():
        for metric, region, pooling in (number for group in groups.values() for number in group):
            assert region in REGIONS
            assert region in CATALOGUE[metric].regions
            assert pooling in CATALOGUE[metric].pooling


def test_the_page_of_metrics_is_made_of_the_catalogue():
    written = (ROOT / "docs/metrics.md").read_text()
    assert written == documentation(), "run: cd scripts && python -m brainuad.catalogue > ../docs/metrics.md"
