"""The bridge to optax: its own updates, closed forms at a step, refusals, and the way back."""

import re
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from tables import OPTIMISED, OPTIMIZERS, mostly_long

import lrevopt as lo
from lrevopt.optimizers.optax import OptimizerState, from_optax, to_optax
from lrevopt.optimizers.optax.counters import LONGEST
from lrevopt.optimizers.optax.couplings import STEPS
from lrevopt.tasks.networks import unpack
from lrevopt.tasks.two_moons import SHAPES, TwoMoonsProblem

WARM_UP = optax.warmup_cosine_decay_schedule(0.0, 0.1, 20, 150, 0.01)

TRANSFORMATIONS: dict[str, Any] = {
    "clipped_momentum": optax.chain(
        optax.clip(0.7), optax.sgd(optax.cosine_decay_schedule(0.1, 150), momentum=0.95)
    ),
    "nesterov": optax.sgd(WARM_UP, momentum=0.9, nesterov=True),
    "ema": optax.chain(optax.ema(0.9), optax.scale(-0.1)),
    "lion": optax.lion(0.1, weight_decay=0.0),
    "adagrad": optax.adagrad(0.1),
    "rmsprop": optax.rmsprop(0.1, decay=0.95),
    "rmsprop_flags": optax.rmsprop(
        0.1, 0.95, 1e-3, 0.5, False, True, momentum=0.8, nesterov=True, bias_correction=True
    ),
    "rprop": optax.rprop(0.1),
    "adam": optax.adam(0.1, 0.9, 0.99),
    "adam_half": optax.adam(0.1, mu_dtype=jnp.bfloat16),
    "adamax": optax.adamax(0.1),
    "adabelief": optax.adabelief(0.1, eps=1e-8),
    "amsgrad": optax.amsgrad(WARM_UP, 0.9, 0.95),
    "nadam": optax.nadam(0.1),
    "radam": optax.radam(0.1, 0.9, 0.95),
    "yogi": optax.yogi(0.1),
    "optimistic_adam": optax.optimistic_adam_v2(0.1),
    "injected": optax.inject_hyperparams(optax.sgd)(WARM_UP, momentum=0.9),
    "accumulated": optax.MultiSteps(optax.adam(0.1), 4, accumulator_dtype=jnp.dtype("float64")),
    "masked": optax.masked(optax.chain(optax.zero_nans(), optax.scale(-0.1)), True),
}
"""Component-wise transformations, with schedules, bias corrections and several flags."""


def standard():
    """optax mixes integers and floats in its bias correction."""
    return jax.numpy_dtype_promotion("standard")


def gradients_of_all_sizes(count=200):
    random = np.random.default_rng(0)
    gradients = 10 ** random.uniform(-3, 2, count) * random.choice([-1.0, 1.0], count)
    gradients[17] = 0.0
    return jnp.asarray(gradients)


@eqx.filter_jit
def moves(optimizer, gradients):
    """Updates `w . h'` of one parameter that is fed these gradients."""

    def body(state, gradient):
        state = optimizer.transition(state, gradient)
        return state, optimizer.readout @ state

    return jax.lax.scan(body, optimizer.initial_state(), gradients)[1]


def run(transformation, gradients, parameters):
    """optax's own updates on any tree of gradients with an axis of steps."""

    def body(state, gradient):
        update, state = transformation.update(gradient, state, parameters)
        return state, update

    return jax.lax.scan(body, transformation.init(parameters), gradients)[1]


@eqx.filter_jit
def both(optimizer, gradients):
    with standard():
        return moves(optimizer, gradients), run(optimizer.transformation, gradients, jnp.zeros(()))


@pytest.mark.parametrize(
    "name", mostly_long(TRANSFORMATIONS, "clipped_momentum", "adam", "injected", "masked")
)
def test_updates_are_optax_s_own(name):
    """200 updates, fed the same gradients; optax runs on a scalar, as a user would write it."""
    ours, theirs = both(from_optax(TRANSFORMATIONS[name]), gradients_of_all_sizes())
    # Round-off of sums of 200 terms; absolute where such a sum cancels. An accumulator of half
    # precision is rounded alike, or the difference would be 1e-3.
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-11)
    assert np.ptp(theirs) > 0


def rest(optimizer, gradient=0.0):
    points = lo.find_fixed_points(optimizer, optimizer.initial_state()[None], gradient)
    assert points.converged.all()
    return points.states[0]


def assert_close(found, expected):
    """To 1e-6, as closed forms are promised; most are exact to round-off."""
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def eigenvalues(model):
    return lo.eigenmodes(model).eigenvalues


