"""Random linear regression (paper, section 3.2 and B.1)."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.lax import Precision
from jaxtyping import Array, Float, Key

from lrevopt.checks import increasing_pair, positive_integer
from lrevopt.tasks.interface import AbstractProblem, AbstractTask, Step

MOST_DECADES = 30
"""Decimal logarithm of the largest eigenvalue, and of the inverse of the smallest."""


class LinearRegressionProblem(AbstractProblem):
    """`f(x) = 1/2 ||A x - b||^2` and a start."""

    matrix: Float[Array, "dim dim"]
    target: Float[Array, " dim"]
    initial_parameters: Float[Array, " dim"]


class LinearRegression(AbstractTask):
    """Least squares with a square matrix of prescribed spectrum; the minimum of the loss is 0.

    The paper says only that A and b are random. The authors' code draws the Hessian `H = A'A` with
    log10 eigenvalues uniform on `log10_eigenvalues` in a uniformly random basis, a linear term
    `v ~ N(0, I)` and a start `x0 ~ N(0, I)`. This is the regression with `A = H^(1/2)` and
    `b = -H^(-1/2) v`. The target grows with the condition number, and so does the spread of initial
    losses. Raises `ValueError` for a dimension below 1, a reversed range, or one beyond
    30 decades.
    """

    dim: int = eqx.field(static=True)
    log10_eigenvalues: tuple[float, float] = eqx.field(static=True)

    def __init__(self, dim: int = 5, log10_eigenvalues: tuple[float, float] = (-3, 0)):
        self.dim = positive_integer("dim", dim)
        low, high = increasing_pair("log10_eigenvalues", log10_eigenvalues)
        if low < -MOST_DECADES or high > MOST_DECADES:
            raise ValueError(
                f"`log10_eigenvalues` must lie from -{MOST_DECADES} to {MOST_DECADES}, or losses "
                f"are not finite in single precision, got {(low, high)}."
            )
        self.log10_eigenvalues = (low, high)

    def sample(self, key: Key[Array, ""]) -> LinearRegressionProblem:
        spectrum_key, basis_key, linear_key, start_key = jr.split(key, 4)
        low, high = self.log10_eigenvalues
        root = 10 ** (jr.uniform(spectrum_key, (self.dim,), minval=low, maxval=high) / 2)
        # QR of a Gaussian matrix, with the signs of R's diagonal, is uniform (Haar).
        basis, triangle = jnp.linalg.qr(jr.normal(basis_key, (self.dim, self.dim)))
        basis = basis * jnp.sign(jnp.diagonal(triangle))[None]
        linear = jr.normal(linear_key, (self.dim,))
        return LinearRegressionProblem(
            matrix=jnp.matmul(basis * root[None], basis.T, precision=Precision.HIGHEST),
            target=-basis @ ((basis.T @ linear) / root),
            initial_parameters=jr.normal(start_key, (self.dim,)),
        )

    def loss(
        self, problem: LinearRegressionProblem, parameters: Float[Array, " dim"], step: Step
    ) -> Float[Array, ""]:
        product = jnp.matmul(problem.matrix, parameters, precision=Precision.HIGHEST)
        residual = product - problem.target
        return 0.5 * jnp.dot(residual, residual, precision=Precision.HIGHEST)
