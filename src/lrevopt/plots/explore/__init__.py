"""An interactive page of one run: `explore(optimizer, task, key=key).save("page.html")`."""

from lrevopt.plots.explore.observed import ObservationPage as ObservationPage
from lrevopt.plots.explore.observed import observation_page as observation_page
from lrevopt.plots.explore.page import ExplorePage as ExplorePage
from lrevopt.plots.explore.page import explore as explore
