"""The views of the page, in the order of their tabs."""

from lance_assets.browse.contract import View
from lance_assets.browse.views.compared import VIEW as COMPARED
from lance_assets.browse.views.deciding import VIEW as DECIDING
from lance_assets.browse.views.disagreements import VIEW as DISAGREEMENTS
from lance_assets.browse.views.flips import VIEW as FLIPS
from lance_assets.browse.views.funnel import VIEW as FUNNEL
from lance_assets.browse.views.places import VIEW as PLACES
from lance_assets.browse.views.rows import VIEW as ROWS
from lance_assets.browse.views.seeds import VIEW as SEEDS
from lance_assets.browse.views.story import VIEW as STORY

VIEWS: tuple[View, ...] = (PLACES, ROWS, DECIDING, FUNNEL, SEEDS, FLIPS, DISAGREEMENTS, COMPARED, STORY)
