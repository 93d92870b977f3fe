"""What each mechanism is worth: take it away, and test what is left.

The paper finds mechanisms by looking; whether an optimizer needs them, looking cannot say. Here
each intervention makes from an optimizer another one that lacks one thing, or keeps only one, and
both run on the same test problems. A mechanism that is not there costs nothing to remove.
"""

from lrevopt.interventions.context import Context as Context
from lrevopt.interventions.context import measure_context as measure_context
from lrevopt.interventions.costs import Interventions as Interventions
from lrevopt.interventions.costs import intervene as intervene
from lrevopt.interventions.costs import intervention_lines as intervention_lines
from lrevopt.interventions.costs import intervention_table as intervention_table
from lrevopt.interventions.registry import ADAPTATION as ADAPTATION
from lrevopt.interventions.registry import CLIPPING as CLIPPING
from lrevopt.interventions.registry import INTERVENTIONS as INTERVENTIONS
from lrevopt.interventions.registry import LINEAR as LINEAR
from lrevopt.interventions.registry import MOMENTUM as MOMENTUM
from lrevopt.interventions.registry import SCHEDULE as SCHEDULE
from lrevopt.interventions.registry import Intervention as Intervention
from lrevopt.interventions.streams import CHANGES as CHANGES
from lrevopt.interventions.streams import EXCHANGED_HALFWAY as EXCHANGED_HALFWAY
from lrevopt.interventions.streams import Streams as Streams
from lrevopt.interventions.streams import measure_streams as measure_streams
from lrevopt.interventions.streams import stream_lines as stream_lines
