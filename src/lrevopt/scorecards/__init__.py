"""One page of numbers for any optimizer on any task, and how far two such pages are apart."""

from lrevopt.scorecards.curvature import CurvatureResponse as CurvatureResponse
from lrevopt.scorecards.curvature import coupled_map as coupled_map
from lrevopt.scorecards.curvature import curvature_response as curvature_response
from lrevopt.scorecards.measuring import measure_scorecard as measure_scorecard
from lrevopt.scorecards.record import ENTRIES as ENTRIES
from lrevopt.scorecards.record import Entry as Entry
from lrevopt.scorecards.record import Scorecard as Scorecard
from lrevopt.scorecards.record import distance as distance
from lrevopt.scorecards.record import in_words as in_words
from lrevopt.scorecards.record import scorecard_facts as scorecard_facts
from lrevopt.scorecards.record import scorecard_lines as scorecard_lines
from lrevopt.scorecards.record import scorecard_table as scorecard_table
from lrevopt.scorecards.record import sentences as sentences
