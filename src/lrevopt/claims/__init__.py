"""The paper's sentences as measured verdicts."""

from lrevopt.claims.registry import BY_NAME as BY_NAME
from lrevopt.claims.registry import CLAIMS as CLAIMS
from lrevopt.claims.table import ALL as ALL
from lrevopt.claims.table import Row as Row
from lrevopt.claims.table import as_markdown as as_markdown
from lrevopt.claims.table import measure_claims as measure_claims
from lrevopt.claims.verdicts import Claim as Claim
from lrevopt.claims.verdicts import Measured as Measured
from lrevopt.claims.verdicts import RunNumbers as RunNumbers
