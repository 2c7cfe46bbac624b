"""DCTCP against ns-3, where it is installed; the scenario both get, everywhere."""

import numpy as np
import pytest

from common.extras import MissingExtra
from panama import core
from panama.peers import ns3


def test_our_plan_takes_the_paths_that_the_program_routes():
    scenario = ns3.Scenario.draw(30, 0.5, 1)
    plan = scenario.plan()
    net, flows = plan.network, plan.flows
    assert len(scenario.src) == 30
    for i, (src, dst) in enumerate(zip(scenario.src, scenario.dst, strict=True)):
        path = flows.path[flows.path_ptr[i] : flows.path_ptr[i + 1]]
        nodes = [*net.src[path], net.dst[path[-1]]]
        leaf = 64 + np.array([src, dst]) // 8
        spine = [] if leaf[0] == leaf[1] else [72 + dst % 4]
        wanted = [src, *leaf[: 2 if spine else 1], dst]
        wanted[2:2] = spine
        assert nodes == wanted


def test_the_program_is_told_every_flow():
    scenario = ns3.Scenario.draw(12, 0.5, 2)
    lines = scenario.text(0.5).splitlines()
    assert lines[0] == "8 8 4 100 500 65 0.5 12"
    rows = np.array([line.split() for line in lines[1:]], dtype=np.int64)
    assert (rows[:, 0] == scenario.start_ps).all()
    assert (rows[:, 3] == 2_000_000).all()


def test_without_ns3_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setattr(ns3.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"mlsys21\[ns3\]"):
        ns3.Program(ns3.Scenario.draw(10, 0.5, 1))


@pytest.mark.slow
@pytest.mark.ns3
@pytest.mark.timeout(600)
def test_completion_times_are_those_of_ns3():
    try:
        ns3.build()
    except MissingExtra as error:
        pytest.skip(str(error))
    alone = ns3.Scenario.draw(1, 0.01, 5)
    scenario = ns3.Scenario.draw(60, 0.5, 3)
    for flows, mean, tail in ((alone, 0.001, 0.001), (scenario, 0.1, 0.2)):
        outcome = core.run(flows.plan())
        ours = (outcome.flow_end_ps - flows.start_ps) * 1e-12
        with ns3.Program(flows) as program:
            theirs = program.run()
        assert theirs.packets == outcome.data_packets
        assert ours.mean() == pytest.approx(theirs.fct_s.mean(), rel=mean)
        assert np.quantile(ours, 0.99) == pytest.approx(np.quantile(theirs.fct_s, 0.99), rel=tail)
