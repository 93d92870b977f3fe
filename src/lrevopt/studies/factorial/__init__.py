"""What makes a mechanism appear: optimizers trained at crossed levels of several factors."""

from lrevopt.studies.factorial.effects import Effect as Effect
from lrevopt.studies.factorial.effects import Interaction as Interaction
from lrevopt.studies.factorial.effects import largest_interaction as largest_interaction
from lrevopt.studies.factorial.effects import main_effect as main_effect
from lrevopt.studies.factorial.effects import what_must_hold as what_must_hold
from lrevopt.studies.factorial.record import Factorial as Factorial
