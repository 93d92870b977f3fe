"""What optimizers are trained on: distributions of problems."""

from lrevopt.tasks.batches import Minibatches as Minibatches
from lrevopt.tasks.function_task import FunctionTask as FunctionTask
from lrevopt.tasks.interface import AbstractProblem as AbstractProblem
from lrevopt.tasks.interface import AbstractTask as AbstractTask
from lrevopt.tasks.interface import sample_problems as sample_problems
from lrevopt.tasks.linear_regression import LinearRegression as LinearRegression
from lrevopt.tasks.mnist import MNIST as MNIST
from lrevopt.tasks.rosenbrock import Rosenbrock as Rosenbrock
from lrevopt.tasks.two_moons import TwoMoons as TwoMoons