def slope(model):
    """The effective learning rate, without compiling one more function."""
    return -model.readout @ model.input


def test_momentum_is_its_own_mode():
    """Linear: slope, eigenvalue, gain and fixed point follow from v' = beta v + g."""
    beta, k = 0.95, 60
    rate = 0.1 * (1 + np.cos(np.pi * k / 150)) / 2
    opt = from_optax(TRANSFORMATIONS["clipped_momentum"], at_step=k)
    assert opt.coordinates == ("[1][0].trace", "update")
    assert_close(rest(opt), 0)
    model = lo.linearize(opt, rest(opt))
    assert_close(eigenvalues(model), [beta, 0])
    assert_close(slope(model), rate)
    assert_close(lo.steady_state_gain(model), rate / (1 - beta))
    # Gradients are clipped at 0.7: 0.3 is not, 5 is.
    assert_close(rest(opt, 0.3), [0.3 / (1 - beta), -rate * 0.3 / (1 - beta)])
    assert_close(rest(opt, 5.0)[0], 0.7 / (1 - beta))
    assert slope(lo.linearize(opt, rest(opt), 5.0)) == 0


def test_adam_at_a_step():
    """Moments rest at g and g^2; bias corrections are those of that update."""
    rate, b1, b2, epsilon, g = 0.1, 0.9, 0.99, 1e-8, 0.3
    for k in (0, 9, 10**6):
        c1, c2 = 1 - b1 ** (k + 1), 1 - b2 ** (k + 1)
        opt = from_optax(TRANSFORMATIONS["adam"], at_step=k)
        assert_close(opt.held, k)
        assert_close(rest(opt), 0)
        model = lo.linearize(opt, rest(opt))
        assert_close(slope(model), rate * (1 - b1) / c1 / epsilon)
        assert_close(eigenvalues(model), [b2, b1, 0])
        direction = (g / c1) / (np.sqrt(g**2 / c2) + epsilon)
        assert_close(rest(opt, g), [g, g**2, -rate * direction])
    # Counters stop at the largest integer, and corrections are long gone there.
    opt = from_optax(TRANSFORMATIONS["adam"], at_step=10**12)
    np.testing.assert_array_equal(opt.held, np.iinfo(np.int32).max)
    assert_close(rest(opt, g), [g, g**2, -rate * g / (g + epsilon)])


def test_rmsprop_at_rest():
    rate, decay, epsilon, g = 0.1, 0.95, 1e-8, 0.3
    opt = from_optax(TRANSFORMATIONS["rmsprop"])  # keeps no counter, so it rests as it is
    model = lo.linearize(opt, opt.initial_state())
    assert_close(model.next_state, 0)
    assert_close(eigenvalues(model), [decay, 0])
    assert_close(slope(model), rate / np.sqrt(epsilon))
    driven = lo.linearize(opt, jnp.array([g**2, -rate * g / np.sqrt(g**2 + epsilon)]), g)
    assert_close(driven.next_state, driven.state)


def test_lion_moves_by_the_sign():
    opt = from_optax(TRANSFORMATIONS["lion"], at_step=0)
    for g in (0.2, -3.0):
        model = lo.linearize(opt, jnp.array([g, -0.1 * np.sign(g)]), g)
        assert_close(model.next_state, model.state)
        assert_close(eigenvalues(model), [0.99, 0])
        assert slope(model) == 0


def test_adagrad_never_forgets():
    """Its sum of squares keeps every start: eigenvalue 1, and no rest under a gradient."""
    opt = from_optax(TRANSFORMATIONS["adagrad"])
    assert_close(rest(opt), [0.1, 0])
    model = lo.linearize(opt, rest(opt))
    assert_close(eigenvalues(model), [1, 0])
    assert_close(slope(model), 0.1 / np.sqrt(0.1 + 1e-7))
    driven = lo.find_fixed_points(opt, rest(opt)[None], 0.3)
    assert not driven.converged.any()
    # However slow the update, the sum grows by g^2 a step.
    assert np.all(driven.speeds > 0.999 * 0.3**4 / 2)


@pytest.mark.long
def test_a_debiased_average_at_a_step():
    model = lo.linearize(from_optax(TRANSFORMATIONS["ema"], at_step=4), jnp.zeros(2))
    assert_close(slope(model), 0.1 * (1 - 0.9) / (1 - 0.9**5))
    assert_close(eigenvalues(model), [0.9, 0])


