"""Optimizers: closed forms, agreement with optax, and what every one of them satisfies."""

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tables import FROM_OPTAX, OPTIMIZERS, WRAPPED, Quadratic, linear, mostly_long

import lrevopt as lo
from lrevopt.inner_loop.steps import transitions
from lrevopt.optimizers.interface import check_state, state_size
from lrevopt.optimizers.wrappers import ScaledGradients


@eqx.filter_jit
def updates(optimizer, gradients):
    """Steps on one parameter that is fed these gradients."""

    def body(state, gradient):
        state = optimizer.transition(state, gradient)
        return state, optimizer.readout @ state

    return jax.lax.scan(body, optimizer.initial_state(), gradients)[1]


def sequence(seed, length):
    return jnp.asarray(np.random.default_rng(seed).normal(size=length))


def orbit(matrix, start, steps):
    """The last coordinate of `matrix^k start`, k = 0 ... steps."""
    return [(np.linalg.matrix_power(matrix, k) @ start)[-1] for k in range(steps + 1)]


OPTAX = {
    "gradient_descent": (lo.GradientDescent(0.1), optax.sgd(0.1)),
    "clipped": (
        lo.ClippedGradientDescent(0.1, 0.7),
        optax.chain(optax.clip(0.7), optax.sgd(0.1)),
    ),
    "momentum": (lo.Momentum(0.1, 0.95), optax.sgd(0.1, momentum=0.95)),
    "nesterov": (lo.Nesterov(0.1, 0.95), optax.sgd(0.1, momentum=0.95, nesterov=True)),
    "rmsprop": (lo.RMSProp(0.1), optax.rmsprop(0.1, decay=0.9, eps=1e-8)),
    "rmsprop_slow": (lo.RMSProp(0.1, 0.99, 1e-3), optax.rmsprop(0.1, decay=0.99, eps=1e-3)),
    "adam": (lo.Adam(0.1), optax.adam(0.1)),
    "adam_fast": (lo.Adam(0.1, 0.7, 0.8, 1e-3), optax.adam(0.1, b1=0.7, b2=0.8, eps=1e-3)),
}


@pytest.mark.parametrize("name", mostly_long(OPTAX, "clipped", "nesterov", "adam"))
def test_updates_agree_with_optax(name):
    """200 updates, both fed the same gradients: a closed loop near RMSProp's oscillation is
    chaotic. Sizes spread over decades; one gradient is exactly 0.
    """
    ours, theirs = OPTAX[name]
    random = np.random.default_rng(0)
    gradients = 10 ** random.uniform(-3, 2, 200) * random.choice([-1.0, 1.0], 200)
    gradients[17] = 0.0
    with jax.numpy_dtype_promotion("standard"):  # optax mixes int and float in its bias correction

        def body(state, gradient):
            step, state = theirs.update(gradient, state)
            return state, step

        expected = jax.lax.scan(body, theirs.init(jnp.zeros(())), jnp.asarray(gradients))[1]
    # Round-off of sums of 200 terms; absolute where such a sum cancels.
    np.testing.assert_allclose(
        updates(ours, jnp.asarray(gradients)), expected, rtol=1e-10, atol=1e-13
    )


def on_quadratic(optimizer, curvature, start, steps):
    task = Quadratic(jnp.array([curvature]), jnp.array([start]))
    return lo.unroll(optimizer, task, task.sample(jr.key(0)), steps).parameters[:, 0]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
def test_momentum_orbit_is_a_matrix_power(beta):
    """On the loss c x^2 / 2 the pair (v, x) obeys a fixed linear recurrence."""
    c, rate, x0 = 2.0, 0.1, 3.0
    matrix = np.array([[beta, c], [-rate * beta, 1 - rate * c]])
    orbit_of_x = orbit(matrix, [0.0, x0], 20)
    # Round-off of 20 steps; absolute, because the orbit crosses zero.
    np.testing.assert_allclose(
        on_quadratic(lo.Momentum(rate, beta), c, x0, 20), orbit_of_x, rtol=0, atol=1e-12
    )


def test_nesterov_orbit_is_a_matrix_power():
    """v' = b v + c x and x' = x - a (c x + b v'), solved for (v, x)."""
    c, a, b, x0 = 2.0, 0.1, 0.8, 3.0
    matrix = np.array([[b, c], [-a * b**2, 1 - a * c - a * b * c]])
    run = on_quadratic(lo.Nesterov(a, b), c, x0, 20)
    np.testing.assert_allclose(run, orbit(matrix, [0.0, x0], 20), rtol=0, atol=1e-12)


