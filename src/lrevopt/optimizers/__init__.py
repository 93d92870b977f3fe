"""What is studied: optimizers in one state-space form."""

from lrevopt.optimizers.classical import Adam as Adam
from lrevopt.optimizers.classical import AggregatedMomentum as AggregatedMomentum
from lrevopt.optimizers.classical import ClippedGradientDescent as ClippedGradientDescent
from lrevopt.optimizers.classical import GradientDescent as GradientDescent
from lrevopt.optimizers.classical import Momentum as Momentum
from lrevopt.optimizers.classical import Nesterov as Nesterov
from lrevopt.optimizers.classical import RMSProp as RMSProp
from lrevopt.optimizers.interface import AbstractOptimizer as AbstractOptimizer
from lrevopt.optimizers.interface import AbstractParameterOptimizer as AbstractParameterOptimizer
from lrevopt.optimizers.linear import LinearOptimizer as LinearOptimizer
from lrevopt.optimizers.linear import ModeOptimizer as ModeOptimizer
from lrevopt.optimizers.optax import OptaxOptimizer as OptaxOptimizer
from lrevopt.optimizers.optax import OptaxParameterOptimizer as OptaxParameterOptimizer
from lrevopt.optimizers.optax import OptimizerState as OptimizerState
from lrevopt.optimizers.optax import from_optax as from_optax
from lrevopt.optimizers.optax import to_optax as to_optax
from lrevopt.optimizers.recurrent import GRUCell as GRUCell
from lrevopt.optimizers.recurrent import GRUOptimizer as GRUOptimizer
from lrevopt.optimizers.recurrent import RecurrentOptimizer as RecurrentOptimizer
from lrevopt.optimizers.wrappers import ScaledGradients as ScaledGradients
from lrevopt.optimizers.wrappers import at_parameter as at_parameter
from lrevopt.optimizers.wrappers import rescaled as rescaled
