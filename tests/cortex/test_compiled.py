"""Compiled code against a recursive NumPy version, on a program in normal form written by hand."""

import os
import platform
import subprocess
import sys
import threading
from typing import Any

import attrs
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cortex import ra  # noqa: E402
from cortex.compiled import Compiled, compile  # noqa: E402
from cortex.errors import BackendError, TokenError  # noqa: E402
from cortex.models import TreeLSTM  # noqa: E402
from tests.cortex.handmade import tree_lstm  # noqa: E402

VOCAB = 50


@attrs.frozen
class Node:
    token: int = -1
    children: tuple["Node", ...] = ()


@attrs.frozen
class Lowered:
    program: Any
    tables: tuple[Any, ...] = ()
    linear_options: dict[str, Any] = attrs.field(factory=dict)
    refused: tuple[Any, ...] = ()
    stages: tuple[Any, ...] = ()
    each_level: bool = False


def random_tree(rng: np.random.Generator, leaves: int) -> Node:
    if leaves == 1:
        return Node(int(rng.integers(VOCAB)))
    left = int(rng.integers(1, leaves))
    return Node(children=(random_tree(rng, left), random_tree(rng, leaves - left)))


def net(hidden: int, threads: int = 1, keep: Any = "root", columns: int | None = None) -> Compiled:
    model = ra.trace(TreeLSTM(hidden, VOCAB))
    rng = np.random.default_rng(hidden)
    params = {
        name: (rng.normal(size=shape) / hidden**0.5).astype(np.float32)
        for name, shape in model.params.items()
    }
    return Compiled(
        model,
        Lowered(tree_lstm(hidden, VOCAB, 8, columns)),
        params,
        backend="c",
        threads=threads,
        outputs=("h", "c"),
        keep=keep,
    )


