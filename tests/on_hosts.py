"""What is computed in one process and in several, to be compared.

    python tests/on_hosts.py PORT PROCESS

is one of two processes, with two CPU devices each. It prints its numbers as JSON.
"""

import json
import os
import sys
from typing import Any

FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"


def connect(port: str, process: int) -> None:
    """Become one of two processes. Nothing of JAX may have been used before."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(
        f"127.0.0.1:{port}", 2, process, initialization_timeout=120,
        heartbeat_timeout_seconds=60, cluster_detection_method="deactivate",
    )  # fmt: skip


def measured(mesh: Any) -> dict[str, Any]:
    """Losses, meta-gradients, a tuned winner and trained weights over a mesh of devices."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    import numpy as np

    import lrevopt as lo
    from lrevopt.inner_loop.hosts import fetched

    def flat(tree: Any) -> list[float]:
        leaves = jax.tree.leaves(fetched(eqx.filter(tree, eqx.is_inexact_array)))
        return np.concatenate([np.ravel(leaf) for leaf in leaves]).tolist()

    def gru(seed: int) -> lo.RecurrentOptimizer:
        made = lo.GRUOptimizer(3, key=jr.key(seed))
        return eqx.tree_at(lambda o: o.weights, made, 0.3 * jr.normal(jr.key(9), (3,)))

    task, key = lo.LinearRegression(dim=3), jr.key(2)
    settings = lo.MetaTraining(
        steps=20, unroll=6, problems=6, warm_up=2, snapshot_every=10, early_snapshots=False,
        selection_problems=5, learning_rate=1e-2,
    )  # fmt: skip
    keys = jr.split(key, 6)
    gradient = eqx.filter_jit(lambda o, keys: lo.meta_gradient(o, task, keys, settings, mesh))
    tuning = lo.Tuning(settings=30, problems=3, finalists=2, fresh_problems=3, steps=5)
    tuned = lo.tune(task, lo.Momentum, tuning, key=key, mesh=mesh)
    single = lo.meta_train(task, gru(0), settings, key=key, mesh=mesh, progress=False)
    several = lo.meta_train_population(
        task, [gru(0), gru(1)], settings, keys=jnp.stack([key, keys[0]]), mesh=mesh, progress=False
    )
    optimizers = {"gru": gru(0)}
    return {
        "losses": np.ravel(
            lo.evaluate(optimizers, task, problems=5, steps=8, key=key, mesh=mesh).losses
        ).tolist(),
        "meta-gradient": flat(gradient(gru(0), keys)),
        "tuned winner": list(map(float, tuned.best.values())),
        "scores": np.asarray(tuned.scores).tolist(),
        "weights": flat(single.last),
        "selected": flat(single.optimizer),
        "member 0": flat(several.members[0].last),
        "member 1": flat(several.members[1].last),
    }


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = FLAGS
    connect(sys.argv[1], int(sys.argv[2]))
    import jax
    import numpy as np
    from jax.sharding import Mesh

    found = measured(Mesh(np.array(jax.devices()), ("problem",)))
    print("FOUND", json.dumps(found), flush=True)
    jax.distributed.shutdown()
