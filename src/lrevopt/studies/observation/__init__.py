"""Any optax optimizer watched while it trains: rates, memory, saturation, edge of stability."""

from lrevopt.studies.observation.observe import ObserveState as ObserveState
from lrevopt.studies.observation.observe import observe as observe
from lrevopt.studies.observation.record import Observation as Observation
from lrevopt.studies.observation.record import observation as observation
