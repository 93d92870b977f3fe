"""`observe` on what does not fit it, inside itself, and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrevopt as lo

PARAMS = {"a": jnp.array([1.0, -2.0, 3.0]), "b": jnp.full((2, 2), 0.5)}


def loss(params):
    return sum(0.5 * jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


@pytest.fixture(autouse=True)
def optax_s_own_promotion():
    """Optax itself mixes integers and floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def optimizer():
    return lo.observe(optax.sgd(0.1), sharpness=True)


@pytest.mark.parametrize(
    ("gradients", "said"),
    [
        ({"z": jnp.ones(3)}, "`gradients` must be of the parameters .* in a, b, got one in z:"),
        ({**PARAMS, "a": jnp.ones(4)}, r"`params` must have an array of shape \(4,\) .*got \(3,\)"),
    ],
)
def test_gradients_of_other_parameters_are_refused(as_user, optimizer, gradients, said):
    with pytest.raises(ValueError, match=said):
        optimizer.update(gradients, optimizer.init(PARAMS), PARAMS, loss=loss)


def test_a_state_of_another_optimizer_is_refused(as_user, optimizer):
    with pytest.raises(ValueError, match="`state` must be what `init` or `update` returned"):
        optimizer.update(PARAMS, optax.sgd(0.1).init(PARAMS), PARAMS, loss=loss)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (3.0, "`loss` must be a function of the parameters, got 3.0"),
        (lambda params: params["a"], "`loss` must return one real number, got an array"),
        (lambda params: (loss(params), 1), "`loss` must return one real number, got a tuple"),
        (lambda params: 3, "`loss` must return one real number, got 3"),
    ],
)
def test_what_is_no_loss_is_refused(as_user, optimizer, wrong, said):
    with pytest.raises(ValueError, match=said):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS, loss=wrong)


def test_lookahead_goes_around():
    """Its parameters are two copies, its gradients are of one: refused around it, right inside."""
    both = optax.LookaheadParams.init_synced(PARAMS)
    around = lo.observe(optax.lookahead(optax.sgd(0.1), 2, 0.5))
    with pytest.raises(ValueError, match="such as `optax.lookahead`, goes around `lo.observe`"):
        around.update(PARAMS, around.init(both), both)
    inside = optax.lookahead(lo.observe(optax.sgd(0.1)), 2, 0.5)
    _, state = inside.update(PARAMS, inside.init(both), both)
    np.testing.assert_allclose(lo.observation(state).rates, [[0.1, 0.1]])


def test_one_inside_another_is_watched():
    """Gradients are halved inside, so that the rate of the whole is half of that inside."""
    inner = lo.observe(optax.sgd(0.2, momentum=0.9))
    outer = lo.observe(optax.chain(optax.scale(0.5), inner))
    _, state = outer.update(PARAMS, outer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(lo.observation(state).rates, [[0.1, 0.1]])
    np.testing.assert_allclose(lo.observation(state.inner).rates, [[0.2, 0.2]])


@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd])
def test_a_learning_rate_is_differentiated_through_an_observed_loop(mode):
    """x_k = (1 - rate)^k x_0, so that d loss / d rate = -2 k (1 - rate)^(2 k - 1) loss_0."""

    def last(rate):
        optimizer = lo.observe(optax.sgd(rate), every=2)
        params, state = PARAMS, optimizer.init(PARAMS)
        for _ in range(3):
            updates, state = optimizer.update(params, state, params)
            params = optax.apply_updates(params, updates)
        return loss(params)

    expected = -6 * 0.9**5 * loss(PARAMS)
    # Round-off of three updates.
    np.testing.assert_allclose(mode(last)(0.1), expected, rtol=1e-12)
