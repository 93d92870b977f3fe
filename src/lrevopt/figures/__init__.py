"""Numbers in, matplotlib figures out: the figures of the paper, and how to read them."""

from lrevopt.figures.adaptation import figure_06 as figure_06
from lrevopt.figures.adaptation import figure_12 as figure_12
from lrevopt.figures.clipping import figure_04 as figure_04
from lrevopt.figures.clipping import figure_10 as figure_10
from lrevopt.figures.manifolds import figure_13 as figure_13
from lrevopt.figures.momentum import figure_03 as figure_03
from lrevopt.figures.momentum import figure_08 as figure_08
from lrevopt.figures.momentum import figure_09 as figure_09
from lrevopt.figures.parameter_types import figure_07 as figure_07
from lrevopt.figures.performance import figure_01 as figure_01
from lrevopt.figures.performance import figure_17 as figure_17
from lrevopt.figures.registry import FIGURES as FIGURES
from lrevopt.figures.registry import FigureNumbers as FigureNumbers
from lrevopt.figures.registry import FigureSpec as FigureSpec
from lrevopt.figures.registry import available as available
from lrevopt.figures.schedules import figure_05 as figure_05
from lrevopt.figures.schedules import figure_11 as figure_11
from lrevopt.figures.schematic import figure_16 as figure_16
from lrevopt.figures.style import render as render
from lrevopt.figures.style import save_figure as save_figure
from lrevopt.figures.textbook import figure_02 as figure_02
from lrevopt.figures.training import figure_training as figure_training
from lrevopt.figures.tuning import figure_18 as figure_18
from lrevopt.figures.tuning import figure_19 as figure_19
from lrevopt.figures.tuning import figure_20 as figure_20
from lrevopt.figures.tuning import figure_21 as figure_21