@pytest.mark.long
def test_amsgrad_behind_a_large_maximum():
    """Its update divides by the maximum, which a small gradient does not move."""
    most, k = 4.0, 4
    model = lo.linearize(
        from_optax(TRANSFORMATIONS["amsgrad"], at_step=k), jnp.array([0.0, 0.0, most, 0.0])
    )
    # The schedule warms up by 0.1 / 20 a step.
    rate = 0.1 * k / 20
    assert_close(slope(model), rate * (1 - 0.9) / (1 - 0.9 ** (k + 1)) / (np.sqrt(most) + 1e-8))
    assert_close(eigenvalues(model), [1, 0.95, 0.9, 0])


@pytest.mark.long
def test_adabelief_rests_where_its_epsilon_adds_up():
    k, g = 4, 0.3
    opt = from_optax(TRANSFORMATIONS["adabelief"], at_step=k)
    variance = 1e-16 / (1 - 0.999)
    root = np.sqrt(variance / (1 - 0.999 ** (k + 1)))
    update = -0.1 * g / (1 - 0.9 ** (k + 1)) / (root + 1e-8)
    model = lo.linearize(opt, jnp.array([g, variance, update]), g)
    np.testing.assert_allclose(model.next_state, model.state, rtol=1e-12)
    assert_close(eigenvalues(model), [0.999, 0.9, 0])


def test_hyperparameters_of_the_state_are_no_coordinates():
    """`inject_hyperparams` keeps constants and its schedule's last value in its state."""
    opt = from_optax(TRANSFORMATIONS["injected"], at_step=60)
    names = (".hyperparams['learning_rate']", ".inner_state[0].trace", "update")
    assert opt.coordinates == names
    rate = 0.01 + 0.09 * (1 + np.cos(np.pi * (60 - 20) / 130)) / 2
    model = lo.linearize(opt, jnp.array([rate, 0.0, 0.0]))
    assert_close(model.next_state, model.state)
    assert_close(eigenvalues(model), [0.9, 0, 0])
    assert_close(slope(model), rate)


def test_cyclic_counters_are_followed_and_not_extrapolated():
    """`MultiSteps` emits at every fourth update: that of step 7 averages four gradients."""
    emitting = from_optax(TRANSFORMATIONS["accumulated"], at_step=7)
    collecting = from_optax(TRANSFORMATIONS["accumulated"], at_step=6)
    assert [int(held) for held in emitting.held] == [3, 1, 1]
    assert [int(held) for held in collecting.held] == [2, 1, 1]
    state, gradient = jnp.array([0.0, 0.01, 0.3, 0.0]), jnp.array(0.5)
    assert collecting.transition(state, gradient)[-1] == 0
    assert emitting.transition(state, gradient)[-1] != 0
    with pytest.raises(ValueError, match=f"`at_step` must be at most {LONGEST} .* `.mini_step`"):
        from_optax(TRANSFORMATIONS["accumulated"], at_step=LONGEST + 1)


def test_a_live_counter_counts_and_never_rests():
    opt = from_optax(TRANSFORMATIONS["adam"])
    assert opt.coordinates == ("[0].count", "[0].mu", "[0].nu", "update")
    points = lo.find_fixed_points(opt, opt.initial_state()[None])
    assert not points.converged.any()
    # Whatever the solver does, a counter moves by 1.
    assert_close(points.speeds, 0.5)
    model = lo.linearize(opt, jnp.array([5.0, 0.2, 0.3, 0.0]))
    assert_close(model.next_state[0], 6)
    assert_close(model.recurrent[0], [1, 0, 0, 0])


OURS = {
    "momentum": (lo.Momentum(0.1, 0.95), optax.sgd(0.1, momentum=0.95)),
    "nesterov": (lo.Nesterov(0.1, 0.95), optax.sgd(0.1, momentum=0.95, nesterov=True)),
    "rmsprop": (lo.RMSProp(0.1, 0.95), TRANSFORMATIONS["rmsprop"]),
    "adam": (lo.Adam(0.1, 0.9, 0.99), TRANSFORMATIONS["adam"]),
}


@pytest.mark.parametrize("name", mostly_long(OURS, "momentum", "adam"))
def test_agreement_with_the_hand_written(name):
    """The same updates, and at rest the same learning rate, gain and eigenvalues."""
    ours, transformation = OURS[name]
    gradients = gradients_of_all_sizes()
    found, expected = moves(from_optax(transformation), gradients), moves(ours, gradients)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)
    theirs = from_optax(transformation, at_step=10**6)
    # All of them rest at 0: a fixed point, where linearizing needs no search.
    models = [lo.linearize(opt, jnp.zeros_like(opt.readout)) for opt in (theirs, ours)]
    assert_close(models[0].next_state, 0)
    assert_close(slope(models[0]), slope(models[1]))
    assert_close(*(lo.steady_state_gain(model) for model in models))
    # Either may have coordinates that decay at once, and ours powers of b1 and b2.
    found, expected = ({*eigenvalues(model).real.round(9)} - {0} for model in models)
    assert_close(sorted(found), sorted(expected))


