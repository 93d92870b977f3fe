"""The paper's figures out of panels: which there are, drawn, with numbers and captions."""

from lrevopt.paper.figures.drawing import draw_figures as draw_figures
from lrevopt.paper.figures.figure_data import drawn_numbers as drawn_numbers
from lrevopt.paper.figures.figure_data import save_figure_data as save_figure_data
from lrevopt.paper.figures.registry import FIGURES as FIGURES
from lrevopt.paper.figures.registry import available as available
from lrevopt.paper.figures.specs import FigureSpec as FigureSpec
from lrevopt.paper.figures.specs import FigureText as FigureText
