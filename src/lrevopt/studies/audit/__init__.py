"""Audits: two optimizers compared by their updates, and departures that explain a difference."""

from lrevopt.studies.audit.comparison import audit as audit
from lrevopt.studies.audit.departures import catalogue
from lrevopt.studies.audit.record import Audit as Audit

DEPARTURES: dict[str, str] = catalogue()
"""Known departures of one optimizer from another, by name. Each is a sentence about two optimizers
`{a}` and `{b}`, of which `{b}` departs from `{a}`."""