@jax.jit
def derivatives(optimizer, state, gradient):
    both = jax.jacfwd, jax.jacrev
    return [jacobian(optimizer.transition, (0, 1))(state, gradient) for jacobian in both]


def test_derivatives_at_a_root_of_zero_are_one_sided_limits():
    """JAX has 0 times infinity for Adam at rest. The limit v -> 0 from above is finite, in
    forward and in reverse mode; a slope that is truly infinite stays huge.
    """
    plain = jax.jacfwd(lambda v: v[0] / (jnp.sqrt(v[1]) + 1e-8))(jnp.zeros(2))
    assert np.isnan(plain).all()
    opt, gradient = from_optax(TRANSFORMATIONS["adam"], at_step=3), jnp.zeros(())
    forward, backward = derivatives(opt, jnp.zeros(3), gradient)
    beside, _ = derivatives(opt, jnp.array([0.0, 1e-200, 0.0]), gradient)
    for one, other, limit in zip(forward, backward, beside, strict=True):
        np.testing.assert_array_equal(one, other)
        # At v = 1e-200 the root is 1e-100, against an epsilon of 1e-8.
        np.testing.assert_allclose(one, limit, rtol=1e-12, atol=1e-80)
    root = optax.chain(
        optax.trace(0.9), optax.stateless_with_tree_map(lambda g, p: jnp.sqrt(jnp.abs(g)))
    )
    assert lo.linearize(from_optax(root), jnp.zeros(2)).recurrent[1, 0] > 1e100


@jax.jit
def properties(rate, b1, b2, epsilon, k, gradients):
    """Runs of both Adams, and what update k looks like at rest."""
    settings = {"learning_rate": rate, "b1": b1, "b2": b2, "eps": epsilon}
    live, ours = from_optax(optax.adam, **settings), lo.Adam(rate, b1, b2, epsilon)
    held = from_optax(optax.adam, at_step=0, **settings)
    held = eqx.tree_at(lambda o: o.held, held, (k,))
    recurrent, inputs = jax.jacfwd(held.transition, (0, 1))(jnp.zeros(3), jnp.zeros(()))
    return moves(live, gradients), moves(ours, gradients), recurrent, inputs


@hypothesis.given(
    rate=st.floats(1e-4, 1),
    b1=st.floats(0, 0.99),
    b2=st.floats(0.1, 0.9999),
    epsilon=st.floats(1e-10, 1),
    k=st.integers(0, 10**6),
    gradients=st.lists(st.floats(-10, 10), min_size=6, max_size=6),
)
def test_adam_for_any_hyperparameters(rate, b1, b2, epsilon, k, gradients):
    """Traced, so that all examples share a program: also a test that they may be."""
    gradients = jnp.array(gradients)
    found, expected, recurrent, inputs = properties(
        rate, b1, b2, epsilon, jnp.asarray(k, jnp.int32), gradients
    )
    # 1 - b2^k loses up to 4 digits at b2 = 0.9999.
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    steepest = rate / (1 - b1 ** (k + 1)) / epsilon
    assert_close(recurrent, [[b1, 0, 0], [0, b2, 0], [-steepest * b1, 0, 0]])
    assert_close(inputs, [1 - b1, 0, -steepest * (1 - b1)])


def test_a_grid_of_rates_is_one_program():
    task = lo.Rosenbrock()
    problem = task.sample(jr.key(0))
    rates = jnp.array([1e-4, 2e-4])

    @eqx.filter_jit
    def ends(rates):
        def end(rate):
            optimizer = from_optax(optax.sgd, learning_rate=rate, momentum=0.9)
            return lo.unroll(optimizer, task, problem, 10).parameters[-1]

        return eqx.filter_vmap(end)(rates)

    for found, rate in zip(ends(rates), rates, strict=True):
        expected = lo.unroll(lo.Momentum(rate, 0.9), task, problem, 10).parameters[-1]
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_parameter_is_shown_where_it_is_needed():
    """Decoupled decay adds -rate decay x to every update, whatever the state."""
    decayed = optax.adamw(0.1, 0.9, 0.99, weight_decay=0.02)
    with pytest.raises(ValueError, match="`parameter` must be given .* depend on the value of x"):
        from_optax(decayed).transition(jnp.zeros(4), jnp.zeros(()))
    gradients = gradients_of_all_sizes(20)
    plain = moves(from_optax(TRANSFORMATIONS["adam"]), gradients)
    opt = from_optax(decayed, parameter=3.0)
    np.testing.assert_allclose(moves(opt, gradients), plain - 0.1 * 0.02 * 3.0, rtol=1e-12)
    held = from_optax(decayed, parameter=3.0, at_step=5)
    assert_close(
        held.transition(jnp.array([0.0, 0.0, 9.0]), jnp.zeros(())), [0, 0, -0.1 * 0.02 * 3.0]
    )
    # Without decay, optax asks for the parameter all the same and does not use it.
    assert not isinstance(from_optax(TRANSFORMATIONS["lion"]), lo.AbstractParameterOptimizer)


