"""The paper's sentences as measured verdicts."""

from lrevopt.paper.claims.registry import BY_NAME as BY_NAME
from lrevopt.paper.claims.registry import CLAIMS as CLAIMS
from lrevopt.paper.claims.table import ALL_TASKS as ALL_TASKS
from lrevopt.paper.claims.table import Row as Row
from lrevopt.paper.claims.table import as_markdown as as_markdown
from lrevopt.paper.claims.table import measure_claims as measure_claims
from lrevopt.paper.claims.verdicts import Claim as Claim
from lrevopt.paper.claims.verdicts import Measured as Measured
from lrevopt.paper.claims.verdicts import Statistic as Statistic
from lrevopt.paper.claims.verdicts import claim as claim
