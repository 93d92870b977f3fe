"""Two moons and MNIST against the same networks and their derivatives written out in NumPy.

MNIST's network is tested on scikit-learn's digits: no files, no network.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.signal
import scipy.special
import scipy.stats
import sklearn.datasets
from tables import mostly_long

import lrevopt as lo
from lrevopt.tasks import networks

MOONS_SHAPES = {
    "dense1.weight": (2, 64),
    "dense1.bias": (64,),
    "dense2.weight": (64, 64),
    "dense2.bias": (64,),
    "dense3.weight": (64, 64),
    "dense3.bias": (64,),
    "dense4.weight": (64, 1),
    "dense4.bias": (1,),
}


def digits_shapes(side):
    """Shapes of MNIST's network: every convolution takes a border of one pixel away."""
    return {
        "conv1.weight": (3, 3, 1, 16),
        "conv1.bias": (16,),
        "conv2.weight": (3, 3, 16, 16),
        "conv2.bias": (16,),
        "conv3.weight": (3, 3, 16, 16),
        "conv3.bias": (16,),
        "dense.weight": ((side - 6) ** 2 * 16, 10),
        "dense.bias": (10,),
    }


TASKS: dict[str, tuple[Callable[[], Any], dict[str, tuple[int, ...]], int]] = {
    "two moons": (lo.TwoMoons, MOONS_SHAPES, 8_577),
    "mnist": (lambda: lo.MNIST("digits"), digits_shapes(28), 82_250),
    "mnist, 14 x 14": (lambda: lo.MNIST("digits", side=14), digits_shapes(14), 15_050),
    "mnist, 7 x 7": (lambda: lo.MNIST("digits", side=7), digits_shapes(7), 4_970),
}


def split(shapes, parameters):
    """The arrays of a network, in NumPy, one after the other from the start of the vector."""
    arrays, rest = {}, np.asarray(parameters, float)
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        arrays[name], rest = rest[:size].reshape(shape), rest[size:]
    assert rest.size == 0
    return arrays


def joined(shapes, arrays):
    return np.concatenate([np.ravel(arrays[name]) for name in shapes])


def random_parameters(shapes, seed=0):
    """Weights as problems have them, and biases away from 0.

    Dark pixels give hidden units a bias and nothing else: at a bias of 0 they would sit on the
    kink of the ReLU, where a derivative is a matter of convention.
    """
    rng = np.random.default_rng(seed)
    arrays = {
        name: 0.1 * rng.normal(size=shape)
        if len(shape) == 1
        else rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        for name, shape in shapes.items()
    }
    return joined(shapes, arrays)


def assert_close(actual, expected, relative):
    """In the Euclidean norm, as gradients have entries of all sizes down to 0."""
    error = np.linalg.norm(np.asarray(actual, float) - expected)
    assert error <= relative * np.linalg.norm(expected)


@eqx.filter_jit
def loss_and_gradient(task, problem, parameters, step):
    return jax.value_and_grad(task.loss, 1)(problem, parameters, step)


# The networks in NumPy


def moons_forward(parameters, inputs):
    """Logits, and the values of every layer."""
    arrays, values = split(MOONS_SHAPES, parameters), [inputs]
    for layer in (1, 2, 3):
        weight, bias = arrays[f"dense{layer}.weight"], arrays[f"dense{layer}.bias"]
        values.append(np.tanh(np.einsum("ni,io->no", values[-1], weight) + bias))
    return np.ravel(values[-1] @ arrays["dense4.weight"]) + arrays["dense4.bias"], values


def moons_loss(parameters, inputs, labels, regularization):
    """Logistic loss log(1 + exp(-s z)) of signs s, plus the norm; and its gradient."""
    logits, values = moons_forward(parameters, inputs)
    signs, norm = 2 * labels - 1, np.sqrt(np.sum(parameters**2))
    loss = np.mean(np.logaddexp(0, -signs * logits)) + regularization * norm
    error = (-signs * scipy.special.expit(-signs * logits) / len(labels))[:, None]
    arrays, gradient = split(MOONS_SHAPES, parameters), {}
    for layer in (4, 3, 2, 1):
        gradient[f"dense{layer}.weight"] = values[layer - 1].T @ error
        gradient[f"dense{layer}.bias"] = error.sum(axis=0)
        error = (error @ arrays[f"dense{layer}.weight"].T) * (1 - values[layer - 1] ** 2)
    return loss, joined(MOONS_SHAPES, gradient) + regularization * parameters / norm