def oracle(compiled: Compiled, tree: Node) -> tuple[np.ndarray, np.ndarray]:
    p = {k: v.astype(np.float64) for k, v in compiled._arrays.items()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def at(node: Node) -> tuple[np.ndarray, np.ndarray]:
        if not node.children:
            i, o, u, _ = np.split(p["E"][node.token] + p["b"], 4)
            c = sigmoid(i) * np.tanh(u)
            return sigmoid(o) * np.tanh(c), c
        (h0, c0), (h1, c1) = map(at, node.children)
        bi, bo, bu, bf = np.split(p["b"], 4)
        i, o, u = np.split((h0 + h1) @ p["Uiou"], 3)
        c = sigmoid(i + bi) * np.tanh(u + bu)
        c = c + sigmoid(h0 @ p["Uf"] + bf) * c0 + sigmoid(h1 @ p["Uf"] + bf) * c1
        return sigmoid(o + bo) * np.tanh(c), c

    return at(tree)


def trees(seed: int, sizes: tuple[int, ...] = (1, 2, 7, 40, 23)) -> list[Node]:
    rng = np.random.default_rng(seed)
    return [random_tree(rng, n) for n in sizes]


@pytest.mark.parametrize("hidden", [1, 15, 16, 17, 64, 100, 256])
def test_states_equal_the_recursive_version(hidden: int) -> None:
    compiled = net(hidden)
    batch = trees(hidden)
    root = compiled(batch).root
    for i, tree in enumerate(batch):
        for name, wanted in zip("hc", oracle(compiled, tree), strict=True):
            np.testing.assert_allclose(root[name][i].numpy(), wanted, atol=3e-6, rtol=3e-6)


def test_column_blocks_change_no_bit() -> None:
    batch = trees(1)
    whole, blocks = net(64)(batch).root["h"], net(64, columns=32)(batch).root["h"]
    assert torch.equal(whole, blocks)


def test_two_threads_change_no_bit() -> None:
    compiled = net(100)
    many = trees(2, (30,) * 40)
    one = compiled(many).root["h"]
    compiled._kernel.threads, compiled._kernel.alone = 2, 0
    for _ in range(5):
        assert torch.equal(compiled(many).root["h"], one)


def test_a_tree_alone_has_the_bits_it_has_in_a_batch() -> None:
    compiled = net(64)
    batch = trees(3)
    together = compiled(batch).root["h"]
    for i, tree in enumerate(batch):
        assert torch.equal(compiled(tree).root["h"][0], together[i])


def test_threads_may_call_at_once() -> None:
    compiled = net(64)
    batches = [trees(seed) for seed in range(8)]
    wanted = [compiled(batch).root["h"] for batch in batches]
    wrong: list[int] = []

    def call(i: int) -> None:
        for _ in range(50):
            if not torch.equal(compiled(batches[i]).root["h"], wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_all_states_are_kept_on_request() -> None:
    compiled = net(16, keep="all")
    result = compiled(trees(4))
    assert torch.equal(result.raw("h")[result.linear.roots.copy()], result.root["h"])
    assert result.node("c").shape == (len(result.linear.id_of), 16)


def test_states_that_were_not_kept_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="compile with keep='all'"):
        net(16)(trees(4)).raw("h")


def test_no_trees_give_no_rows() -> None:
    assert net(16)([]).root["h"].shape == (0, 16)


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(TokenError, match=str(VOCAB)):
        net(16)(Node(children=(Node(3), Node(VOCAB))))


def test_new_weights_are_taken_without_compiling() -> None:
    compiled = net(16)
    tree = trees(5, (9,))[0]
    compiled.update({k: 0.5 * v for k, v in compiled._arrays.items()})
    np.testing.assert_allclose(
        compiled(tree).root["h"][0].numpy(), oracle(compiled, tree)[0], atol=3e-6
    )


def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(BackendError, match="'c' or 'interp'"):
        compile(TreeLSTM(4, VOCAB), backend="cuda")  # type: ignore[arg-type]


_ALL_SIZES = """
from tests.cortex.test_compiled import net, trees, oracle
import numpy as np
for hidden in (1, 15, 16, 17, 64, 100, 256):
    compiled, tree = net(hidden), trees(hidden)[3]
    np.testing.assert_allclose(
        compiled(tree).root["h"][0].numpy(), oracle(compiled, tree)[0], atol=3e-6, rtol=3e-6)
print("done")
"""

# Below a vector, whole vectors, one lane more, and several blocks with a rest; each is compiled.
_SIZES = _ALL_SIZES.replace("(1, 15, 16, 17, 64, 100, 256)", "(1, 16, 17, 100)")
assert _SIZES != _ALL_SIZES

# MV-RNN has a matrix at every node: wider ones take the plain interpreter minutes.
_ALL_MODELS = """
import sys
sys.path.insert(0, "tests/cortex")
from tests.cortex import test_codegen_c as t
for name, options in t.MODELS.items():
    for hidden in (64, 100, 256):
        if name != "MVRNN" or hidden == 64:
            model = t.traced(name, hidden, **options)
            params = t.weights.load(model)
            net = t.compile(model, params, threads=1, keep="all")
            t.assert_equals_reference(net, t.forest_of(model), params)
print("done")
"""


def run_apart(script: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stderr[-3000:]


SCRIPTS = pytest.mark.parametrize(
    "script",
    [
        pytest.param(_SIZES, id="sizes"),
        pytest.param(_ALL_SIZES, id="all sizes", marks=pytest.mark.soak),
        pytest.param(_ALL_MODELS, id="models", marks=pytest.mark.soak),
    ],
)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@SCRIPTS
def test_sanitizers_find_nothing(script: str) -> None:
    runtime = subprocess.run(
        ["c++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    run_apart(
        script,
        MLSYS21_SANITIZE="address,undefined",
        LD_PRELOAD=runtime,
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="halt_on_error=1",
    )


@pytest.mark.soak
@pytest.mark.timeout(2400)
@SCRIPTS
@pytest.mark.parametrize("target", ["x86-64", "haswell"])  # without vectors of floats; AVX2
def test_other_processors_give_the_results_of_the_reference(script: str, target: str) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the targets are those of x86-64")
    run_apart(script, MLSYS21_MARCH=target)
