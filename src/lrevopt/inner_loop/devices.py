"""Problems spread over devices: a mesh with the axis `problem`, shared by everything that runs.

An optimizer and its task are on every device, and each device runs its share of the problems. Keys
are drawn before problems are spread, so results depend on the number of devices only by round-off.
Where there are fewer problems than devices, the parameters of each may be spread instead, over an
axis `lane` that `with_lanes` adds (`inner_loop.lanes` says how).
Where several optimizers are trained at once, the mesh also has an axis `seed`, over which they are
spread.
"""

import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from lrevopt.checks import positive_integer
from lrevopt.host_devices import THREADS, asked_devices, cores, threads
from lrevopt.text import counted

PROBLEM = "problem"
"""Axis of a mesh over which problems are spread."""

LANE = "lane"
"""Axis of a mesh over which the parameters of each problem are spread."""

LEAST_LANES = 1024
"""Parameters of a problem that a device has at least. With fewer, sending them takes longer than
what is saved."""

SEED = "seed"
"""Axis of a mesh over which the members of a population are spread."""

Result = TypeVar("Result")


def problem_mesh(devices: int | None = None) -> Mesh:
    """A mesh that spreads problems over the first `devices` local devices (default: all).

    Pass it as `mesh` to `meta_train`, `evaluate`, `tune` or `score_settings`, which otherwise take
    all local devices, or as many as the environment variable `LREVOPT_DEVICES` says. A process
    has one CPU device unless `jax.config.update("jax_num_cpu_devices", n)` comes before the first
    computation.

    Raises `ValueError` for fewer than one device, or more than there are.
    """
    there = jax.local_devices()
    count = len(there) if devices is None else positive_integer("devices", devices)
    if count > len(there):
        raise ValueError(f"`devices` must be at most the {len(there)} local ones, got {count}.")
    return Mesh(np.array(there[:count]), (PROBLEM,))


def training_mesh(
    mesh: Mesh | None, problems: int | None = None, parameters: int = 0
) -> Mesh | None:
    """As `check_mesh`, but by default with the devices of all processes where there are several."""
    if mesh is None and jax.process_count() > 1:
        most = asked_devices() or jax.device_count()
        owners = [device.process_index for device in jax.devices()]
        chosen = [d for k, d in enumerate(jax.devices()) if owners[:k].count(owners[k]) < most]
        mesh = Mesh(np.array(chosen), (PROBLEM,))
    return check_mesh(mesh, problems, parameters)


