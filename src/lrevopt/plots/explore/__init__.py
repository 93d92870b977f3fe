"""An interactive page of one run: `explore(optimizer, task, key=key).save("page.html")`."""

from lrevopt.plots.explore.page import ExplorePage as ExplorePage
from lrevopt.plots.explore.page import explore as explore
