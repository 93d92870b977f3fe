"""Which mechanisms always appear: populations of cells, their distances, shares of seeds."""

from lrevopt.studies.universality.cells import CELLS as CELLS
from lrevopt.studies.universality.cells import TanhCell as TanhCell
from lrevopt.studies.universality.cells import factory_of as factory_of
from lrevopt.studies.universality.cells import title_of_cell as title_of_cell
from lrevopt.studies.universality.distances import own_gradients as own_gradients
from lrevopt.studies.universality.distances import response_distances as response_distances
from lrevopt.studies.universality.record import Share as Share
from lrevopt.studies.universality.record import Universality as Universality
from lrevopt.studies.universality.scaling import PlaneMap as PlaneMap
from lrevopt.studies.universality.scaling import plane_map as plane_map
