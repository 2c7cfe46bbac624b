"""Jobs: sizes, timing of buckets, placement, and values that make no sense."""

import itertools

import numpy as np
import pytest

from panama.cluster import Cluster
from panama.jobs import Job
from panama.models import PARAMETERS
from panama.placement import place


@pytest.fixture(scope="module")
def cluster():
    return Cluster.clos(leaves=4, hosts_per_leaf=4, spines=2)


def racks_of(cluster, hosts):
    return np.unique(cluster.rack[hosts], return_counts=True)[1]


def placed(cluster, policy, workers, free=None, seed=0):
    job = Job(bytes=1, workers=workers)
    free = cluster.hosts if free is None else free
    return place(cluster, job, free, policy, np.random.default_rng(seed))


def test_gradient_bytes_follow_the_format():
    assert Job("vgg16", workers=2).bytes == 4 * 138_357_544
    assert Job("vgg16", workers=2, fmt="bf16").bytes == 2 * 138_357_544


def conv(k, ins, outs):
    return k * k * ins * outs + outs


def linear(ins, outs):
    return ins * outs + outs


def vgg16():
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convs = sum(conv(3, a, b) for a, b in itertools.pairwise(widths))
    return convs + linear(512 * 49, 4096) + linear(4096, 4096) + linear(4096, 1000)


def alexnet():
    convs = conv(11, 3, 64) + conv(5, 64, 192) + conv(3, 192, 384) + conv(3, 384, 256)
    convs += conv(3, 256, 256)
    return convs + linear(9216, 4096) + linear(4096, 4096) + linear(4096, 1000)


def bottlenecks(*depths):
    """A residual network: no bias in a convolution, two parameters a channel in a norm."""
    total, ins = 49 * 3 * 64 + 2 * 64, 64
    for stage, depth in enumerate(depths):
        mid = 64 * 2**stage
        for block in range(depth):
            total += ins * mid + 9 * mid * mid + mid * 4 * mid + 2 * (mid + mid + 4 * mid)
            if block == 0:
                total += ins * 4 * mid + 2 * 4 * mid
            ins = 4 * mid
    return total + linear(2048, 1000)


def bert_large(d=1024):
    layer = 4 * linear(d, d) + linear(d, 4 * d) + linear(4 * d, d) + 2 * 2 * d
    return (30522 + 512 + 2) * d + 2 * d + 24 * layer + linear(d, d)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("vgg16", vgg16()),
        ("alexnet", alexnet()),
        ("resnet50", bottlenecks(3, 4, 6, 3)),
        ("resnet152", bottlenecks(3, 8, 36, 3)),
        ("bert_large", bert_large()),
    ],
)
def test_parameters_are_those_of_the_layers(model, count):
    assert PARAMETERS[model] == count


def test_compute_share_is_of_an_iteration_with_a_ring():
    job = Job(bytes=1000, workers=4, compute_share=0.75)
    ring = 2 * 3 / 4 * 1000 * 80
    assert job.compute_ps(80) / (job.compute_ps(80) + ring) == pytest.approx(0.75)


@pytest.mark.parametrize("buckets", [1, 3, 7])
def test_buckets_make_up_the_gradients_and_end_with_the_computation(buckets):
    job = Job(bytes=1000, workers=2, compute_s=3e-9, buckets=buckets)
    sizes, times = job.bucket_bytes(), job.bucket_ps(job.compute_ps(80))
    assert sizes.sum() == 1000
    assert sizes.max() - sizes.min() <= 1
    assert times[-1] == 3000
    # A third is the forward pass; the rest is split evenly.
    assert np.abs(np.diff([1000, *times]) - 2000 / buckets).max() <= 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "vgg61"}, "unknown model 'vgg61', did you mean 'vgg16'.*resnet50"),
        ({"workers": 1}, "job 'vgg16': workers must be at least 2, got 1"),
        ({"bytes": 0}, "bytes must be at least 1, got 0"),
        ({"bytes": -5}, "bytes must be at least 1, got -5"),
        ({"bytes": 1.5}, "whole number, got 1.5"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"arrival_s": -1.0}, "arrival_s must be at least 0"),
        ({"arrival_s": float("nan")}, "arrival_s must be at least 0"),
        ({"compute_s": -1.0}, "compute_s must be at least 0"),
        ({"compute_share": 1.0}, "compute_share must be"),
        ({"compute_share": 0.5, "compute_s": 1.0}, "not both"),
        ({"fmt": "fp23"}, "unknown fmt 'fp23', did you mean 'fp32'"),
        ({"buckets": 0}, "buckets must be at least 1"),
        ({"bytes": 3, "buckets": 4}, "3 bytes do not fill 4 buckets"),
        ({"hosts": ["host0", "host0"]}, "2 different hosts"),
    ],
)
def test_values_that_make_no_sense_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        Job(**{"model": "vgg16", "workers": 2, **wrong})