def windows(images):
    """All 3 x 3 windows: (image, row, column, channel, kernel row, kernel column)."""
    return np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))


def digits_forward(parameters, images):
    """Logits, and the values of every layer, for bytes of any square size."""
    arrays, values = split(digits_shapes(images.shape[-1]), parameters), [images[..., None] / 255]
    for layer in (1, 2, 3):
        weight, bias = arrays[f"conv{layer}.weight"], arrays[f"conv{layer}.bias"]
        # Kernel row, kernel column and channel against the same axes of the windows.
        before = np.tensordot(windows(values[-1]), weight, ([4, 5, 3], [0, 1, 2])) + bias
        values.append(np.maximum(before, 0))
    flat = values[-1].reshape(len(images), -1)
    return flat @ arrays["dense.weight"] + arrays["dense.bias"], values


def digits_loss(parameters, images, labels):
    """Mean cross-entropy, and its gradient."""
    logits, values = digits_forward(parameters, images)
    shapes = digits_shapes(images.shape[-1])
    arrays, gradient = split(shapes, parameters), {}
    log_probabilities = scipy.special.log_softmax(logits, axis=1)
    truth = np.eye(10)[labels]
    loss = -np.sum(truth * log_probabilities) / len(labels)
    error = (np.exp(log_probabilities) - truth) / len(labels)
    gradient["dense.weight"] = values[3].reshape(len(images), -1).T @ error
    gradient["dense.bias"] = error.sum(axis=0)
    error = (error @ arrays["dense.weight"].T).reshape(values[3].shape)
    for layer in (3, 2, 1):
        error = error * (values[layer] > 0)
        products = np.tensordot(windows(values[layer - 1]), error, ([0, 1, 2], [0, 1, 2]))
        gradient[f"conv{layer}.weight"] = np.moveaxis(products, 0, 2)
        gradient[f"conv{layer}.bias"] = error.sum(axis=(0, 1, 2))
        # Back to the inputs: a convolution of the padded error with the kernel turned about.
        padded = np.pad(error, ((0, 0), (2, 2), (2, 2), (0, 0)))
        turned = arrays[f"conv{layer}.weight"][::-1, ::-1]
        error = np.tensordot(windows(padded), turned, ([4, 5, 3], [0, 1, 3]))
    return loss, joined(shapes, gradient)


def minibatch(task, problem, step):
    """Images and labels of a step, from the definition of the order."""
    places = (step * task.batch + np.arange(task.batch)) % len(task.labels)
    chosen = np.asarray(problem.order)[places]
    return np.asarray(task.images)[chosen], np.asarray(task.labels)[chosen]


