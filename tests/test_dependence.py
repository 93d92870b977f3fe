"""Which entries reach which, read off traced programs: against what perturbations show."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lrevopt.optimizers.optax.dependence import Analysis, Traced

SIZE = 6


def labels_of(function: Callable[..., Any], *, assume_finite: bool = False) -> np.ndarray:
    """Input entries that may reach each output entry: booleans (output, input)."""
    program = jax.make_jaxpr(function)(jnp.zeros(SIZE))
    start = Traced(np.uint64(1) << np.arange(SIZE, dtype=np.uint64))
    (found,) = Analysis(lambda mask: False, assume_finite=assume_finite).run(program, [start])
    mask = found.mask.reshape(-1)
    assert found.mask.shape == program.out_avals[0].shape
    return (mask[:, None] >> np.arange(SIZE, dtype=np.uint64)) & np.uint64(1) == 1


def seen_in(function: Callable[..., Any]) -> np.ndarray:
    """Input entries whose change was seen to change an output entry."""
    random = np.random.default_rng(0)
    compiled = jax.jit(function)
    seen: Any = False
    for _ in range(30):
        point = random.normal(size=SIZE)
        before = np.asarray(compiled(point), float).reshape(-1)
        columns = []
        for entry in range(SIZE):
            other = point.copy()
            other[entry] = random.normal() * 3
            after = np.asarray(compiled(other), float).reshape(-1)
            columns.append(after != before)
        seen = seen | np.stack(columns, axis=1)
    return seen


def many_turns(x):
    """A chain of neighbours: entry 0 reaches entry 5 only in the fifth turn."""
    return lax.fori_loop(0, 5, lambda _, c: c + jnp.pad(c[:-1], (1, 0)), x)


def scanned(x):
    """Running products of rows, and rows scaled by themselves."""
    total, rows = lax.scan(lambda c, row: (c * row.sum(), row * 2), 1.0, x.reshape(3, 2))
    return jnp.append(rows.reshape(-1), total)


def ring(x):
    """Each entry is written into a buffer at a place that a counter tells, and read again."""
    place = jnp.arange(3).sum() % 2
    buffer = jnp.zeros((2, SIZE))
    buffer = lax.dynamic_update_index_in_dim(buffer, x, place, 0)
    return lax.dynamic_index_in_dim(buffer, place, 0, keepdims=False)


EXACT: dict[str, Callable[..., Any]] = {
    "entrywise": lambda x: jnp.tanh(x) * x + jnp.where(x > 0, x, 0.1 * x) + jnp.clip(x, -1, 1),
    "mean": lambda x: x - x.mean(),
    "rows": lambda x: x.reshape(2, 3) / jnp.abs(x.reshape(2, 3)).max(axis=1, keepdims=True),
    "product": lambda x: x.reshape(2, 3).T @ x.reshape(2, 3)[:, :1],
    "batched": lambda x: jnp.einsum("bij,bj->bi", x.reshape(3, 1, 2), x.reshape(3, 2)),
    "outer": lambda x: x[:3, None] * x[None, 3:],
    "cumsum": jnp.cumsum,
    "cummax": lambda x: lax.cummax(x, reverse=True),
    "sorted_rows": lambda x: jnp.sort(x.reshape(3, 2), axis=1),
    "top": lambda x: lax.top_k(x.reshape(2, 3), 2)[0],
    "reversed": lambda x: jnp.flip(x)[1:],
    "moved": lambda x: jnp.roll(x.reshape(2, 3), 1, axis=0).T,
    "joined": lambda x: jnp.concatenate([x[4:], x[:2], jnp.zeros(2)]),
    "stacked": lambda x: jnp.stack([x[:3], 2 * x[3:]], axis=1),
    "unstacked": lambda x: jnp.stack(jnp.unstack(x.reshape(2, 3), axis=1)[1:]),
    "tiled": lambda x: jnp.tile(x.reshape(2, 3), (2, 1)),
    "padded": lambda x: lax.pad(x, 0.0, [(-1, 2, 1)]),
    "argument": lambda x: jnp.argmax(x.reshape(2, 3), axis=1),
    "condition": lambda x: lax.cond(x[0] > 0, lambda y: y, lambda y: -y, x),
    "loop": many_turns,
    "called": lambda x: jax.jit(jax.nn.relu)(jax.checkpoint(jnp.sin)(x)),
    "mapped": lambda x: lax.map(lambda row: row.sum(), x.reshape(3, 2)),
    "sampled": lambda x: x * (jax.random.uniform(jax.random.key(0), (SIZE,)) + 0.5),
    "finite": lambda x: jnp.where(jnp.isfinite(x), x, 0.0),
}
"""Programs on six numbers of which every dependence that is read off can be seen."""

WIDER: dict[str, Callable[..., Any]] = {
    "scan": scanned,
    "ring": ring,
    "until": lambda x: lax.while_loop(lambda c: jnp.abs(c).sum() < 5, lambda c: 2 * c, x),
    "whole_rows": lambda x: x.reshape(3, 2)[jnp.array([0])].sum(axis=0),
    "gathered": lambda x: x[jnp.array([5, 0])],
    "scattered": lambda x: jnp.zeros(3).at[jnp.array([1, 2, 2])].add(x[:3]),
    "scattered_least": lambda x: x.at[jnp.array([1, 2])].min(x[:2]),
    "solved": lambda x: jnp.linalg.solve(jnp.eye(2) * 3 + x[:4].reshape(2, 2), x[4:]),
    "zero": lambda x: 0.0 * x.sum() + x,
    "median": lambda x: x - jnp.median(x),
}
"""Programs of which more is read off than there is, but nothing is missed."""


@pytest.mark.parametrize("name", EXACT)
def test_dependence_is_what_perturbations_show(name):
    np.testing.assert_array_equal(labels_of(EXACT[name]), seen_in(EXACT[name]))


@pytest.mark.parametrize("name", WIDER)
def test_nothing_is_missed(name):
    found, seen = labels_of(WIDER[name]), seen_in(WIDER[name])
    assert np.all(found >= seen)
    assert seen.any()


def test_a_buffer_that_is_read_at_an_unknown_place_keeps_entries_apart():
    """Delayed gradients are component-wise: only the axis of time is read in part."""
    np.testing.assert_array_equal(labels_of(ring), np.eye(SIZE, dtype=bool))


@pytest.mark.parametrize("kind", ["add", "min", "max", "multiply"])
def test_what_is_written_into_whole_rows_keeps_columns_apart(kind):
    """Row 1 of a table: entry (1, n) has the labels of columns n alone."""

    def written(x):
        table = x.reshape(2, 3)
        return getattr(table.at[jnp.array([1])], kind)(table[:1])

    columns = np.tile(np.eye(3, dtype=bool), (2, 2))
    assert not np.any(labels_of(written) & ~columns)


def test_finiteness_is_one_outcome_where_it_is_assumed():
    def stops(x):
        finite = jnp.isfinite(x).all() & ~jnp.isnan(x).any() & ~jnp.isinf(x).any()
        return jnp.where(finite, x, 0.0)

    assert labels_of(stops).all()
    np.testing.assert_array_equal(labels_of(stops, assume_finite=True), np.eye(SIZE, dtype=bool))


def test_an_unknown_operation_couples_everything():
    def called(x):
        return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct((SIZE,), float), x)

    assert labels_of(called).all()
