"""Audits: two optimizers told apart by their updates, and departures that explain it."""

from lrevopt.studies.audit.comparison import audit as audit
from lrevopt.studies.audit.departures import catalogue
from lrevopt.studies.audit.record import Audit as Audit

DEPARTURES: dict[str, str] = catalogue()
"""Departures of optimizers that an audit knows, by name, with a sentence about optimizers `{a}` and
`{b}`, of which `{b}` departs."""
