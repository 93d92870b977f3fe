"""The bridge to optax, in both directions.

`from_optax` puts a component-wise gradient transformation into the form of this package,

    h' = F(h, g)        h: what optax keeps for one parameter, then the update itself
    x' = x + w . h'     w = (0, ..., 0, 1)

so that every tool here takes it apart, and `to_optax` makes a transformation of any optimizer
here, so that it trains whatever optax trains.
"""

from lrevopt.optimizers.optax.from_optax import OptaxOptimizer as OptaxOptimizer
from lrevopt.optimizers.optax.from_optax import from_optax as from_optax
from lrevopt.optimizers.optax.to_optax import OptimizerState as OptimizerState
from lrevopt.optimizers.optax.to_optax import to_optax as to_optax