RNG = np.random.default_rng(0)
SMALL: dict[str, tuple[Callable[..., Any], dict[str, tuple[int, ...]], tuple[Any, ...]]] = {
    "moons": (moons_loss, MOONS_SHAPES, (RNG.normal(size=(9, 2)), np.arange(9) % 2, 0.1)),
    "digits": (
        digits_loss,
        digits_shapes(9),
        (RNG.integers(0, 256, (2, 9, 9), dtype=np.uint8), np.array([3, 8])),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_gradients_written_here_are_right(name):
    """Central differences of the NumPy losses along random directions."""
    loss, shapes, data = SMALL[name]
    parameters, rng = random_parameters(shapes), np.random.default_rng(1)
    gradient = loss(parameters, *data)[1]
    for _ in range(5):
        direction = rng.normal(size=parameters.shape)
        low, high = (loss(parameters + size * direction, *data)[0] for size in (-1e-6, 1e-6))
        # Round-off of a loss near 1 over 2e-6, and squares of the step times curvature.
        np.testing.assert_allclose((high - low) / 2e-6, gradient @ direction, rtol=1e-6, atol=1e-8)


# The networks of the package against them


@pytest.mark.parametrize("regularization", [5e-3, 0.0, 0.7])
def test_two_moons_and_its_gradient(regularization):
    task = lo.TwoMoons(regularization)
    parameters = random_parameters(MOONS_SHAPES)
    problem = task.sample(jr.key(0))
    loss, gradient = loss_and_gradient(task, problem, jnp.asarray(parameters), 0)
    inputs, labels = sklearn.datasets.make_moons(1024, noise=0.1, random_state=0)
    expected, expected_gradient = moons_loss(parameters, inputs, labels, regularization)
    # Sums of a thousand terms in double precision.
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    assert_close(gradient, expected_gradient, 1e-12)


def test_two_moons_is_regularised_by_five_thousandths_of_the_norm():
    parameters = random_parameters(MOONS_SHAPES)
    with_norm, without = (
        task.loss(task.sample(jr.key(0)), jnp.asarray(parameters), 0)
        for task in (lo.TwoMoons(), lo.TwoMoons(regularization=0))
    )
    norm = np.sqrt(np.sum(parameters**2))
    np.testing.assert_allclose(with_norm - without, 5e-3 * norm, rtol=1e-12)


# 20 goes through the network at once; 100 and 50 in chunks; 400 wraps around the end of an epoch.
@pytest.mark.parametrize(
    ("side", "batch", "step"),
    mostly_long(
        [(28, 100, 0), (28, 20, 7), (14, 50, 31), (14, 400, 3), (7, 1, 1600)],
        (28, 100, 0),
        (14, 400, 3),
    ),
)
def test_mnist_and_its_gradient(side, batch, step):
    task = lo.MNIST("digits", side=side, batch=batch)
    parameters = random_parameters(digits_shapes(side))
    problem = task.sample(jr.key(0))
    loss, gradient = loss_and_gradient(task, problem, jnp.asarray(parameters), jnp.asarray(step))
    images, labels = minibatch(task, problem, step)
    expected, expected_gradient = digits_loss(parameters, images, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-11)
    assert_close(gradient, expected_gradient, 1e-11)


@pytest.mark.parametrize("batch", mostly_long([2, 50], 50))
def test_second_derivatives_of_mnist(batch):
    """Meta-training goes through the gradient: products with the Hessian, two ways, against a
    difference of the NumPy gradients.
    """
    task = lo.MNIST("digits", side=7, batch=batch)
    parameters = random_parameters(digits_shapes(7))
    direction = random_parameters(digits_shapes(7), seed=1)
    problem = task.sample(jr.key(0))

    def gradient(parameters):
        return jax.grad(task.loss, 1)(problem, parameters, 0)

    def both_ways(parameters, direction):
        forward = jax.jvp(gradient, (parameters,), (direction,))[1]
        return forward, jax.grad(lambda point: gradient(point) @ direction)(parameters)

    # So small a step that no hidden unit crosses its kink, where the gradient jumps.
    size, data = 1e-7, minibatch(task, problem, 0)
    low, high = (digits_loss(parameters + sign * size * direction, *data)[1] for sign in (-1, 1))
    for product in jax.jit(both_ways)(jnp.asarray(parameters), jnp.asarray(direction)):
        # Round-off of gradients, 1e-16, over the step, with room for cancellation.
        assert_close(product, (high - low) / (2 * size), 1e-6)


@pytest.mark.parametrize("name", ["two moons", "mnist, 14 x 14"])
def test_single_precision_will_do(name):
    """What users run: float32 agrees with NumPy's double precision to five digits."""
    build, shapes, _ = TASKS[name]
    parameters = random_parameters(shapes)
    with jax.enable_x64(False):
        task = build()
        problem = task.sample(jr.key(0))
        assert problem.initial_parameters.dtype == np.float32
        loss, gradient = loss_and_gradient(task, problem, jnp.asarray(parameters, jnp.float32), 0)
        assert loss.dtype == gradient.dtype == np.float32
        metrics = eqx.filter_jit(task.metrics)(problem, problem.initial_parameters)
        assert all(value.dtype == np.float32 for value in metrics.values())
    if name == "two moons":
        inputs, labels = sklearn.datasets.make_moons(1024, noise=0.1, random_state=0)
        expected, expected_gradient = moons_loss(parameters, inputs, labels, 5e-3)
    else:
        expected, expected_gradient = digits_loss(parameters, *minibatch(task, problem, 0))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert_close(gradient, expected_gradient, 1e-5)


@pytest.mark.parametrize(
    "convolve",
    [networks.convolve_by_patches, networks.convolve_by_rows, networks.convolve_by_xla],
)
def test_all_convolutions_are_scipys_correlation(convolve):
    rng = np.random.default_rng(0)
    images, weight = rng.normal(size=(2, 7, 5, 3)), rng.normal(size=(3, 3, 3, 4))
    result = convolve(jnp.asarray(images), jnp.asarray(weight))
    assert result.shape == (2, 5, 3, 4)
    for image, channel in np.ndindex(2, 4):
        expected = scipy.signal.correlate(images[image], weight[..., channel], "valid", "direct")
        np.testing.assert_allclose(result[image, ..., channel], expected[..., 0], atol=1e-13)


def test_metrics_of_two_moons():
    """The loss without its regulariser, and the accuracy on points of another seed."""
    task = lo.TwoMoons()
    problem, parameters = task.sample(jr.key(0)), random_parameters(MOONS_SHAPES)
    metrics = eqx.filter_jit(task.metrics)(problem, jnp.asarray(parameters))
    assert set(metrics) == {"test_accuracy", "data_loss"}
    inputs, labels = sklearn.datasets.make_moons(1024, noise=0.1, random_state=1)
    right = (moons_forward(parameters, inputs)[0] > 0) == (labels == 1)
    # A mean of 1,024 zeros and ones is exact.
    assert metrics["test_accuracy"] == np.mean(right)
    inputs, labels = sklearn.datasets.make_moons(1024, noise=0.1, random_state=0)
    expected = moons_loss(parameters, inputs, labels, 0)[0]
    np.testing.assert_allclose(metrics["data_loss"], expected, rtol=1e-12)


@pytest.mark.parametrize("side", mostly_long([14, 7], 7))
def test_metrics_of_mnist(side):
    """Over all 297 test images, which no step ever sees."""
    task = lo.MNIST("digits", side=side)
    problem, parameters = task.sample(jr.key(0)), random_parameters(digits_shapes(side))
    metrics = eqx.filter_jit(task.metrics)(problem, jnp.asarray(parameters))
    images, labels = np.asarray(task.test_images), np.asarray(task.test_labels)
    assert len(images) == 297
    right = digits_forward(parameters, images)[0].argmax(axis=1) == labels
    assert set(metrics) == {"test_accuracy", "test_loss"}
    np.testing.assert_allclose(metrics["test_accuracy"], np.mean(right), rtol=1e-14)
    np.testing.assert_allclose(
        metrics["test_loss"], digits_loss(parameters, images, labels)[0], rtol=1e-11
    )


@pytest.mark.long
def test_sixty_steps_of_adam_learn_to_tell_digits_apart():
    task = lo.MNIST("digits", side=7)
    problem = task.sample(jr.key(0))
    run = eqx.filter_jit(lo.unroll)(lo.Adam(1e-2), task, problem, 60)
    metrics = eqx.filter_jit(task.metrics)(problem, run.parameters[-1])
    # Chance is 0.1, and what this run reaches 0.92.
    assert metrics["test_accuracy"] > 0.85


# Parameters, groups and problems


@pytest.mark.parametrize("name", TASKS)
def test_parameters_are_counted_and_groups_tile_them_in_order(name):
    build, shapes, count = TASKS[name]
    task = build()
    parameters = task.sample(jr.key(0)).initial_parameters
    assert parameters.shape == (count,)
    places, first = task.parameter_groups, 0
    assert list(places) == list(shapes)
    for group, shape in shapes.items():
        assert places[group] == slice(first, first + int(np.prod(shape)))
        first = places[group].stop
    assert first == count


@pytest.mark.parametrize("name", TASKS)
def test_initial_weights_have_variance_one_over_fan_in_and_biases_are_zero(name):
    build, shapes, _ = TASKS[name]
    arrays = split(shapes, build().sample(jr.key(5)).initial_parameters)
    for group, array in arrays.items():
        if group.endswith("bias"):
            assert not np.any(array)
        else:
            scaled = np.ravel(array) * np.sqrt(np.prod(array.shape[:-1]))
            # Kolmogorov and Smirnov: a fair draw of one fixed seed, rejected once in a thousand.
            assert scipy.stats.kstest(scaled, "norm").pvalue > 1e-3


@pytest.mark.parametrize("name", TASKS)
def test_problems_differ_in_weights_and_order_and_share_the_data(name):
    build, _, count = TASKS[name]
    task = build()
    one, same, other = (task.sample(jr.key(seed)) for seed in (0, 0, 1))
    assert eqx.tree_equal(one, same)
    weights = np.asarray(one.initial_parameters) != 0
    assert not np.any((one.initial_parameters == other.initial_parameters) & weights)
    size = sum(leaf.size for leaf in jax.tree.leaves(one))
    if name == "two moons":
        assert size == count
    else:
        assert size == count + len(task.labels)
        for problem in (one, other):
            np.testing.assert_array_equal(np.sort(problem.order), np.arange(1500))
        # Two random orders agree in one place on average.
        assert np.sum(one.order == other.order) < 10


def test_layers_of_one_problem_are_drawn_apart():
    """Layers of the same shape have different weights."""
    arrays = split(MOONS_SHAPES, lo.TwoMoons().sample(jr.key(0)).initial_parameters)
    assert not np.any(arrays["dense2.weight"] == arrays["dense3.weight"])


def test_an_epoch_sees_every_example_once_in_the_order_of_the_problem():
    task = lo.MNIST("digits")
    problem = task.sample(jr.key(0))
    seen = [np.asarray(task.minibatch(problem, step)) for step in range(30)]
    np.testing.assert_array_equal(np.concatenate(seen[:15]), problem.order)
    # The second epoch repeats the first.
    np.testing.assert_array_equal(seen[15:], seen[:15])


def test_a_step_depends_on_its_minibatch_alone():
    """Permuting what other steps see changes nothing; exchanging two steps exchanges losses."""
    task = lo.MNIST("digits", side=7)
    problem = task.sample(jr.key(0))
    order = np.asarray(problem.order).reshape(15, 100)
    exchanged = eqx.tree_at(
        lambda problem: problem.order,
        problem,
        jnp.asarray(order[[1, 0, *range(14, 1, -1)]].ravel()),
    )
    loss = eqx.filter_jit(task.loss)
    for step, other in ((0, 1), (1, 0)):
        assert loss(problem, problem.initial_parameters, jnp.asarray(step)) == loss(
            exchanged, problem.initial_parameters, jnp.asarray(other)
        )


def test_two_moons_are_scikit_learns_and_do_not_depend_on_the_step():
    task = lo.TwoMoons()
    inputs, labels = sklearn.datasets.make_moons(1024, noise=0.1, random_state=0)
    np.testing.assert_array_equal(task.inputs, inputs)
    np.testing.assert_array_equal(task.labels, labels)
    problem = task.sample(jr.key(0))
    losses = [task.loss(problem, problem.initial_parameters, step) for step in (0, 57)]
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: lo.TwoMoons(-1.0),
            "`regularization` must be a finite number of at least 0, got -1",
        ),
        (lambda: lo.TwoMoons(float("inf")), "`regularization` must be a finite number"),
        (
            lambda: lo.MNIST("cifar"),  # type: ignore[arg-type]
            "`source` must be one of mnist, digits, got 'cifar'",
        ),
        (lambda: lo.MNIST("mnist", "/nowhere"), "`data_dir` must be a folder .* got '/nowhere'"),
        (lambda: lo.MNIST("digits", side=10), "`side` must be one of 28, 14, 7, got 10"),
        (lambda: lo.MNIST("digits", batch=0), "`batch` must be an integer of at least 1, got 0"),
        (lambda: lo.MNIST("digits", batch=1501), "`batch` must be at most 1500, got 1501"),
    ],
)
def test_a_task_that_cannot_be_is_refused_in_one_sentence(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)
