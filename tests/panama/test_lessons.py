"""Pictures to train on: shapes, repeatability, and that they can be learned."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from panama import lessons  # noqa: E402


@pytest.mark.parametrize("name", lessons.NAMES)
def test_a_seed_draws_the_same_pictures(name):
    x, classes = lessons.draw(name, 50, seed=3)
    assert x.shape == (50, 1, lessons.SIDE, lessons.SIDE)
    assert x.dtype == torch.float32
    assert set(classes.tolist()) <= set(range(10))
    again, same = lessons.draw(name, 50, seed=3)
    assert torch.equal(x, again)
    assert torch.equal(classes, same)
    assert not torch.equal(x, lessons.draw(name, 50, seed=4)[0])


@pytest.mark.parametrize(("name", "share"), [("patterns", 0.95), ("digits", 0.4)])
def test_nearest_neighbours_recognise_most(name, share):
    x, classes = (t.numpy() for t in lessons.draw(name, 1500, seed=1))
    flat = x.reshape(len(x), -1)
    known, asked = flat[:1200], flat[1200:]
    nearest = np.argmin(((asked[:, None] - known[None]) ** 2).sum(-1), axis=1)
    assert (classes[:1200][nearest] == classes[1200:]).mean() > share  # by chance 0.1


def test_digits_differ_and_stay_inside():
    glyphs = lessons._glyphs()
    assert glyphs.shape == (10, 7, 5)
    assert len({glyph.tobytes() for glyph in glyphs}) == 10
    assert all(glyph.any(axis=1).all() for glyph in glyphs)


def test_unknown_pictures_are_refused():
    with pytest.raises(ValueError, match="pictures must be one of patterns, digits, got 'cats'"):
        lessons.draw("cats", 1, seed=0)
