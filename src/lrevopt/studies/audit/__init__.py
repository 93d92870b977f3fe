"""Audits: two optimizers told apart by their updates, and departures that explain it."""

from lrevopt.studies.audit.comparison import audit as audit
from lrevopt.studies.audit.departures import catalogue
from lrevopt.studies.audit.record import Audit as Audit

DEPARTURES: dict[str, str] = catalogue()
"""Known departures of one optimizer from another, by name. Each is a sentence about two optimizers
`{a}` and `{b}`, of which `{b}` departs from `{a}`."""
