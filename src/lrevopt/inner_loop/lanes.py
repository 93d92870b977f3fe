"""Parameters of a problem spread over devices, where there are fewer problems than devices.

The recurrent part of a step is independent by parameter, so each device moves its part of the
parameters. For a gradient, every device collects all of them. Where the task says how its loss
divides (`AbstractTask.part_of_loss`), each differentiates one part, and one collective adds these
up and gives each device its part of the sum. Otherwise each differentiates the whole loss.

All devices have equally many parameters. Where devices do not divide their number, the last ones
have copies of the last parameter, which move as it does and have no cotangent.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from lrevopt.inner_loop.devices import LANE


@dataclasses.dataclass(frozen=True)
class Shard:
    """How `dim` parameters of each problem lie on the devices of the axis `lane`.

    Methods are for programs that are mapped over this axis. An array is *whole* where its last axis
    has all parameters, and *own* where it has those of the device at hand.
    """

    dim: int
    devices: int

    @property
    def size(self) -> int:
        """Parameters on each device."""
        return -(-self.dim // self.devices)

    def _filled(self, whole: Float[Array, "problem dim"]) -> Array:
        missing = self.size * self.devices - self.dim
        return jnp.pad(whole, ((0, 0), (0, missing)), mode="edge") if missing else whole

    def own(self, whole: Float[Array, "problem dim"]) -> Float[Array, "problem own"]:
        """The part of this device."""
        first = lax.axis_index(LANE) * self.size
        return lax.dynamic_slice_in_dim(self._filled(whole), first, self.size, axis=1)

    def own_sum(self, whole: Float[Array, "problem dim"]) -> Float[Array, "problem own"]:
        """The part of this device of the sum over all."""
        filled = self._filled(whole)
        return lax.psum_scatter(filled, LANE, scatter_dimension=1, tiled=True)

    def whole(self, own: Float[Array, "*stack problem own"]) -> Float[Array, "*stack problem dim"]:
        """All parameters, from the parts of all devices."""
        return lax.all_gather(own, LANE, axis=own.ndim - 1, tiled=True)[..., : self.dim]

    def counted(self, own: Float[Array, "problem own"]) -> Float[Array, "problem own"]:
        """The part of this device with 0 in place of copies."""
        if self.size * self.devices == self.dim:
            return own
        places = lax.axis_index(LANE) * self.size + jnp.arange(self.size, dtype=jnp.int32)
        return jnp.where(places < self.dim, own, 0)

    def total(self, parts: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Sum over devices."""
        return lax.psum(parts, LANE)


def shard_of(mesh: Mesh | None, dim: int) -> Shard | None:
    """How `dim` parameters lie on a mesh; None if it has no axis `lane`."""
    return Shard(dim, mesh.shape[LANE]) if mesh is not None and LANE in mesh.shape else None