COUPLED: dict[str, Any] = {
    "clip_by_global_norm": optax.chain(optax.clip_by_global_norm(1e3), optax.sgd(0.1)),
    "lamb": optax.lamb(0.1),
    "lars": optax.lars(0.1),
    "adafactor": optax.adafactor(0.1),
    "scale_by_factored_rms": optax.scale_by_factored_rms(),
    "scale_by_trust_ratio": optax.scale_by_trust_ratio(),
    "normalize_by_update_norm": optax.normalize_by_update_norm(),
    "adaptive_grad_clip": optax.adaptive_grad_clip(0.01),
    "sm3": optax.sm3(0.1),
    "centralize": optax.centralize(),
    "prodigy": optax.contrib.prodigy(),
    "muon": optax.contrib.muon(0.1),
}


@pytest.mark.parametrize("name", mostly_long(COUPLED, "clip_by_global_norm", "lamb", "adafactor"))
def test_couplings_are_found_by_running(name):
    """Also where the parameter is given. The message has a size and a step."""
    pattern = (
        r"`transformation` must update every parameter on its own, got one that couples them: with "
        r"the gradients or the values of all others set to 0, the update of one in an array of "
        r"shape \(.*\) changed by (\S+) of its size at step (\d+)\.$"
    )
    with pytest.raises(ValueError, match=pattern) as error:
        from_optax(COUPLED[name], parameter=1.0, assume_component_wise=True)
    found = re.search(pattern, str(error.value))
    assert found is not None
    # None of these is a matter of round-off.
    assert float(found[1]) > 0.1
    assert 1 <= int(found[2]) <= STEPS


def test_a_coupling_is_found_inside_jit():
    with pytest.raises(ValueError, match="got one that couples them"):
        jax.jit(lambda x: x + from_optax(COUPLED["clip_by_global_norm"]).readout)(1.0)


class Signs(NamedTuple):
    positive: jax.Array


COUNTS_SIGNS = optax.GradientTransformation(
    lambda params: Signs(jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.int8), params)),
    lambda updates, state, params=None: (
        updates,
        Signs(jax.tree.map(lambda s, g: s + (g > 0).astype(jnp.int8), state[0], updates)),
    ),
)
GROWS = optax.GradientTransformation(
    lambda params: jnp.zeros(1),
    lambda updates, state, params=None: (updates, jnp.append(state, 0.0)),
)
TURNS = optax.GradientTransformation(
    lambda params: jax.tree.map(lambda p: p * 1j, params),
    lambda updates, state, params=None: (updates, jax.tree.map(lambda z: z * 1j, state)),
)
SGD = optax.sgd(0.1)
MATRICES_ONLY = optax.adamw(0.1, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))

REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "not_called": (optax.adam, {}, "optax.GradientTransformation, got adam: call it with its"),
    "not_optax": (lo.Momentum(0.1, 0.9), {}, "optax.GradientTransformation, got Momentum."),
    "value": (optax.polyak_sgd(), {}, "gradient alone, got one that also asks for 'value'"),
    "linesearch": (optax.lbfgs(), {}, "also asks for 'value', 'grad', and 'value_fn'"),
    "lookahead": (
        optax.lookahead(optax.sgd(0.1), 5, 0.5),
        {},
        "parameters with a field `fast` instead of an array: `optax.lookahead` keeps two copies",
    ),
    "fails": (optax.flatten(optax.stateless(lambda g, p: 1 / 0)), {}, "got a ZeroDivisionError"),
    "extra": (SGD, {"momentum": 0.9}, "must be a factory, .* got a transformation and momentum"),
    "no_argument": (optax.adam, {"rate": 0.1}, "`adam` refuses its arguments: adam.. got an unexp"),
    "makes_none": (dict, {"rate": 0.1}, "must make an optax.GradientTransformation, but dict made"),
    "integers": (optax.adam, {"b1": jnp.arange(2)}, "`b1` must be a floating-point array or a"),
    "decides": (
        lambda rate: optax.sgd(rate if rate > 0 else 1.0),
        {"rate": jnp.array(0.1)},
        "must be given plain numbers where it decides by their value, got arrays for rate",
    ),
    "noise": (optax.noisy_sgd(0.1, key=0), {}, "not draw random numbers, got one with a key at"),
    "complex": (TURNS, {}, "must keep real numbers, got complex128 at ``"),
    "shapes": (GROWS, {}, "must keep the shapes of its state, got one that changes them"),
    "matrices": (
        MATRICES_ONLY,
        {"parameter": 1.0},
        "must not depend on the shape of",
    ),
    "signs": (COUNTS_SIGNS, {"at_step": 3}, "counters that do not depend on gradients"),
    "step": (SGD, {"at_step": -1}, "`at_step` must be an integer .* got -1"),
    "half_step": (SGD, {"at_step": 0.5}, "`at_step` must be .* got 0.5"),
    "true_step": (SGD, {"at_step": True}, "`at_step` must be .* got True"),
    "nan": (SGD, {"parameter": np.nan}, "`parameter` must be finite, got nan"),
    "two": (SGD, {"parameter": np.ones(2)}, r"`parameter` must be a scalar"),
}


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_an_optimizer_is_refused_in_one_sentence(case):
    transformation, settings, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        from_optax(transformation, **settings)
    assert "\n" not in str(error.value)


def test_a_counter_of_gradients_may_live():
    opt = from_optax(COUNTS_SIGNS)
    state = opt.initial_state()
    for gradient in (0.5, -1.0, 2.0):
        state = opt.transition(state, jnp.array(gradient))
    np.testing.assert_array_equal(state, [2.0, 2.0])


def tree_of_gradients(steps, dtype=float):
    """Scalars, vectors and matrices, with holes as `eqx.filter` leaves them."""
    random = np.random.default_rng(1)
    shapes = {"scalar": (), "hole": None, "layers": [(3,), (2, 4)]}
    return jax.tree.map(
        lambda shape: jnp.asarray(random.normal(size=(steps, *shape)), dtype),
        shapes,
        is_leaf=lambda shape: isinstance(shape, tuple),
    )


def at(tree, index):
    return jax.tree.map(lambda path: path[index], tree)


def first(tree):
    return jax.tree.map(jnp.zeros_like, at(tree, 0))


@pytest.mark.parametrize("name", mostly_long(["adam", "injected"], "adam"))
def test_there_and_back_is_optax(name):
    gradients = tree_of_gradients(20)
    transformation = TRANSFORMATIONS[name]
    with standard():
        theirs = jax.jit(lambda g: run(transformation, g, first(g)), compiler_options=OPTIMISED)
        expected = theirs(gradients)
        back = to_optax(from_optax(transformation))
    found = jax.jit(lambda g: run(back, g, first(g)), compiler_options=OPTIMISED)(gradients)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13), found, expected)


def test_back_and_there_is_the_optimizer():
    """A GRU as a transformation as an optimizer: the same updates."""
    gru = OPTIMIZERS["gru"](0.1)
    again = from_optax(to_optax(gru))
    assert again.coordinates == (*(f".states[{unit}]" for unit in range(8)), "update")
    gradients = gradients_of_all_sizes(50)
    np.testing.assert_allclose(moves(again, gradients), moves(gru, gradients), rtol=1e-12)


@pytest.mark.parametrize("name", mostly_long(["rmsprop", "adam"], "rmsprop"))
def test_optimizers_that_stack_their_coordinates_come_back(name):
    """`jnp.stack`, an operation of its own in newer versions of JAX, couples no parameters."""
    optimizer = OPTIMIZERS[name](0.1)
    again = from_optax(to_optax(optimizer))
    gradients = gradients_of_all_sizes(50)
    np.testing.assert_allclose(moves(again, gradients), moves(optimizer, gradients), rtol=1e-12)


def test_a_tree_moves_as_each_parameter():
    optimizer = OPTIMIZERS["gru"](0.1)
    gradients = tree_of_gradients(4)
    found = jax.jit(lambda g: run(to_optax(optimizer), g, first(g)))(gradients)
    one = jax.jit(lambda g: jax.vmap(lambda path: moves(optimizer, path), -1, -1)(g))
    expected = one(jnp.concatenate([g.reshape(4, -1) for g in jax.tree.leaves(gradients)], 1))
    found = jnp.concatenate([u.reshape(4, -1) for u in jax.tree.leaves(found)], 1)
    # Matrix products of another size sum in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