def test_a_job_without_size_is_refused():
    with pytest.raises(ValueError, match="needs a model's name or bytes="):
        Job(workers=2)


@pytest.mark.parametrize("policy", ["random", "packed", "spread"])
@pytest.mark.parametrize("workers", [2, 5, 16])
def test_workers_get_different_free_hosts(cluster, policy, workers):
    hosts = placed(cluster, policy, workers)
    assert len(set(hosts)) == workers
    assert set(hosts) <= set(cluster.hosts)
    assert hosts.dtype == np.int32


def test_packed_takes_the_fewest_racks(cluster):
    assert list(racks_of(cluster, placed(cluster, "packed", 4))) == [4]
    assert sorted(racks_of(cluster, placed(cluster, "packed", 9))) == [1, 4, 4]
    # Free: 2, 4, 4 and 3 hosts of the racks: three go where three are, and leave the fours whole.
    free = np.delete(cluster.hosts, [0, 1, 12])
    hosts = placed(cluster, "packed", 3, free)
    assert set(cluster.rack[hosts]) == {cluster.rack[cluster.hosts[-1]]}


def test_spread_takes_all_racks_in_turn(cluster):
    assert list(racks_of(cluster, placed(cluster, "spread", 4))) == [1, 1, 1, 1]
    assert sorted(racks_of(cluster, placed(cluster, "spread", 6))) == [1, 1, 2, 2]


def test_random_depends_on_the_stream_alone(cluster):
    assert np.array_equal(
        placed(cluster, "random", 8, seed=1), placed(cluster, "random", 8, seed=1)
    )
    assert not np.array_equal(
        placed(cluster, "random", 8, seed=1), placed(cluster, "random", 8, seed=2)
    )


@pytest.mark.parametrize("policy", ["random", "packed", "spread"])
def test_a_job_waits_where_hosts_do_not_suffice(cluster, policy):
    assert placed(cluster, policy, 5, cluster.hosts[:4]) is None


def test_a_job_larger_than_the_cluster_is_refused(cluster):
    with pytest.raises(ValueError, match="job 'custom': workers=17 is more than the cluster's 16"):
        placed(cluster, "random", 17)


def test_a_trace_names_its_hosts(cluster):
    rng = np.random.default_rng(0)
    job = Job(bytes=1, workers=2, hosts=["host3", "host9"])
    hosts = place(cluster, job, cluster.hosts, "trace", rng)
    assert [cluster.nodes[h] for h in hosts] == ["host3", "host9"]
    assert place(cluster, job, cluster.hosts[:5], "trace", rng) is None
    with pytest.raises(ValueError, match="needs hosts="):
        place(cluster, Job(bytes=1, workers=2), cluster.hosts, "trace", rng)
    with pytest.raises(ValueError, match="'leaf0' is no host"):
        place(
            cluster, Job(bytes=1, workers=2, hosts=["host3", "leaf0"]), cluster.hosts, "trace", rng
        )


def test_an_unknown_policy_lists_those_there_are(cluster):
    with pytest.raises(
        ValueError, match=r"'pakced', did you mean 'packed'.*random, packed, spread"
    ):
        placed(cluster, "pakced", 2)
