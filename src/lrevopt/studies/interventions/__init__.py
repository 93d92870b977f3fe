"""Interventions: remove one mechanism from an optimizer, and measure the cost.

The paper identifies mechanisms by inspection, which does not show whether an optimizer needs them.
Each intervention makes an optimizer that lacks one mechanism, or has only one, and both run on
the same test problems. Removing a mechanism that is absent costs nothing.
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
