import pytest

from mvit_train.benchmarks.decode import X264
from mvit_train.data.store import STORES


def test_the_benchmark_measures_the_store_that_videos_are_prepared_in():
    assert X264["prepared"] == STORES["b3fast"].encoder_options()


def test_a_quality_replaces_the_stores_own():
    assert STORES["b3fast"].encoder_options()["crf"] == "25"
    assert STORES["b3fast"].encoder_options(18)["crf"] == "18"
    assert [STORES["jpeg"].encoder_options(4)[name] for name in ("qmin", "qmax")] == ["4", "4"]


@pytest.mark.parametrize("name", STORES)
def test_a_stores_own_quality_is_in_its_range(name):
    least, most = STORES[name].quality_range
    assert least <= STORES[name].quality <= most