def test_aggregated_momentum_orbit_is_a_matrix_power():
    c, x0 = 2.0, 3.0
    rates, momenta = np.array([0.05, 0.03, 0.01]), np.array([0.0, 0.9, 0.99])
    matrix = np.block(
        [
            [np.diag(momenta), np.full((3, 1), c)],
            [-rates * momenta, 1 - c * rates.sum()],
        ]
    )
    run = on_quadratic(lo.AggregatedMomentum(rates, momenta), c, x0, 20)
    np.testing.assert_allclose(run, orbit(matrix, [0.0, 0.0, 0.0, x0], 20), rtol=0, atol=1e-12)


def test_one_velocity_is_momentum():
    gradients = sequence(3, 30)
    one = updates(lo.AggregatedMomentum([0.1], [0.9]), gradients)
    np.testing.assert_array_equal(one, updates(lo.Momentum(0.1, 0.9), gradients))


def test_linear_orbit_is_a_matrix_power():
    """(h - h*, x) obeys a fixed linear recurrence, with a constant because F(h*) is not h*."""
    c, x0 = 2.0, 3.0
    optimizer = lo.LinearOptimizer(
        fixed_point=jnp.array([0.1, -0.2]),
        recurrent=jnp.array([[0.8, 0.1], [-0.2, 0.5]]),
        inputs=jnp.array([1.0, 0.5]),
        readout=jnp.array([-0.1, -0.03]),
        gradient=0.4,
        next_state=jnp.array([0.15, -0.1]),
        start=jnp.array([0.3, 0.4]),
    )
    A, B, w = (
        np.asarray(part) for part in (optimizer.recurrent, optimizer.inputs, optimizer.readout)
    )
    point, following = np.asarray(optimizer.fixed_point), np.asarray(optimizer.next_state)
    constant = following - A @ point - 0.4 * B
    # Rows: h' = A h + B c x + constant;  1' = 1;  x' = x + w . h'.
    top = np.column_stack([A, constant, B * c])
    matrix = np.vstack([top, [0, 0, 1, 0], w @ top + [0, 0, 0, 1]])
    run = on_quadratic(optimizer, c, x0, 20)
    np.testing.assert_allclose(run, orbit(matrix, [0.3, 0.4, 1.0, x0], 20), rtol=0, atol=1e-12)


def test_linear_optimizer_rests_at_its_fixed_point():
    optimizer = linear(0.1)
    point = optimizer.fixed_point
    np.testing.assert_array_equal(optimizer.transition(point, jnp.zeros(())), point)


def test_a_real_mode_is_momentum():
    gradients = sequence(4, 30)
    mode = updates(lo.ModeOptimizer(jnp.array([0.9]), jnp.array([0.1])), gradients)
    np.testing.assert_allclose(mode, updates(lo.Momentum(0.1, 0.9), gradients), rtol=1e-13)


def test_a_complex_pair_is_a_rotation():
    """v' = lam v + g over the complex numbers, x' = x - 2 Re(alpha v'), as a real recurrence."""
    c, x0, lam, alpha = 2.0, 3.0, 0.8 + 0.4j, 0.05 - 0.02j
    top = np.array([[lam.real, -lam.imag, c], [lam.imag, lam.real, 0.0]])
    step = -2 * np.array([alpha.real, -alpha.imag])
    matrix = np.vstack([top, step @ top + [0, 0, 1]])
    pair = lo.ModeOptimizer(
        jnp.array([lam, lam.conjugate()]), jnp.array([alpha, alpha.conjugate()])
    )
    run = on_quadratic(pair, c, x0, 30)
    np.testing.assert_allclose(run, orbit(matrix, [0.0, 0.0, x0], 30), rtol=0, atol=1e-12)


@hypothesis.given(
    scale=st.floats(1e-3, 1e3),
    gradients=st.lists(st.floats(-10, 10), min_size=5, max_size=5),
)
def test_adam_and_rmsprop_do_not_see_the_unit_of_the_loss(scale, gradients):
    """With epsilon in the unit of its place: |g| for Adam, g^2 for RMSProp."""
    gradients = jnp.array(gradients)
    pairs = [
        (lo.Adam(0.1, 0.9, 0.95, 1e-2), lo.Adam(0.1, 0.9, 0.95, 1e-2 * scale)),
        (lo.RMSProp(0.1, 0.9, 1e-2), lo.RMSProp(0.1, 0.9, 1e-2 * scale**2)),
    ]
    for one, other in pairs:
        # Round-off only, relative to steps of at most about 0.3.
        np.testing.assert_allclose(
            updates(one, gradients), updates(other, scale * gradients), rtol=1e-10, atol=1e-12
        )


