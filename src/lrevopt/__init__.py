"""Reverse engineering learned optimizers: train them, and see what they do.

Every public name is imported when it is first used, so that `import lrevopt` takes no time.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from lrevopt import lazy

__version__ = version("lrevopt")

if TYPE_CHECKING:
    from lrevopt.analysis import Attractors as Attractors
    from lrevopt.analysis import FixedPoints as FixedPoints
    from lrevopt.analysis import Linearization as Linearization
    from lrevopt.analysis import Mechanisms as Mechanisms
    from lrevopt.analysis import Modes as Modes
    from lrevopt.analysis import MomentumFit as MomentumFit
    from lrevopt.analysis import QuadraticMap as QuadraticMap
    from lrevopt.analysis import Textbook as Textbook
    from lrevopt.analysis import analyze as analyze
    from lrevopt.analysis import effective_learning_rate as effective_learning_rate
    from lrevopt.analysis import eigenmodes as eigenmodes
    from lrevopt.analysis import find_attractors as find_attractors
    from lrevopt.analysis import find_fixed_points as find_fixed_points
    from lrevopt.analysis import hankel_values as hankel_values
    from lrevopt.analysis import linear_optimizer as linear_optimizer
    from lrevopt.analysis import linearize as linearize
    from lrevopt.analysis import mode_optimizer as mode_optimizer
    from lrevopt.analysis import momentum_fit as momentum_fit
    from lrevopt.analysis import quadratic_map as quadratic_map
    from lrevopt.analysis import steady_state_gain as steady_state_gain
    from lrevopt.analysis import textbook_update_functions as textbook_update_functions
    from lrevopt.analysis import update_function as update_function
    from lrevopt.certificates import Certificates as Certificates
    from lrevopt.certificates import certify as certify
    from lrevopt.inner_loop.adjoint import unroll_losses as unroll_losses
    from lrevopt.inner_loop.devices import problem_mesh as problem_mesh
    from lrevopt.inner_loop.evaluation import Comparison as Comparison
    from lrevopt.inner_loop.evaluation import Evaluation as Evaluation
    from lrevopt.inner_loop.evaluation import evaluate as evaluate
    from lrevopt.inner_loop.objectives import meta_objective as meta_objective
    from lrevopt.inner_loop.scoring import score_settings as score_settings
    from lrevopt.inner_loop.unroll import Trajectory as Trajectory
    from lrevopt.inner_loop.unroll import unroll as unroll
    from lrevopt.meta_training import PRESETS as PRESETS
    from lrevopt.meta_training import History as History
    from lrevopt.meta_training import LearningRateSearch as LearningRateSearch
    from lrevopt.meta_training import MemoryPlan as MemoryPlan
    from lrevopt.meta_training import MetaTraining as MetaTraining
    from lrevopt.meta_training import MetaTrainingRun as MetaTrainingRun
    from lrevopt.meta_training import PopulationRun as PopulationRun
    from lrevopt.meta_training import Suggestion as Suggestion
    from lrevopt.meta_training import meta_gradient as meta_gradient
    from lrevopt.meta_training import meta_train as meta_train
    from lrevopt.meta_training import meta_train_population as meta_train_population
    from lrevopt.meta_training import plan_memory as plan_memory
    from lrevopt.meta_training import search_learning_rate as search_learning_rate
    from lrevopt.meta_training import suggest_training as suggest_training
    from lrevopt.optimizers import AbstractOptimizer as AbstractOptimizer
    from lrevopt.optimizers import AbstractParameterOptimizer as AbstractParameterOptimizer
    from lrevopt.optimizers import Adam as Adam
    from lrevopt.optimizers import AggregatedMomentum as AggregatedMomentum
    from lrevopt.optimizers import BoxAdaptation as BoxAdaptation
    from lrevopt.optimizers import BoxAgreement as BoxAgreement
    from lrevopt.optimizers import BoxMomentum as BoxMomentum
    from lrevopt.optimizers import BoxSaturation as BoxSaturation
    from lrevopt.optimizers import BoxSchedule as BoxSchedule
    from lrevopt.optimizers import ClippedGradientDescent as ClippedGradientDescent
    from lrevopt.optimizers import GradientDescent as GradientDescent
    from lrevopt.optimizers import GRUCell as GRUCell
    from lrevopt.optimizers import GRUOptimizer as GRUOptimizer
    from lrevopt.optimizers import LinearOptimizer as LinearOptimizer
    from lrevopt.optimizers import ModeOptimizer as ModeOptimizer
    from lrevopt.optimizers import Momentum as Momentum
    from lrevopt.optimizers import Nesterov as Nesterov
    from lrevopt.optimizers import OptaxOptimizer as OptaxOptimizer
    from lrevopt.optimizers import OptaxParameterOptimizer as OptaxParameterOptimizer
    from lrevopt.optimizers import RecurrentOptimizer as RecurrentOptimizer
    from lrevopt.optimizers import RMSProp as RMSProp
    from lrevopt.optimizers import WhiteBox as WhiteBox
    from lrevopt.optimizers import at_parameter as at_parameter
    from lrevopt.optimizers import from_optax as from_optax
    from lrevopt.optimizers import rescaled as rescaled
    from lrevopt.optimizers import to_optax as to_optax
    from lrevopt.optimizers.saved import load as load
    from lrevopt.optimizers.saved import shipped as shipped
    from lrevopt.optimizers.white_box_documents import distilled as distilled
    from lrevopt.plots import plot as plot
    from lrevopt.plots.explore import ExplorePage as ExplorePage
    from lrevopt.plots.explore import ObservationPage as ObservationPage
    from lrevopt.plots.explore import explore as explore
    from lrevopt.plots.explore import observation_page as observation_page
    from lrevopt.runs.contents import Run as Run
    from lrevopt.studies.audit import DEPARTURES as DEPARTURES
    from lrevopt.studies.audit import Audit as Audit
    from lrevopt.studies.audit import audit as audit
    from lrevopt.studies.distillation import Attribution as Attribution
    from lrevopt.studies.distillation import BoxTraining as BoxTraining
    from lrevopt.studies.distillation import Distillation as Distillation
    from lrevopt.studies.distillation import Distilling as Distilling
    from lrevopt.studies.distillation import WhiteBoxPath as WhiteBoxPath
    from lrevopt.studies.distillation import attribute as attribute
    from lrevopt.studies.distillation import distill as distill
    from lrevopt.studies.distillation import grow_path as grow_path
    from lrevopt.studies.distillation import latex_text as latex_text
    from lrevopt.studies.distillation import optax_text as optax_text
    from lrevopt.studies.distillation import prune_path as prune_path
    from lrevopt.studies.interventions import INTERVENTIONS as INTERVENTIONS
    from lrevopt.studies.interventions import Intervention as Intervention
    from lrevopt.studies.interventions import Interventions as Interventions
    from lrevopt.studies.interventions import RestAnalysis as RestAnalysis
    from lrevopt.studies.interventions import intervene as intervene
    from lrevopt.studies.observation import Observation as Observation
    from lrevopt.studies.observation import ObserveState as ObserveState
    from lrevopt.studies.observation import observation as observation
    from lrevopt.studies.observation import observe as observe
    from lrevopt.studies.scorecard import Scorecard as Scorecard
    from lrevopt.studies.scorecard import measure_scorecard as measure_scorecard
    from lrevopt.studies.transfer import Sweep as Sweep
    from lrevopt.studies.transfer import Transfer as Transfer
    from lrevopt.studies.transfer import measure_transfer as measure_transfer
    from lrevopt.studies.transfer import sweep_horizons as sweep_horizons
    from lrevopt.studies.universality import response_distances as response_distances
    from lrevopt.tasks import MNIST as MNIST
    from lrevopt.tasks import AbstractProblem as AbstractProblem
    from lrevopt.tasks import AbstractTask as AbstractTask
    from lrevopt.tasks import FunctionTask as FunctionTask
    from lrevopt.tasks import LinearRegression as LinearRegression
    from lrevopt.tasks import Minibatches as Minibatches
    from lrevopt.tasks import Rosenbrock as Rosenbrock
    from lrevopt.tasks import TwoMoons as TwoMoons
    from lrevopt.tasks import sample_problems as sample_problems
    from lrevopt.tuning.constructors import stack_settings as stack_settings
    from lrevopt.tuning.random_search import TuningResult as TuningResult
    from lrevopt.tuning.random_search import analytic_momentum as analytic_momentum
    from lrevopt.tuning.random_search import tune as tune
    from lrevopt.tuning.scales import ScaleSearch as ScaleSearch
    from lrevopt.tuning.scales import search_scales as search_scales
    from lrevopt.tuning.settings import Tuning as Tuning
    from lrevopt.tuning.well_known import WELL_KNOWN as WELL_KNOWN
    from lrevopt.tuning.well_known import TunedRate as TunedRate
    from lrevopt.tuning.well_known import tune_rate as tune_rate
else:
    __getattr__, __dir__, __all__ = lazy.exports(__name__, __file__)
