"""Classifying handwritten digits with a small convolutional network (paper, section 3.2)."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt8

from lrevopt.checks import positive_integer
from lrevopt.tasks.datasets import Source, load_images, shrink
from lrevopt.tasks.interface import AbstractProblem, AbstractTask, Step, examples_of_part
from lrevopt.tasks.networks import KERNEL, convolve, draw_parameters, groups, unpack

CHANNELS = 16
CLASSES = 10
LAYERS = ("conv1", "conv2", "conv3")

CHUNK = 5
"""Images per pass through the network on a CPU, so that their patches stay in the cache."""


def network_shapes(side: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's arrays for images of `side` x `side`: 82,250 parameters for 28."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 1
    for layer in LAYERS:
        shapes[f"{layer}.weight"] = (KERNEL, KERNEL, channels, CHANNELS)
        shapes[f"{layer}.bias"] = (CHANNELS,)
        channels, side = CHANNELS, side - KERNEL + 1
    shapes["dense.weight"] = (side * side * CHANNELS, CLASSES)
    shapes["dense.bias"] = (CLASSES,)
    return shapes


class MNISTProblem(AbstractProblem):
    """Initial weights of the network, and the order of the training examples."""

    initial_parameters: Float[Array, " dim"]
    order: Int[Array, " example"]


class MNIST(AbstractTask):
    """Mean cross-entropy of minibatches of 100 digits, by three convolutions and a dense layer.

    Convolutions are 3 x 3 with 16 channels, stride 1, no padding, ReLU: 82,250 parameters, as in
    the paper. Pixels are divided by 255. A problem is a draw of weights (normal with variance
    1 / fan-in) with biases 0, and of an order of all examples. Step k uses the k-th minibatch in
    this order, which starts again after an epoch.

    `source` is "mnist", the real data (`load_images` says where they are searched, and what
    `data_dir` does), or "digits", scikit-learn's embedded digits, enlarged, for machines without
    the data. `side` is 28, 14 or 7 pixels; smaller images have a smaller network. `metrics`:
    `test_accuracy` and `test_loss` on the test images.

    Raises `ValueError` for data that cannot be found or are damaged, a side that is too small or
    does not divide 28, or a batch below 1 or above the number of examples.
    """

    images: UInt8[Array, "example side side"]
    labels: UInt8[Array, " example"]
    test_images: UInt8[Array, "test side side"]
    test_labels: UInt8[Array, " test"]
    source: Source = eqx.field(static=True)
    side: int = eqx.field(static=True)
    batch: int = eqx.field(static=True)

    def __init__(
        self,
        source: Source = "mnist",
        data_dir: Path | str | None = None,
        *,
        side: int = 28,
        batch: int = 100,
    ):
        data = load_images(source, data_dir)
        self.source, self.side = source, side
        self.images = jnp.asarray(shrink(data.train.images, side))
        self.labels = jnp.asarray(data.train.labels)
        self.test_images = jnp.asarray(shrink(data.test.images, side))
        self.test_labels = jnp.asarray(data.test.labels)
        self.batch = positive_integer("batch", batch)
        if batch > self.labels.size:
            raise ValueError(f"`batch` must be at most {self.labels.size}, got {batch}.")

    @property
    def parameter_groups(self) -> dict[str, slice]:
        return groups(network_shapes(self.side))

    def sample(self, key: Key[Array, ""]) -> MNISTProblem:
        weights_key, order_key = jr.split(key)
        order = jr.permutation(order_key, jnp.arange(self.labels.size, dtype=jnp.int32))
        return MNISTProblem(draw_parameters(network_shapes(self.side), weights_key), order)

    def loss(
        self, problem: MNISTProblem, parameters: Float[Array, " dim"], step: Step
    ) -> Float[Array, ""]:
        chosen = self.minibatch(problem, step)
        return _cross_entropy(parameters, self.images[chosen], self.labels[chosen])

    def part_of_loss(
        self,
        problem: MNISTProblem,
        parameters: Float[Array, " dim"],
        step: Step,
        part: Int[Array, ""],
        parts: int,
    ) -> Float[Array, ""]:
        chosen = self.minibatch(problem, step)[examples_of_part(self.batch, part, parts)]
        return _cross_entropy(parameters, self.images[chosen], self.labels[chosen]) / parts

    def minibatch(self, problem: MNISTProblem, step: Step) -> Int[Array, " batch"]:
        """Indices of the examples of step `step`."""
        places = jnp.asarray(step, jnp.int32) * self.batch + jnp.arange(self.batch, dtype=jnp.int32)
        return problem.order[places % self.labels.size]

    def metrics(self, problem: MNISTProblem, parameters: Float[Array, " dim"]) -> dict[str, Array]:
        def one(image: Array, label: Array) -> tuple[Array, Array]:
            logits = _logits(parameters, image[None])[0]
            right = (jnp.argmax(logits) == label.astype(int)).astype(parameters.dtype)
            return right, jax.nn.logsumexp(logits) - logits[label]

        right, losses = lax.map(
            lambda example: one(*example), (self.test_images, self.test_labels), batch_size=CHUNK
        )
        return {"test_accuracy": jnp.mean(right), "test_loss": jnp.mean(losses)}


def _logits(
    parameters: Float[Array, " dim"], images: UInt8[Array, "image side side"]
) -> Float[Array, "image class"]:
    arrays = unpack(network_shapes(images.shape[-1]), parameters)
    hidden = images[..., None].astype(parameters.dtype) / 255
    for layer in LAYERS:
        bias = arrays[f"{layer}.bias"][None, None, None]
        hidden = jax.nn.relu(convolve(hidden, arrays[f"{layer}.weight"]) + bias)
    return hidden.reshape(len(images), -1) @ arrays["dense.weight"] + arrays["dense.bias"][None]


def _summed(
    parameters: Float[Array, " dim"],
    images: UInt8[Array, "image side side"],
    labels: UInt8[Array, " image"],
) -> Float[Array, ""]:
    logits = _logits(parameters, images)
    chosen = jnp.take_along_axis(logits, labels[:, None].astype(jnp.int32), axis=1)
    return jnp.sum(jax.nn.logsumexp(logits, axis=1) - chosen[:, 0])


def _over_chunks(function, parameters, images, labels):
    """Mean of `function(parameters, images, labels)`, a sum over images, chunk by chunk."""
    count = len(images)
    chunks = count // CHUNK if jax.default_backend() == "cpu" and count % CHUNK == 0 else 1
    parts = [part.reshape(chunks, -1, *part.shape[1:]) for part in (images, labels)]
    if chunks == 1:
        total = function(parameters, images, labels)
    else:
        first = jax.eval_shape(function, parameters, parts[0][0], parts[1][0])
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

        def add(total, chunk):
            return jax.tree.map(jnp.add, total, function(parameters, *chunk)), None

        total, _ = lax.scan(add, zeros, tuple(parts))
    return jax.tree.map(lambda leaf: leaf / count, total)


@jax.custom_jvp
def _cross_entropy(
    parameters: Float[Array, " dim"],
    images: UInt8[Array, "image side side"],
    labels: UInt8[Array, " image"],
) -> Float[Array, ""]:
    """Mean cross-entropy. Its gradient is summed chunk by chunk.

    Reverse mode over a loop of chunks would keep the activations of all of them.
    """
    return _over_chunks(_summed, parameters, images, labels)


@_cross_entropy.defjvp
def _cross_entropy_derivative(primals, tangents):
    value, gradient = _over_chunks(jax.value_and_grad(_summed), *primals)
    return value, gradient @ tangents[0]
