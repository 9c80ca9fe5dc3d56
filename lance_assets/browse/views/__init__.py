"""The views of the page, in the order of their tabs."""

from lance_assets.browse.contract import View
from lance_assets.browse.views.deciding import VIEW as DECIDING
from lance_assets.browse.views.places import VIEW as PLACES
from lance_assets.browse.views.rows import VIEW as ROWS

VIEWS: tuple[View, ...] = (PLACES, ROWS, DECIDING)