def trained(transformation, gradient, parameters, steps):
    """The loop that users write, one compiled step at a time; where it was, and last states."""

    @partial(jax.jit, compiler_options=OPTIMISED)
    def step(parameters, state, count):
        updates, state = transformation.update(gradient(parameters, count), state, parameters)
        return optax.apply_updates(parameters, updates), state

    state, visited = transformation.init(parameters), [parameters]
    for count in range(steps):
        parameters, state = step(parameters, state, count)
        visited.append(parameters)
    return visited, state


filter_jit: Any = eqx.filter_jit  # its types do not know that options go on to jax.jit
unroll = filter_jit(lo.unroll, compiler_options=OPTIMISED)


def loop_and_unroll(optimizer):
    """Where 200 updates of Rosenbrock went, and last states, by `optax` and by `unroll`."""
    task = lo.Rosenbrock()
    problem = task.sample(jr.key(3))
    expected = unroll(optimizer, task, problem, 200)
    visited, state = trained(
        to_optax(optimizer),
        lambda x, count: jax.grad(task.loss, argnums=1)(problem, x, count),
        problem.initial_parameters,
        200,
    )
    states = jnp.moveaxis(state.states, 0, -1)
    return (visited, states), (expected.parameters, expected.states[-1])


def test_a_loop_has_the_bits_of_unroll_on_rosenbrock():
    for found, expected in zip(*loop_and_unroll(OPTIMIZERS["gru"](0.001)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_loop_of_the_shipped_optimizer_is_unroll():
    """XLA sums its readout of 65 terms, the last of which is the bias, in another order there."""
    for found, expected in zip(*loop_and_unroll(lo.load("results/rosenbrock")), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.long
def test_a_loop_has_the_bits_of_unroll_on_a_network():
    """8,577 parameters in eight arrays, fed the gradients that `unroll` met: XLA rounds those of
    a network otherwise in another program. Not a bit is allowed to differ in what follows.
    """
    task, optimizer = lo.TwoMoons(), OPTIMIZERS["gru"](0.1)
    problem = TwoMoonsProblem(0.1 * jnp.asarray(np.random.default_rng(3).normal(size=8577)))
    expected = unroll(optimizer, task, problem, 10)
    pooled = jax.vmap(lambda flat: unpack(SHAPES, flat))(expected.gradients)
    start = unpack(SHAPES, problem.initial_parameters)

    def fed(parameters, count):
        # In the order of the flat vector, which a dictionary would sort by name.
        return [pooled[name][count] for name in SHAPES]

    visited, state = trained(to_optax(optimizer), fed, [start[name] for name in SHAPES], 10)
    for found, flat in zip(visited, expected.parameters, strict=True):
        np.testing.assert_array_equal(jnp.concatenate([leaf.reshape(-1) for leaf in found]), flat)
    lanes = jnp.concatenate([array.reshape(len(array), -1) for array in state.states], axis=1)
    np.testing.assert_array_equal(lanes.T, expected.states[-1])


@pytest.mark.long
def test_a_network_of_equinox_is_trained():
    """The shipped optimizer of two moons on a user's own regression, with a function among the
    leaves of the model, as `filter` leaves it.
    """
    model = eqx.nn.MLP(2, "scalar", 8, 2, activation=jnp.tanh, key=jr.key(0))
    inputs = jr.normal(jr.key(1), (64, 2))
    targets = jnp.sin(inputs[:, 0]) * inputs[:, 1]
    transformation = to_optax(lo.load("results/two_moons"))

    @eqx.filter_value_and_grad
    def loss(model):
        return jnp.mean((jax.vmap(model)(inputs) - targets) ** 2)

    @eqx.filter_jit
    def step(model, state):
        value, gradients = loss(model)
        updates, state = transformation.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value

    # `init` also where shapes are asked for before there are any numbers.
    arrays = eqx.filter(model, eqx.is_inexact_array)
    state = transformation.init(arrays)
    shapes = jax.eval_shape(transformation.init, arrays)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, shapes)
    losses = []
    for _ in range(100):
        model, state, value = step(model, state)
        losses.append(float(value))
    assert losses[-1] < losses[0] / 20


def test_the_state_is_saved_and_goes_on_bit_for_bit(tmp_path):
    transformation = optax.chain(to_optax(OPTIMIZERS["gru"](0.1)), optax.scale(0.5))
    gradients = tree_of_gradients(8)
    step = jax.jit(transformation.update)

    def go_on(state, steps):
        for index in steps:
            _, state = step(at(gradients, index), state)
        return state

    half = go_on(transformation.init(first(gradients)), range(4))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(half))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", half)
    with ocp.StandardCheckpointer() as checkpointer:
        shapes = jax.eval_shape(transformation.init, first(gradients))
        restored = checkpointer.restore(tmp_path / "state", shapes)
    assert isinstance(restored[0], OptimizerState)
    found, expected = go_on(restored, range(4, 8)), go_on(half, range(4, 8))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.long
def test_it_stands_in_optax_s_own_wrappers():
    """Masked, only what is not masked moves; accumulated, four equal gradients are one."""
    optimizer = OPTIMIZERS["adam"](0.1)
    gradients = tree_of_gradients(8)
    mask = {"scalar": False, "hole": None, "layers": [True, False]}
    with standard():
        masked = run(optax.masked(to_optax(optimizer), mask), gradients, first(gradients))
        plain = run(to_optax(optimizer), gradients, first(gradients))
        four = jax.tree.map(lambda path: jnp.repeat(path[:2], 4, axis=0), gradients)
        steps = optax.MultiSteps(to_optax(optimizer), 4, accumulator_dtype=jnp.dtype("float64"))
        several = run(steps, four, first(gradients))
    np.testing.assert_array_equal(masked["scalar"], gradients["scalar"])
    np.testing.assert_array_equal(masked["layers"][1], gradients["layers"][1])
    # Fewer lanes side by side may be compiled otherwise.
    np.testing.assert_allclose(masked["layers"][0], plain["layers"][0], rtol=1e-13)
    np.testing.assert_allclose(several["scalar"][3::4], plain["scalar"][:2], rtol=1e-12)
    np.testing.assert_array_equal(several["scalar"][:3], 0)


def test_updates_have_the_dtype_of_the_gradients():
    """States stay in the optimizer's; each update is rounded once."""
    transformation = to_optax(OPTIMIZERS["gru"](0.1))
    exact = jnp.asarray(np.random.default_rng(2).normal(size=3), jnp.bfloat16)
    gradients = [exact, exact.astype(jnp.float32), exact.astype(float)]
    updates, state = jax.jit(transformation.update)(gradients, transformation.init(gradients))
    assert [update.dtype for update in updates] == [jnp.bfloat16, jnp.float32, float]
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(float)}
    # Half a unit in the last place of 8 and of 24 bits.
    np.testing.assert_allclose(updates[0].astype(float), updates[2], rtol=2**-8)
    np.testing.assert_allclose(updates[1].astype(float), updates[2], rtol=2**-24)


