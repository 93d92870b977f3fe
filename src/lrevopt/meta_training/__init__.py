"""Meta-training: the outer loop, meta-gradient estimators, memory plans, settings."""

from typing import TYPE_CHECKING

from lrevopt import lazy

if TYPE_CHECKING:
    from lrevopt.meta_training.estimators import Particles as Particles
    from lrevopt.meta_training.estimators import first_particles as first_particles
    from lrevopt.meta_training.estimators import meta_gradient as meta_gradient
    from lrevopt.meta_training.memory import MemoryPlan as MemoryPlan
    from lrevopt.meta_training.memory import plan_memory as plan_memory
    from lrevopt.meta_training.outer_step import first_state as first_state
    from lrevopt.meta_training.outer_step import outer_step as outer_step
    from lrevopt.meta_training.population import PopulationRun as PopulationRun
    from lrevopt.meta_training.population import meta_train_population as meta_train_population
    from lrevopt.meta_training.records import History as History
    from lrevopt.meta_training.records import MetaTrainingRun as MetaTrainingRun
    from lrevopt.meta_training.search import LearningRateSearch as LearningRateSearch
    from lrevopt.meta_training.search import search_learning_rate as search_learning_rate
    from lrevopt.meta_training.settings import PRESETS as PRESETS
    from lrevopt.meta_training.settings import MetaTraining as MetaTraining
    from lrevopt.meta_training.suggestion import Suggestion as Suggestion
    from lrevopt.meta_training.suggestion import suggest_training as suggest_training
    from lrevopt.meta_training.training import meta_train as meta_train
else:
    __getattr__, __dir__, __all__ = lazy.exports(__name__, __file__)
