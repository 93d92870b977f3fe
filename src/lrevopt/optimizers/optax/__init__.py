"""Conversion between optimizers of this package and optax transformations.

`from_optax` puts a component-wise gradient transformation into state-space form,

    h' = F(h, g)        h: optax's state of one parameter, then the update itself
    x' = x + w . h'     w = (0, ..., 0, 1)

so that every analysis here applies to it. `to_optax` makes an optax transformation of any
optimizer of this package.
"""

from lrevopt.optimizers.optax.from_optax import from_optax as from_optax
from lrevopt.optimizers.optax.from_optax import hold_counters as hold_counters
from lrevopt.optimizers.optax.state_space import OptaxOptimizer as OptaxOptimizer
from lrevopt.optimizers.optax.state_space import OptaxParameterOptimizer as OptaxParameterOptimizer
from lrevopt.optimizers.optax.to_optax import OptimizerState as OptimizerState
from lrevopt.optimizers.optax.to_optax import to_optax as to_optax