@hypothesis.given(factor=st.floats(-100, 100))
def test_velocities_are_linear_in_the_gradients(factor):
    gradients = sequence(5, 10)
    for name in ("momentum", "nesterov", "aggregated", "modes"):
        optimizer = OPTIMIZERS[name](0.1)
        np.testing.assert_allclose(
            updates(optimizer, factor * gradients),
            factor * updates(optimizer, gradients),
            rtol=1e-12,
            atol=1e-12,
        )


def test_adam_can_rest_and_has_derivatives_at_rest():
    """At v = 0 the root of v has no derivative; the step's derivatives are finite all the same."""
    adam = lo.Adam(0.1)
    rest = jnp.zeros(5)
    np.testing.assert_array_equal(adam.transition(rest, jnp.zeros(())), rest)
    states = jnp.stack([rest, adam.initial_state()])
    for jacobian in (jax.jacfwd, jax.jacrev):
        derivatives = jax.jit(jax.vmap(jacobian(adam.transition, (0, 1)), (0, None)))
        to_state, to_gradient = derivatives(states, jnp.zeros(()))
        assert np.all(np.isfinite(to_state))
        assert np.all(np.isfinite(to_gradient))
    # At rest, the direction moves by (1 - b1) g / epsilon.
    np.testing.assert_allclose(to_gradient[0, 4], (1 - 0.9) / 1e-8, rtol=1e-12)


STACKABLE = OPTIMIZERS | WRAPPED
EVERY = STACKABLE | FROM_OPTAX


@pytest.mark.parametrize(
    "name", mostly_long(EVERY, "momentum", "adam", "gru", "forgetting", "optax_adam")
)
def test_every_optimizer_is_a_pytree_of_one_dtype_and_flat_states(name):
    optimizer = EVERY[name](0.1)
    state = optimizer.initial_state()
    following = eqx.filter_jit(optimizer.transition)(state, jnp.asarray(0.3))
    assert state.shape == following.shape == optimizer.readout.shape == (state_size(optimizer),)
    leaves = jax.tree.leaves(eqx.filter(optimizer, eqx.is_array))
    assert {leaf.dtype for leaf in (*leaves, state, following)} == {jnp.dtype(float)}