def test_nothing_to_train_is_no_trouble():
    transformation = to_optax(OPTIMIZERS["momentum"](0.1))
    nothing = {"hole": None}
    assert transformation.update(nothing, transformation.init(nothing))[0] == nothing


@pytest.mark.usefixtures("as_user")
def test_bad_parameters_are_refused():
    transformation = to_optax(lo.Momentum(0.1, 0.9))
    message = r"`parameters` must be real floating-point arrays, got int64 at `\['step'\]`: leave"
    with pytest.raises(ValueError, match=message):
        transformation.init({"step": jnp.zeros(2, int)})
    state = transformation.init(jnp.zeros(2))
    with pytest.raises(ValueError, match="`gradients` must be real .* got complex128 at ``"):
        transformation.update(jnp.zeros(2, complex), state)
    with pytest.raises(ValueError, match="`optimizer` must have a flat initial state"):
        to_optax(eqx.tree_at(lambda o: o.start, OPTIMIZERS["linear"](0.1), jnp.zeros(3)))


def test_a_state_keeps_the_types_that_updates_give_it():
    """A counter that begins as an integer and grows by 0.5, and an average that begins in single
    precision: optax's own loop has both in double precision from the first update on.
    """

    def init(parameters):
        means = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), parameters)
        return jnp.int32(0), means

    def update(gradients, state, parameters=None):
        count, means = state
        means = jax.tree.map(lambda m, g: 0.9 * m + g / 3, means, gradients)
        return jax.tree.map(lambda m: -m / (1 + count), means), (count + 0.5, means)

    transformation = optax.GradientTransformation(init, update)
    gradients = np.random.default_rng(0).normal(size=20)
    state, expected = transformation.init(jnp.zeros(1)), []
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            moved, state = transformation.update(jnp.array([gradient]), state)
            expected.append(float(moved[0]))
        optimizer = lo.from_optax(transformation)
    own, updates = optimizer.initial_state(), []
    for gradient in gradients:
        own = optimizer.transition(own, jnp.array(gradient))
        updates.append(float(optimizer.readout @ own))
    # Round-off of a few operations an update.
    np.testing.assert_allclose(updates, expected, rtol=1e-13)