def check_mesh(mesh: Mesh | None, problems: int | None = None, parameters: int = 0) -> Mesh | None:
    """The mesh to run on, the default one for None; None stands for a single device.

    The default one has no more devices than `problems` with so many `parameters` each can be spread
    over (see `with_lanes`): a device without a share would run another's problem again, while a
    single problem is run by all cores of its device. Without `parameters` these are not spread.

    Raises `ValueError` for anything but a mesh with the one axis `problem`, or an environment
    variable that is no number of devices.
    """
    if mesh is None:
        most = _available()
        if problems is not None and problems < most:
            most = problems * max(1, min(most // problems, parameters // LEAST_LANES))
        mesh = problem_mesh(most)
    if not isinstance(mesh, Mesh) or mesh.axis_names != (PROBLEM,):
        raise ValueError(
            f"`mesh` must be a jax.sharding.Mesh with the one axis {PROBLEM}, as problem_mesh "
            f"makes it, got {mesh!r}."
        )
    return None if _first_alone(mesh) else mesh


def with_lanes(mesh: Mesh | None, problems: int, parameters: int) -> Mesh | None:
    """The devices of a mesh with a further axis `lane`, where that serves; else the same mesh.

    It does where there are fewer `problems` than devices, their number divides that of the devices,
    and each device has at least `LEAST_LANES` of a problem's `parameters`.
    """
    if mesh is None:
        return None
    devices = mesh.shape[PROBLEM]
    lanes, rest = divmod(devices, problems)
    if rest or lanes < 2 or parameters // lanes < LEAST_LANES:
        return mesh
    shape = (*mesh.devices.shape[:-1], problems, lanes)
    return Mesh(mesh.devices.reshape(shape), (*mesh.axis_names, LANE))


def spread_in_words(mesh: Mesh | None, problems: int, parameters: int) -> str:
    """What is spread where there are fewer problems than devices; empty where there are not."""
    devices = _available() if mesh is None else max(_available(), mesh.size)
    if problems >= devices:
        return ""
    counts = f"{counted(problems, 'problem')} at once on {devices} devices"
    spread = with_lanes(mesh, problems, parameters)
    if spread is not None and LANE in spread.shape:
        return (
            f"{counts}: the {parameters:,} parameters of each are spread over {spread.shape[LANE]}"
        )
    if not parameters:
        why = "evolution strategies spread runs alone"
    elif parameters < 2 * LEAST_LANES:
        why = f"a device would have fewer than {LEAST_LANES:,} of {parameters:,}"
    else:
        why = "the number of problems does not divide that of the devices"
    return f"{counts}: their parameters are not spread, because {why}"


def _available() -> int:
    """Local devices that may be used by default."""
    return min(asked_devices() or sys.maxsize, jax.local_device_count())


def population_mesh(members: int, mesh: Mesh | None) -> Mesh | None:
    """Devices arranged for `members` trainings at once: a mesh with the axes `seed` and `problem`.

    The devices are those of a mesh with the one axis `problem`, by default of `training_mesh`.
    Members are spread over as many devices as divide their number, and each member's problems over
    the others. A mesh that has both axes is taken as it is. None stands for a single device, which
    is also the default where CPU devices have too few threads (see `crowded`).

    Raises `ValueError` as `check_mesh` does, and for a mesh whose axis `seed` does not divide the
    members.
    """
    if isinstance(mesh, Mesh) and mesh.axis_names == (SEED, PROBLEM):
        if members % mesh.shape[SEED]:
            raise ValueError(
                f"`mesh` must have an axis {SEED} that divides {members} members, got "
                f"{mesh.shape[SEED]}."
            )
        return None if _first_alone(mesh) else mesh
    mesh = None if mesh is None and crowded() else training_mesh(mesh)
    if mesh is None:
        return None
    return Mesh(mesh.devices.reshape(math.gcd(members, mesh.size), -1), (SEED, PROBLEM))


def _first_alone(mesh: Mesh) -> bool:
    return mesh.size == 1 and mesh.devices.item() == jax.devices()[0]


def over_members(run: Callable[..., Result], mesh: Mesh | None) -> Callable[..., Result]:
    """`run` of one member as a function of stacked members, spread over the axis `seed` of a mesh.

    Every array of the arguments and of the result has a first axis `seed`.
    """
    if mesh is None:
        return jax.vmap(run)
    spread = NamedSharding(mesh, Spec(SEED))
    mapped = jax.vmap(run, spmd_axis_name=SEED)
    return lambda *members: jax.lax.with_sharding_constraint(mapped(*members), spread)


def on_devices_of_members(tree: Any, mesh: Mesh | None) -> Any:
    """The tree with its arrays, which have a first axis `seed`, spread over a mesh."""
    return _placed(tree, mesh, Spec(SEED))


def crowded() -> str:
    """A sentence for a process whose CPU devices may wait for each other; empty if they cannot.

    See `host_devices.threads`. Members of a population draw their problems at once, on all devices.
    """
    devices = jax.local_device_count()
    if jax.default_backend() != "cpu" or devices == 1 or threads(devices) > devices:
        return ""
    return (
        f"a population runs on one of {devices} devices: {THREADS}={cores() + devices} in the "
        f"environment, before the first computation, gives XLA the threads to use all"
    )


def idle_cores() -> str:
    """A sentence for a process that leaves cores of its machine idle; empty if it does not."""
    count = cores()
    if jax.default_backend() != "cpu" or jax.local_device_count() > 1 or count == 1:
        return ""
    return (
        f"one of {count} cores runs problems: jax.config.update('jax_num_cpu_devices', {count}), "
        f"before the first computation, spreads them over all"
    )


def on_every_device(tree: Any, mesh: Mesh | None) -> Any:
    """The tree with its arrays copied to every device of the mesh, once instead of at each call."""
    return _placed(tree, mesh, Spec())


def _placed(tree: Any, mesh: Mesh | None, spec: Spec) -> Any:
    if mesh is None:
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    sharding = NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
        return eqx.combine(jax.device_put(arrays, sharding), rest)
    return eqx.combine(jax.tree.map(lambda leaf: _placed_by_all(leaf, sharding), arrays), rest)


def _placed_by_all(leaf: Any, sharding: NamedSharding) -> Any:
    """An array that every process has, on devices of which each process has some."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _placed_by_all(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])


def over_problems(
    run: Callable[[Any, Any], Result], shared: Any, problems: Any, mesh: Mesh | None
) -> Result:
    """`run(shared, problems)` with problems spread over a mesh.

    Every array in `problems` and in the result has a first axis `problem`. `shared` is anything:
    its arrays are on every device. Where devices do not divide the problems, some run the first
    ones again, and those results are dropped.
    """
    if mesh is None:
        return run(shared, problems)
    arrays, rest = eqx.partition(shared, eqx.is_array)
    count = _count(problems)
    places = _even_places(count, mesh)

    def part(arrays: Any, problems: Any) -> Result:
        return run(eqx.combine(arrays, rest), problems)

    spread = jax.shard_map(
        part, mesh=mesh, in_specs=(Spec(), Spec(PROBLEM)), out_specs=Spec(PROBLEM), check_vma=False
    )
    result = spread(arrays, jax.tree.map(lambda leaf: leaf[places], problems))
    return jax.tree.map(lambda leaf: leaf[:count], result)


def mean_over_problems(
    run: Callable[[Any, Any, Any], Result], shared: Any, problems: Any, mesh: Mesh
) -> Result:
    """The sum of `run(shared, problems, shares)` over a mesh, by one collective.

    `shares` is 1 over the number of problems, and 0 for those that only fill up a device. `run`
    gives one result for the problems that it is given: their mean if it adds up share times
    result. If the mesh has an axis `lane`, the sum is over this, too.
    """
    arrays, rest = eqx.partition(shared, eqx.is_array)
    count = _count(problems)
    places = _even_places(count, mesh)
    shares = jnp.where(jnp.arange(places.size) < count, 1 / count, 0.0)
    summed = tuple(axis for axis in (PROBLEM, LANE) if axis in mesh.shape)

    def part(arrays: Any, problems: Any, shares: Any) -> Result:
        return lax.psum(run(eqx.combine(arrays, rest), problems, shares), summed)

    spread = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(Spec(), Spec(PROBLEM), Spec(PROBLEM)),
        out_specs=Spec(),
        check_vma=False,
    )
    return spread(arrays, jax.tree.map(lambda leaf: leaf[places], problems), shares)


def _count(problems: Any) -> int:
    return jax.tree.leaves(problems)[0].shape[0]


def _even_places(count: int, mesh: Mesh) -> np.ndarray:
    """Indices of all problems, and then of the first ones again, a multiple of the devices."""
    devices = mesh.shape[PROBLEM]
    return np.arange(-(-count // devices) * devices) % count
