"""The same DCTCP flows in ns-3 and here: a scenario, our plan of it, and ns-3's program for it.

ns-3 is GPL: its program is compiled from ns3_dctcp.cc against an installed ns-3 (pip install
"mlsys21[ns3]") and runs as a process of its own; nothing of it is linked into this package.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

import attrs
import numpy as np

from common.cache_folder import cache_folder
from common.clock import ProcessClock
from common.extras import MissingExtra
from panama.cluster import Cluster
from panama.plan import Float64, Flows, Int64, Plan
from panama.planning import make_plan
from panama.schemes import scheme
from panama.traffic import Arrivals, Traffic
from panama.windows import wire_of

_SOURCE = Path(__file__).with_name("ns3_dctcp.cc")
_LIBRARIES = ("core", "network", "internet", "point-to-point", "traffic-control", "applications")
#: ns-3's cables have a header of 2 bytes, where Ethernet has 38; with TCP and IPv4's 40.
HEADER = 42
_MTU = 1500


@attrs.frozen(eq=False)
class Scenario:
    """DCTCP flows of one size over a leaf-spine; those to host h go up over spine h mod spines.

    start_ps: (flows,) rising;  src, dst: (flows,) hosts
    """

    leaves: int
    hosts_per_leaf: int
    spines: int
    prop_ns: float
    mark_packets: int
    n_bytes: int
    start_ps: Int64
    src: Int64
    dst: Int64

    @classmethod
    def draw(
        cls, flows: int, load: float, seed: int, n_bytes: int = 2_000_000, **shape: int
    ) -> Scenario:
        """The first flows of Poisson arrivals on 64 hosts at 100 Gb/s, unless shape says other."""
        shape = {"leaves": 8, "hosts_per_leaf": 8, "spines": 4, "mark_packets": 65, **shape}
        cluster = _cluster(shape["leaves"], shape["hosts_per_leaf"], shape["spines"], 500.0, 65)
        rate = load * len(cluster.hosts) * 12.5e9 / n_bytes
        drawn = Traffic.fixed(n_bytes, load).draw(cluster, 3 * (flows + 10) / rate, seed)
        if len(drawn) < flows:
            raise ValueError(f"wanted {flows} flows, drew {len(drawn)}: use another seed")
        place = np.searchsorted(cluster.hosts, np.stack([drawn.src, drawn.dst]))[:, :flows]
        return cls(
            **shape,
            prop_ns=500.0,
            n_bytes=n_bytes,
            start_ps=drawn.start_ps[:flows],
            src=place[0].astype(np.int64),
            dst=place[1].astype(np.int64),
        )

    def plan(self) -> Plan:
        """Ours."""
        cluster = _cluster(
            self.leaves, self.hosts_per_leaf, self.spines, self.prop_ns, self.mark_packets
        )
        wire = attrs.evolve(wire_of(_MTU), header=HEADER, ack=HEADER)
        n = len(self.start_ps)
        arrivals = Arrivals(
            self.start_ps,
            cluster.hosts[self.src],
            cluster.hosts[self.dst],
            np.full(n, self.n_bytes, dtype=np.int64),
        )
        plan = make_plan(cluster, [], arrivals, scheme("none"), 0, wire)
        return attrs.evolve(plan, flows=self._over_its_spines(cluster, plan.flows))

    def _over_its_spines(self, cluster: Cluster, flows: Flows) -> Flows:
        net = cluster.network
        number = {name: i for i, name in enumerate(cluster.nodes)}
        link = {pair: i for i, pair in enumerate(zip(net.src, net.dst, strict=True))}
        paths = []
        for src, dst in zip(self.src.tolist(), self.dst.tolist(), strict=True):
            leaf = [f"leaf{host // self.hosts_per_leaf}" for host in (src, dst)]
            way = [f"host{src}", *leaf, f"host{dst}"]
            if leaf[0] == leaf[1]:
                del way[1]
            else:
                way.insert(2, f"spine{dst % self.spines}")
            nodes = [number[name] for name in way]
            paths.append([link[pair] for pair in itertools.pairwise(nodes)])
        ptr = np.concatenate([[0], np.cumsum([len(path) for path in paths])]).astype(np.int64)
        return attrs.evolve(flows, path_ptr=ptr, path=np.concatenate(paths).astype(np.int32))

    def text(self, horizon_s: float) -> str:
        """As the program reads it."""
        rows = [
            f"{self.leaves} {self.hosts_per_leaf} {self.spines} 100 {self.prop_ns:g} "
            f"{self.mark_packets} {horizon_s!r} {len(self.start_ps)}"
        ]
        rows += [
            f"{start} {src} {dst} {self.n_bytes}"
            for start, src, dst in zip(self.start_ps, self.src, self.dst, strict=True)
        ]
        return "".join(f"{row}\n" for row in rows)


@attrs.frozen(eq=False)
class Run:
    """What ns-3 found: data packets received, its own seconds, (flows,) seconds of each.

    A flow's time counts from its connection being there, as ours have no handshake.
    """

    packets: int
    seconds: float
    fct_s: Float64


class Program:
    """ns-3 with a scenario: a process that simulates it as often as it is asked.

    Raises MissingExtra without ns-3, RuntimeError where its program does not compile or ends.
    """

    def __init__(self, scenario: Scenario, horizon_s: float = 1.0) -> None:
        self._process = subprocess.Popen(
            [build()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._write(scenario.text(horizon_s))

    @property
    def clock(self) -> ProcessClock:
        """Counts what ns-3 computes while the caller waits."""
        return ProcessClock(self._process.pid)

    def run(self) -> Run:
        """Simulate from the start."""
        self._write("run\n")
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        if not words:
            raise RuntimeError(f"ns-3 ended with exit code {self._process.wait()}")
        took = np.array([float(word) for word in words[2:]], dtype=np.float64)
        if (took < 0).any():
            raise RuntimeError(f"{(took < 0).sum()} of ns-3's flows did not end by its horizon")
        seconds: Float64 = took * 1e-12
        return Run(int(words[0]), float(words[1]), seconds)

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def build() -> Path:
    """The compiled program; made once for a version of it and of ns-3."""
    root = _find()
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("g++ is needed to compile ns-3's program: apt-get install g++")
    version = importlib.metadata.version("ns3")
    key = hashlib.sha256(f"{version} {root}".encode() + _SOURCE.read_bytes()).hexdigest()[:16]
    program = cache_folder() / f"ns3-dctcp-{key}"
    if program.exists():
        return program
    beside = program.with_name(f"{program.name}.{os.getpid()}.tmp")
    command = [
        compiler, "-std=c++23", "-O2", "-I", str(root / "include"), str(_SOURCE), "-o", str(beside),
        "-L", str(root / "lib64"), f"-Wl,-rpath,{root / 'lib64'}",
        *(f"-lns{version[:4]}-{name}" for name in _LIBRARIES),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ns-3's program does not compile:\n{done.stderr[-2000:]}")
    beside.replace(program)
    return program


def _find() -> Path:
    """Folder of ns-3; it is not imported, as that would load its Python side."""
    spec = importlib.util.find_spec("ns3")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra('ns3 is needed to run its peer: pip install "mlsys21[ns3]"', name="ns3")
    return Path(next(iter(spec.submodule_search_locations)))


def _cluster(
    leaves: int, hosts_per_leaf: int, spines: int, prop_ns: float, mark_packets: int
) -> Cluster:
    return Cluster.clos(
        leaves=leaves,
        hosts_per_leaf=hosts_per_leaf,
        spines=spines,
        prop_ns=prop_ns,
        ecn_k=mark_packets * (_MTU + 2),
        buffer=10_000 * (_MTU + 2),
    )
