"""Recurrent networks as optimizers: the paper's GRU against independent implementations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tables import gru

import lrevopt as lo

UNITS = 5


def random_cell(seed, units=UNITS):
    """A GRUCell with all parts random, biases included."""
    random = np.random.default_rng(seed)
    cell = eqx.filter_eval_shape(lo.GRUCell, units, key=jr.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), cell)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cho(cell, gradient, hidden):
    """Cho et al. (2014), equations 5 to 8, unit by unit, from their text; here z is the share
    of the old state, as there, and every gate has one bias.
    """
    following = np.empty_like(hidden)
    for unit in range(len(hidden)):
        z_row, r_row = unit, len(hidden) + unit
        z = sigmoid(cell.gates[z_row] @ hidden + cell.inputs[z_row] * gradient + cell.bias[z_row])
        resets = [
            sigmoid(
                cell.gates[len(hidden) + j] @ hidden
                + cell.inputs[len(hidden) + j] * gradient
                + cell.bias[len(hidden) + j]
            )
            for j in range(len(hidden))
        ]
        recurrent = sum(cell.candidate[unit, j] * resets[j] * hidden[j] for j in range(len(hidden)))
        c_row = r_row + len(hidden)
        candidate = np.tanh(recurrent + cell.inputs[c_row] * gradient + cell.bias[c_row])
        following[unit] = z * hidden[unit] + (1 - z) * candidate
    return following


def test_gru_is_the_cell_of_cho_et_al():
    """Along 20 gradients, states and steps; input and output scales stand where they should."""
    random = np.random.default_rng(3)
    optimizer = lo.RecurrentOptimizer(random_cell(0), UNITS, input_scale=0.3, output_scale=0.7)
    weights, start = random.normal(size=(2, UNITS))
    optimizer = eqx.tree_at(
        lambda o: (o.weights, o.start), optimizer, (jnp.asarray(weights), jnp.asarray(start))
    )
    cell = jax.tree.map(np.asarray, optimizer.cell)
    transition = eqx.filter_jit(optimizer.transition)
    state, expected = optimizer.initial_state(), start
    for gradient in random.normal(size=20):
        state = transition(state, jnp.asarray(gradient))
        expected = cho(cell, 0.3 * gradient, expected)
        # Round-off of 20 contracting steps.
        np.testing.assert_allclose(state, expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(
            optimizer.readout @ state, 0.7 * weights @ expected, rtol=1e-10, atol=1e-13
        )


def as_equinox(cell):
    """The same weights in Equinox's cell, whose blocks are reset, update, candidate."""
    units = cell.candidate.shape[0]
    update, reset, candidate = np.split(np.arange(3 * units), 3)
    order = np.concatenate([reset, update, candidate])
    recurrent = jnp.concatenate([cell.gates, cell.candidate])
    return eqx.tree_at(
        lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n),
        eqx.filter_jit(eqx.nn.GRUCell)(1, units, key=jr.key(0)),
        (cell.inputs[order, None], recurrent[order], cell.bias[order], jnp.zeros(units)),
    )


@pytest.mark.parametrize(("diagonal", "agree"), [(True, True), (False, False)])
def test_equinox_resets_after_the_recurrent_product(diagonal, agree):
    """W (r h) and r (W h) are equal for a diagonal W, and for no other."""
    cell = random_cell(1)
    if diagonal:
        cell = eqx.tree_at(lambda c: c.candidate, cell, jnp.diag(jnp.diagonal(cell.candidate)))
    ours = lo.RecurrentOptimizer(cell, UNITS)
    theirs = lo.RecurrentOptimizer(as_equinox(cell), UNITS)
    state, gradient = jnp.linspace(-0.8, 0.9, UNITS), jnp.asarray(0.4)
    one, other = (eqx.filter_jit(o.transition)(state, gradient) for o in (ours, theirs))
    # Equal to round-off, or apart by far more than any round-off.
    assert (np.max(np.abs(one - other)) < 1e-14) == agree
    assert (np.max(np.abs(one - other)) < 1e-2) == agree


