"""What is inside an optimizer: update functions, fixed points, modes, mechanisms."""

from lrevopt.analysis.adaptation import Adaptation as Adaptation
from lrevopt.analysis.adaptation import held_gradients as held_gradients
from lrevopt.analysis.adaptation import measure_adaptation as measure_adaptation
from lrevopt.analysis.attractors import Attractors as Attractors
from lrevopt.analysis.attractors import find_attractors as find_attractors
from lrevopt.analysis.clipping import Clipping as Clipping
from lrevopt.analysis.clipping import measure_clipping as measure_clipping
from lrevopt.analysis.convergence import Convergence as Convergence
from lrevopt.analysis.dynamics import Dynamics as Dynamics
from lrevopt.analysis.dynamics import measure_dynamics as measure_dynamics
from lrevopt.analysis.fixed_points import FixedPoints as FixedPoints
from lrevopt.analysis.fixed_points import find_fixed_points as find_fixed_points
from lrevopt.analysis.linearization import Linearization as Linearization
from lrevopt.analysis.linearization import Modes as Modes
from lrevopt.analysis.linearization import eigenmodes as eigenmodes
from lrevopt.analysis.linearization import linear_optimizer as linear_optimizer
from lrevopt.analysis.linearization import linearize as linearize
from lrevopt.analysis.linearization import mode_optimizer as mode_optimizer
from lrevopt.analysis.linearization import steady_state_gain as steady_state_gain
from lrevopt.analysis.manifolds import Manifold as Manifold
from lrevopt.analysis.manifolds import measure_manifold as measure_manifold
from lrevopt.analysis.mechanisms import Mechanisms as Mechanisms
from lrevopt.analysis.mechanisms import analyze as analyze
from lrevopt.analysis.mechanisms import analyze_sampled as analyze_sampled
from lrevopt.analysis.mode_shifts import ModeShifts as ModeShifts
from lrevopt.analysis.mode_shifts import measure_modes as measure_modes
from lrevopt.analysis.momentum import MomentumModes as MomentumModes
from lrevopt.analysis.on_quadratics import QuadraticMap as QuadraticMap
from lrevopt.analysis.on_quadratics import quadratic_map as quadratic_map
from lrevopt.analysis.parameter_types import ParameterTypes as ParameterTypes
from lrevopt.analysis.parameter_types import measure_parameter_types as measure_parameter_types
from lrevopt.analysis.projections import ProjectedStates as ProjectedStates
from lrevopt.analysis.projections import Projection as Projection
from lrevopt.analysis.projections import fit_projection as fit_projection
from lrevopt.analysis.responses import MomentumFit as MomentumFit
from lrevopt.analysis.responses import hankel_values as hankel_values
from lrevopt.analysis.responses import momentum_fit as momentum_fit
from lrevopt.analysis.schedules import Schedule as Schedule
from lrevopt.analysis.schedules import measure_schedule as measure_schedule
from lrevopt.analysis.update_functions import Textbook as Textbook
from lrevopt.analysis.update_functions import effective_learning_rate as effective_learning_rate
from lrevopt.analysis.update_functions import (
    textbook_update_functions as textbook_update_functions,
)
from lrevopt.analysis.update_functions import update_function as update_function
