"""Reverse engineering learned optimizers: train them, and see what they do."""

from lrevopt.optimizers import Adam as Adam
from lrevopt.optimizers import AggregatedMomentum as AggregatedMomentum
from lrevopt.optimizers import ClippedGradientDescent as ClippedGradientDescent
from lrevopt.optimizers import GradientDescent as GradientDescent
from lrevopt.optimizers import GRUCell as GRUCell
from lrevopt.optimizers import GRUOptimizer as GRUOptimizer
from lrevopt.optimizers import LinearOptimizer as LinearOptimizer
from lrevopt.optimizers import ModeOptimizer as ModeOptimizer
from lrevopt.optimizers import Momentum as Momentum
from lrevopt.optimizers import Nesterov as Nesterov
from lrevopt.optimizers import RecurrentOptimizer as RecurrentOptimizer
from lrevopt.optimizers import RMSProp as RMSProp
from lrevopt.tasks import LinearRegression as LinearRegression
from lrevopt.tasks import Rosenbrock as Rosenbrock
from lrevopt.unroll import Trajectory as Trajectory
from lrevopt.unroll import unroll as unroll
from lrevopt.unroll import unroll_losses as unroll_losses
