"""Scorecards: the same numbers for any optimizer on any task, and the distance between two."""

from lrevopt.studies.scorecard.curvature import CurvatureResponse as CurvatureResponse
from lrevopt.studies.scorecard.curvature import coupled_map as coupled_map
from lrevopt.studies.scorecard.curvature import curvature_response as curvature_response
from lrevopt.studies.scorecard.measuring import measure_scorecard as measure_scorecard
from lrevopt.studies.scorecard.record import ENTRIES as ENTRIES
from lrevopt.studies.scorecard.record import Entry as Entry
from lrevopt.studies.scorecard.record import Scorecard as Scorecard
from lrevopt.studies.scorecard.record import distance as distance
from lrevopt.studies.scorecard.record import in_words as in_words
from lrevopt.studies.scorecard.record import scorecard_facts as scorecard_facts
from lrevopt.studies.scorecard.record import scorecard_table as scorecard_table
from lrevopt.studies.scorecard.record import sentences as sentences
