"""From nothing to a report: train, tune, evaluate, analyse, draw, write.

Each stage reads what the stages before it left in the run's folder and leaves its own numbers
there, so that any of them can be repeated alone:

    settings.json  weights/  snapshots/  history.npz     train
    tuning/settings.json  tuning/<baseline>.npz          tune_baselines
    evaluation.npz  evaluation.json  comparisons.csv     evaluate_run
    mechanisms.npz  textbook.npz  task_picture.npz       analyze_run
    analysis.json; where parameters have groups also
    parameter_types.npz  manifold.npz  mode_shifts.npz
    figures/                                             draw_figures
    report.html                                          report_run
"""

from lrevopt.pipeline.analysing import analyze_run as analyze_run
from lrevopt.pipeline.comparing import baseline_settings as baseline_settings
from lrevopt.pipeline.comparing import evaluate_run as evaluate_run
from lrevopt.pipeline.comparing import load_tuning as load_tuning
from lrevopt.pipeline.comparing import tune_baselines as tune_baselines
from lrevopt.pipeline.drawing import draw_figures as draw_figures
from lrevopt.pipeline.drawing import report_run as report_run
from lrevopt.pipeline.everything import reproduce as reproduce
from lrevopt.pipeline.training import LATER as LATER
from lrevopt.pipeline.training import train as train
