"""Ordinary traffic: sizes, arrivals, and files that are no distribution."""

import numpy as np
import pytest

from panama.cluster import Cluster
from panama.traffic import Traffic


@pytest.fixture(scope="module")
def cluster():
    return Cluster.clos(leaves=4, hosts_per_leaf=4, spines=2, rate_gbps=100)


@pytest.mark.parametrize(
    ("traffic", "packets"),
    [(Traffic.websearch(0.1), 1138), (Traffic.datamining(0.1), 5117)],
)
def test_means_are_those_published_with_the_distributions(traffic, packets):
    # Simulations of pFabric give 1138 and 5117; others give 1671357 bytes = 1145 packets for the
    # first, so what is published agrees to 0.6%.
    assert traffic.mean_bytes / 1460 == pytest.approx(packets, rel=0.006)


@pytest.mark.parametrize("make", [Traffic.websearch, Traffic.datamining])
def test_drawn_sizes_follow_the_distribution(make, cluster):
    traffic = make(0.5)
    sizes = traffic._sizes(np.random.default_rng(1).random(40_000))
    for size, share in traffic.sizes[2:-1]:
        # Five standard deviations of a share; half a byte of rounding at the points.
        assert np.mean(sizes <= size) == pytest.approx(share, abs=5 * np.sqrt(0.25 / 40_000))


def test_load_is_the_payload_over_what_hosts_can_send(cluster):
    flows = Traffic.fixed(10_000, load=0.4).draw(cluster, horizon_s=0.05, seed=0)
    sent = flows.n_bytes.sum() * 8 / 0.05
    n = len(flows)
    # Poisson: the count is off by five standard deviations at most.
    assert sent / (16 * 100e9) == pytest.approx(0.4, rel=5 / np.sqrt(n))


def test_gaps_are_exponential(cluster):
    flows = Traffic.fixed(10_000, load=0.4).draw(cluster, horizon_s=0.05, seed=0)
    gaps = np.diff(flows.start_ps)
    assert (gaps >= 0).all()
    # The standard deviation of an exponential is its mean.
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=5 / np.sqrt(len(gaps)) * np.sqrt(2))


def test_no_host_sends_to_itself_and_all_take_part(cluster):
    flows = Traffic.websearch(0.5).draw(cluster, horizon_s=0.05, seed=0)
    assert (flows.src != flows.dst).all()
    assert set(flows.src) == set(flows.dst) == set(cluster.hosts)


def test_the_same_seed_gives_the_same_flows_and_another_others(cluster):
    draws = [Traffic.websearch(0.3).draw(cluster, 0.01, seed) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0].start_ps, draws[1].start_ps)
    assert np.array_equal(draws[0].n_bytes, draws[1].n_bytes)
    assert not np.array_equal(draws[0].start_ps[:5], draws[2].start_ps[:5])


def test_incasts_have_one_receiver_each(cluster):
    flows = Traffic.incast(fan_in=8, bytes=5000, every_s=0.001).draw(cluster, 0.0035, seed=0)
    assert len(flows) == 4 * 8
    for i in range(4):
        burst = slice(8 * i, 8 * i + 8)
        assert len(set(flows.dst[burst])) == 1
        assert len(set(flows.src[burst]) - set(flows.dst[burst])) == 8
        assert set(flows.start_ps[burst]) == {i * 10**9}
    assert set(flows.n_bytes) == {5000}


def test_an_incast_larger_than_the_cluster_is_refused(cluster):
    with pytest.raises(ValueError, match="needs 17 hosts, the cluster has 16"):
        Traffic.incast(16, 1, 1.0).draw(cluster, 1.0, 0)


def test_none_is_nothing(cluster):
    assert len(Traffic.none().draw(cluster, 1.0, 0)) == 0
    assert len(Traffic.websearch(0.0).draw(cluster, 1.0, 0)) == 0


def test_a_file_gives_its_distribution(tmp_path):
    file = tmp_path / "sizes.txt"
    file.write_text("# bytes share\n100 0.5\n\n300, 1.0\n")
    traffic = Traffic.from_cdf(file, load=0.1)
    assert traffic.mean_bytes == 0.5 * 100 + 0.5 * 200
    assert list(traffic._sizes(np.array([0.1, 0.5, 0.75, 1.0]))) == [100, 100, 200, 300]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 0: the file has no points"),
        ("# nothing\n", "line 1: the file has no points"),
        ("1 0\n5 0.5\n", "line 2: the last share must be 1, got 0.5"),
        ("1 0\n5 0.5\n4 1\n", "line 3: bytes and shares must not decrease"),
        ("1 0.5\n5 0.4\n", "line 2: bytes and shares must not decrease"),
        ("1 0\nmany 1\n", "line 2: wanted two numbers"),
        ("1 0 3\n", "line 1: wanted two numbers"),
        ("1 0\n2 1.5\n", "line 2: wanted bytes >= 0 and a share"),
        ("nan 1\n", "line 1: wanted bytes"),
        ("0 1\n", "line 1: the largest size"),
    ],
)
def test_a_file_that_is_no_distribution_is_named_with_its_line(tmp_path, text, said):
    file = tmp_path / "bad.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"bad.txt, {said}"):
        Traffic.from_cdf(file, load=0.1)


@pytest.mark.parametrize("load", [-0.1, 1.0, float("nan")])
def test_a_load_no_link_can_carry_is_refused(load):
    with pytest.raises(ValueError, match="load must be"):
        Traffic.websearch(load)
