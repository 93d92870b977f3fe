"""Classifying two moons with a small tanh network (paper, section 3.2)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt.checks import finite
from lrevopt.tasks.interface import AbstractProblem, AbstractTask, Step, examples_of_part
from lrevopt.tasks.networks import draw_parameters, groups, unpack

EXAMPLES = 1024
NOISE = 0.1
DATA_SEED, TEST_SEED = 0, 1

SHAPES = {
    "dense1.weight": (2, 64),
    "dense1.bias": (64,),
    "dense2.weight": (64, 64),
    "dense2.bias": (64,),
    "dense3.weight": (64, 64),
    "dense3.bias": (64,),
    "dense4.weight": (64, 1),
    "dense4.bias": (1,),
}
"""A network 2-64-64-64-1: 8,577 parameters, as in the paper."""


class TwoMoonsProblem(AbstractProblem):
    """Initial weights of the network; the data are the same in every problem."""

    initial_parameters: Float[Array, " dim"]


class TwoMoons(AbstractTask):
    """Full-batch logistic regression of 1,024 points by a network 2-64-64-64-1 with tanh.

        loss = mean log-loss + regularization ||parameters||

    The points are scikit-learn's, with noise 0.1 and a fixed seed. The regulariser, the unsquared
    norm of all parameters, is from the authors' code; the paper does not mention it. It keeps the
    loss away from 0: at the start it is 0.07 of about 0.8. A problem is a draw of weights (normal
    with variance 1 / fan-in) with biases 0.

    `metrics`: `data_loss` without the regulariser, and `test_accuracy` on 1,024 points of
    another seed. Raises `ValueError` for a negative regularization.
    """

    inputs: Float[Array, "example 2"]
    labels: Float[Array, " example"]
    test_inputs: Float[Array, "example 2"]
    test_labels: Float[Array, " example"]
    regularization: float = eqx.field(static=True)

    def __init__(self, regularization: float = 5e-3):
        self.regularization = finite("regularization", regularization, at_least=0.0)
        self.inputs, self.labels = _moons(DATA_SEED)
        self.test_inputs, self.test_labels = _moons(TEST_SEED)

    @property
    def parameter_groups(self) -> dict[str, slice]:
        return groups(SHAPES)

    def sample(self, key: Key[Array, ""]) -> TwoMoonsProblem:
        return TwoMoonsProblem(draw_parameters(SHAPES, key))

    def loss(
        self, problem: TwoMoonsProblem, parameters: Float[Array, " dim"], step: Step
    ) -> Float[Array, ""]:
        return self._regularized(parameters, self.inputs, self.labels)

    def part_of_loss(
        self,
        problem: TwoMoonsProblem,
        parameters: Float[Array, " dim"],
        step: Step,
        part: Int[Array, ""],
        parts: int,
    ) -> Float[Array, ""]:
        own = examples_of_part(EXAMPLES, part, parts)
        return self._regularized(parameters, self.inputs[own], self.labels[own]) / parts

    def metrics(
        self, problem: TwoMoonsProblem, parameters: Float[Array, " dim"]
    ) -> dict[str, Array]:
        correct = (_logits(parameters, self.test_inputs) > 0) == (self.test_labels > 0)
        return {
            "test_accuracy": jnp.mean(correct.astype(parameters.dtype)),
            "data_loss": _data_loss(parameters, self.inputs, self.labels),
        }

    def _regularized(self, parameters: Array, inputs: Array, labels: Array) -> Float[Array, ""]:
        norm = jnp.linalg.norm(parameters)
        return _data_loss(parameters, inputs, labels) + self.regularization * norm


def _moons(seed: int) -> tuple[Float[Array, "example 2"], Float[Array, " example"]]:
    from sklearn.datasets import make_moons  # half a second and 50 MB, only here

    inputs, labels = make_moons(EXAMPLES, noise=NOISE, random_state=seed)
    return jnp.asarray(np.asarray(inputs, float)), jnp.asarray(np.asarray(labels, float))


def _data_loss(
    parameters: Float[Array, " dim"],
    inputs: Float[Array, "example 2"],
    labels: Float[Array, " example"],
) -> Float[Array, ""]:
    logits = _logits(parameters, inputs)
    return jnp.mean(jax.nn.softplus(logits) - labels * logits)


def _logits(
    parameters: Float[Array, " dim"], inputs: Float[Array, "example 2"]
) -> Float[Array, " example"]:
    """The network's output: positive for the class 1."""
    arrays = unpack(SHAPES, parameters)
    hidden = inputs
    for layer in ("dense1", "dense2", "dense3"):
        hidden = jnp.tanh(hidden @ arrays[f"{layer}.weight"] + arrays[f"{layer}.bias"][None])
    return (hidden @ arrays["dense4.weight"] + arrays["dense4.bias"][None])[:, 0]
