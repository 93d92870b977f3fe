"""Small networks whose parameters are one flat vector.

A network is described by the shapes of its arrays by name, `dense1.weight`, `dense1.bias`, ..., in
the order of the vector, each row-major. The last axis of a weight counts outputs, the others count
inputs: a layer computes `x @ weight + bias`.
"""

from collections.abc import Mapping
from math import prod

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, Key

Shapes = Mapping[str, tuple[int, ...]]

KERNEL = 3
"""Side of a convolution's kernel."""


def groups(shapes: Shapes) -> dict[str, slice]:
    """Slice of the vector of each array."""
    places, first = {}, 0
    for name, shape in shapes.items():
        places[name] = slice(first, first + prod(shape))
        first += prod(shape)
    return places


def draw_parameters(shapes: Shapes, key: Key[Array, ""]) -> Float[Array, " dim"]:
    """Random parameters: weights normal with variance 1 / fan-in, biases 0.

    The paper says only that weights are random.
    """
    keys = jr.split(key, len(shapes))
    arrays = [
        jnp.zeros(shape) if len(shape) == 1 else jr.normal(k, shape) * prod(shape[:-1]) ** -0.5
        for k, shape in zip(keys, shapes.values(), strict=True)
    ]
    return jnp.concatenate([array.reshape(-1) for array in arrays])


def unpack(shapes: Shapes, parameters: Float[Array, " dim"]) -> dict[str, Float[Array, "..."]]:
    """The arrays of a network from its vector, by name."""
    return {name: parameters[place].reshape(shapes[name]) for name, place in groups(shapes).items()}


def convolve(
    images: Float[Array, "image row column channel"], weight: Float[Array, "3 3 channel out"]
) -> Float[Array, "image row-2 column-2 out"]:
    """Cross-correlation with a 3 x 3 kernel, stride 1, no padding.

    On a CPU this is a product of patches and kernel, ten times faster inside a loop than XLA's
    convolution, which is used elsewhere. Where there are several channels, patches are as wide as
    the kernel and one row high: a third of the copies, and wider products.
    """
    if jax.default_backend() != "cpu":
        return convolve_by_xla(images, weight)
    by_patches = images.shape[-1] < KERNEL
    return convolve_by_patches(images, weight) if by_patches else convolve_by_rows(images, weight)


def convolve_by_patches(
    images: Float[Array, "image row column channel"], weight: Float[Array, "3 3 channel out"]
) -> Float[Array, "image row-2 column-2 out"]:
    """`convolve` as a product of 3 x 3 patches and the flattened kernel."""
    rows, columns = (side - KERNEL + 1 for side in images.shape[1:3])
    patches = jnp.concatenate(
        [
            images[:, down : down + rows, right : right + columns]
            for down in range(KERNEL)
            for right in range(KERNEL)
        ],
        axis=-1,
    )
    return patches @ weight.reshape(-1, weight.shape[-1])


def convolve_by_rows(
    images: Float[Array, "image row column channel"], weight: Float[Array, "3 3 channel out"]
) -> Float[Array, "image row-2 column-2 out"]:
    """`convolve` as a product of 1 x 3 patches and all rows of the kernel, then sums over rows."""
    rows, columns = (side - KERNEL + 1 for side in images.shape[1:3])
    patches = jnp.concatenate(
        [images[:, :, right : right + columns] for right in range(KERNEL)], axis=-1
    )
    out = weight.shape[-1]
    products = patches @ jnp.moveaxis(weight, 0, 2).reshape(-1, KERNEL * out)
    first, second, third = (
        products[:, down : down + rows, :, down * out : (down + 1) * out] for down in range(KERNEL)
    )
    return first + second + third


def convolve_by_xla(
    images: Float[Array, "image row column channel"], weight: Float[Array, "3 3 channel out"]
) -> Float[Array, "image row-2 column-2 out"]:
    """`convolve` by XLA's convolution."""
    return lax.conv_general_dilated(
        images, weight, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
