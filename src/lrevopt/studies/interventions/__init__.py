"""What each mechanism is worth: take it away, and test what is left.

The paper finds mechanisms by looking; whether an optimizer needs them, looking cannot say. Here
each intervention makes from an optimizer another one that lacks one thing, or keeps only one, and
both run on the same test problems. A mechanism that is not there costs nothing to remove.
"""

from lrevopt.studies.interventions.costs import Interventions as Interventions
from lrevopt.studies.interventions.costs import intervene as intervene
from lrevopt.studies.interventions.costs import intervention_table as intervention_table
from lrevopt.studies.interventions.registry import ADAPTATION as ADAPTATION
from lrevopt.studies.interventions.registry import CLIPPING as CLIPPING
from lrevopt.studies.interventions.registry import INTERVENTIONS as INTERVENTIONS
from lrevopt.studies.interventions.registry import LINEAR as LINEAR
from lrevopt.studies.interventions.registry import MOMENTUM as MOMENTUM
from lrevopt.studies.interventions.registry import SCHEDULE as SCHEDULE
from lrevopt.studies.interventions.registry import Intervention as Intervention
from lrevopt.studies.interventions.rest_analysis import RestAnalysis as RestAnalysis
from lrevopt.studies.interventions.rest_analysis import analyze_rest as analyze_rest