@pytest.mark.parametrize(
    "name", mostly_long(EVERY, "momentum", "adam", "gru", "forgetting", "optax_adam")
)
def test_mapped_over_parameters_each_is_on_its_own(name):
    """States of a vmap over the last axis, as `unroll` does it, are those of a loop."""
    optimizer = EVERY[name](0.1)
    size = state_size(optimizer)
    random = np.random.default_rng(4)
    states = np.asarray(optimizer.initial_state())[:, None] + 0.1 * random.random((size, 3))
    gradients = jnp.asarray(random.normal(size=3))
    mapped = eqx.filter_jit(transitions)(optimizer, jnp.asarray(states), gradients, jnp.zeros(3))
    once = eqx.filter_jit(optimizer.transition)
    for lane in range(3):
        alone = once(jnp.asarray(states[:, lane]), gradients[lane])
        np.testing.assert_allclose(mapped[:, lane], alone, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", mostly_long(STACKABLE, "momentum", "adam", "gru", "forgetting"))
def test_a_stacked_module_is_a_loop_over_settings(name):
    settings = [STACKABLE[name](rate) for rate in (0.02, 0.1, 0.3)]
    leaves = [eqx.partition(optimizer, eqx.is_array) for optimizer in settings]
    stacked = jax.tree.map(lambda *leaf: jnp.stack(leaf), *[arrays for arrays, _ in leaves])
    stacked = eqx.combine(stacked, leaves[0][1])
    gradients = sequence(6, 10)
    together = eqx.filter_vmap(updates, in_axes=(eqx.if_array(0), None))(stacked, gradients)
    for run, optimizer in zip(together, settings, strict=True):
        # Batched matrix products may sum in another order.
        np.testing.assert_allclose(run, updates(optimizer, gradients), rtol=1e-11, atol=1e-14)


REFUSED = {
    "rate": (lambda: lo.GradientDescent(-0.1), "`learning_rate` must be finite and at least 0"),
    "nan": (lambda: lo.Momentum(float("nan"), 0.9), "`learning_rate` must be finite .* nan"),
    "momentum": (lambda: lo.Momentum(0.1, float("inf")), "`momentum` must be finite, got inf"),
    "threshold": (lambda: lo.ClippedGradientDescent(0.1, -1), "`threshold` .* at least 0, got -1"),
    "decay": (lambda: lo.RMSProp(0.1, float("nan")), "`decay` must be finite"),
    "decay 1.5": (lambda: lo.RMSProp(0.1, 1.5), "`decay` must be at most 1, got 1.5"),
    "decay -0.1": (
        lambda: lo.RMSProp(0.1, -0.1),
        "`decay` must be finite and at least 0, got -0.1",
    ),
    "b1 -1": (lambda: lo.Adam(0.1, -1.0), "`b1` must be above -1, got -1"),
    "b2 -0.9": (lambda: lo.Adam(0.1, b2=-0.9), "`b2` must be finite and at least 0, got -0.9"),
    "epsilon": (lambda: lo.RMSProp(0.1, 0.9, 0.0), "`epsilon` must be finite and at least"),
    "adam": (lambda: lo.Adam(0.1, 0.9, float("nan")), "`b2` must be finite"),
    "rate_of_two": (
        lambda: lo.Momentum(jnp.array([0.1, 0.2]), 0.9),
        r"`learning_rate` must be a scalar, got shape \(2,\)",
    ),
    "rates": (
        lambda: lo.AggregatedMomentum([0.1, 0.2], [0.9]),
        r"`learning_rates` and `momenta` must be lists of one length, got shapes \(2,\) and \(1,\)",
    ),
    "no_rates": (lambda: lo.AggregatedMomentum([], []), "must be lists of one length"),
    "modes": (
        lambda: lo.ModeOptimizer(jnp.ones(2), jnp.ones(3)),
        r"`eigenvalues` and `learning_rates` must be lists of one length",
    ),
    "linear": (
        lambda: lo.LinearOptimizer(jnp.zeros(2), jnp.eye(3), jnp.ones(2), jnp.ones(2)),
        r"`recurrent` must have shape \(2, 2\), got \(3, 3\)",
    ),
    "linear_point": (
        lambda: lo.LinearOptimizer(jnp.zeros((1, 2)), jnp.eye(2), jnp.ones(2), jnp.ones(2)),
        r"`fixed_point` must have shape \(2,\), got \(1, 2\)",
    ),
    "units": (lambda: lo.GRUOptimizer(0, key=jr.key(0)), "`units` .* of at least 1, got 0"),
    "true_units": (lambda: lo.GRUOptimizer(True, key=jr.key(0)), "`units` .* got True"),
    "scale": (
        lambda: lo.GRUOptimizer(4, key=jr.key(0), input_scale=0.0),
        "`input_scale` must be a finite number above 0, got 0.0",
    ),
    "cell": (
        lambda: lo.RecurrentOptimizer(eqx.nn.GRUCell(1, 3, key=jr.key(0)), 4),
        r"`cell` must map an input of shape \(1,\) and a hidden state of shape \(4,\)",
    ),
    "cell_of_two": (
        lambda: lo.RecurrentOptimizer(lambda inputs, hidden: jnp.zeros(3), 4),
        r"`cell` must map .* or such a tuple, got \(3,\)\.",
    ),
    "state": (
        lambda: check_state(lo.Momentum(0.1, 0.9), jnp.zeros(5)),
        r"`state` must have shape \(1,\) for this Momentum, got \(5,\)",
    ),
    "states": (
        lambda: check_state(lo.Adam(0.1), jnp.zeros(5), "initial_states", axes=2),
        r"`initial_states` must have shape \(number of states, 5\) for this Adam, got \(5,\)",
    ),
}


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_in_one_sentence(case):
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("size", [1e-50, -1e-50, 1e40])
def test_single_precision_takes_no_hyperparameter_for_0_or_infinity(size):
    """A learning rate of 1e-50, which is 0 there, made an optimizer that never moves."""
    makers = {
        "learning_rate": lambda: lo.Momentum(size, 0.9),
        "threshold": lambda: lo.ClippedGradientDescent(0.1, size),
        "epsilon": lambda: lo.Adam(0.1, epsilon=size),
        "scale": lambda: ScaledGradients(lo.Momentum(0.1, 0.9), size),
    }
    if size == 1e40:
        makers["parameter"] = lambda: lo.at_parameter(lo.Momentum(0.1, 0.9), size)
    else:  # a parameter that has all but converged
        with jax.enable_x64(False):
            lo.at_parameter(lo.Momentum(0.1, 0.9), size)
    for name, make in makers.items():
        with (
            jax.enable_x64(False),
            pytest.raises(ValueError, match=f"`{name}` must be a number that float32 holds, .*e"),
        ):
            make()
    if size > 0:
        with jax.enable_x64(True):
            assert float(lo.Momentum(size, 0.9).learning_rate) == size
