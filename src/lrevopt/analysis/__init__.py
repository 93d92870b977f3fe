"""What is inside an optimizer: update functions, fixed points, modes, mechanisms."""

from lrevopt.analysis.mechanisms import Mechanisms as Mechanisms
from lrevopt.analysis.update_functions import Textbook as Textbook
from lrevopt.analysis.update_functions import effective_learning_rate as effective_learning_rate
from lrevopt.analysis.update_functions import (
    textbook_update_functions as textbook_update_functions,
)
from lrevopt.analysis.update_functions import update_function as update_function