def test_an_untrained_optimizer_does_not_move():
    task = lo.Rosenbrock()
    optimizer = eqx.filter_jit(lo.GRUOptimizer)(8, key=jr.key(0))
    run = lo.unroll(optimizer, task, task.sample(jr.key(1)), 5)
    np.testing.assert_array_equal(run.parameters, np.tile(run.parameters[0], (6, 1)))


@pytest.mark.parametrize("input_deviation", [None, 1.0])
def test_the_draw_is_normal_with_zero_biases(input_deviation):
    """Deviation 1 / sqrt(units) throughout, unless input weights are told another."""
    cell = lo.GRUCell(128, key=jr.key(2), input_deviation=input_deviation)
    # Standard error of a deviation from n draws is about 1 / sqrt(2 n): 4 of them.
    for weights, deviation in (
        (cell.gates, 128**-0.5),
        (cell.candidate, 128**-0.5),
        (cell.inputs, input_deviation or 128**-0.5),
    ):
        assert abs(np.std(weights) / deviation - 1) < 4 / np.sqrt(2 * weights.size)
    assert not np.any(cell.bias)


def test_a_readout_bias_starts_at_zero_and_is_trained():
    plain, biased = (lo.GRUOptimizer(8, key=jr.key(0), bias=bias) for bias in (False, True))
    assert plain.bias is None
    assert biased.bias == 0.0
    assert biased.readout.shape == biased.initial_state().shape == (9,)
    assert len(jax.tree.leaves(eqx.filter(biased, eqx.is_inexact_array))) == 1 + len(
        jax.tree.leaves(eqx.filter(plain, eqx.is_inexact_array))
    )


def test_a_bias_is_a_coordinate_that_reads_one():
    """It adds output_scale * bias to every step and changes nothing else."""
    plain = gru(0.1)
    biased = lo.RecurrentOptimizer(
        plain.cell, 8, input_scale=plain.input_scale, output_scale=plain.output_scale, bias=True
    )
    biased = eqx.tree_at(
        lambda o: (o.weights, o.start, o.bias),
        biased,
        (plain.weights, plain.start, jnp.asarray(0.3)),
    )
    assert biased.initial_state()[-1] == 1.0
    gradient = jnp.asarray(2.0)
    state = eqx.filter_jit(biased.transition)(biased.initial_state(), gradient)
    without = eqx.filter_jit(plain.transition)(plain.initial_state(), gradient)
    np.testing.assert_allclose(state, jnp.append(without, 1.0), rtol=1e-14)
    step = biased.readout @ state - plain.readout @ without
    np.testing.assert_allclose(step, plain.output_scale * 0.3, rtol=1e-12)


def test_any_callable_with_the_signature_is_a_cell():
    """Momentum, written as a cell."""
    cell = lo.RecurrentOptimizer(lambda inputs, hidden: 0.9 * hidden + inputs, 1)
    cell = eqx.tree_at(lambda o: o.weights, cell, jnp.array([-0.01]))
    task = lo.LinearRegression(dim=2)
    problem = task.sample(jr.key(5))
    ours, expected = (lo.unroll(o, task, problem, 10) for o in (cell, lo.Momentum(0.01, 0.9)))
    np.testing.assert_allclose(ours.parameters, expected.parameters, rtol=1e-12)


def test_a_cell_with_a_tuple_state_is_one_vector():
    """An LSTM of Equinox: hidden state and memory one after another, as in a loop."""
    cell = eqx.nn.LSTMCell(1, 3, key=jr.key(4))
    optimizer = lo.RecurrentOptimizer(cell, 3, input_scale=0.5)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=6))
    optimizer = eqx.tree_at(lambda o: o.weights, optimizer, weights)
    state, pair = optimizer.initial_state(), (jnp.zeros(3), jnp.zeros(3))
    for gradient in (0.3, -2.0, 1.0):
        state = optimizer.transition(state, jnp.asarray(gradient))
        pair = cell(jnp.asarray([0.5 * gradient]), pair)
        np.testing.assert_allclose(state, jnp.concatenate(pair), rtol=1e-12)
        np.testing.assert_allclose(optimizer.readout @ state, weights @ state, rtol=1e-12)
    again = lo.RecurrentOptimizer(optimizer.cell, optimizer.start.size)
    assert again.initial_state().shape == state.shape
