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
    appendix_b/                                          appendix_b, of another run
    report.html                                          report_run

and of all runs in one folder

    claims.md  claims.csv                                write_claims
    index.html                                           front_page_of
"""

from lrevopt.pipeline.analysing import analyze_run as analyze_run
from lrevopt.pipeline.appendix import APPENDIX_B as APPENDIX_B
from lrevopt.pipeline.appendix import appendix_b as appendix_b
from lrevopt.pipeline.appendix import appendix_c as appendix_c
from lrevopt.pipeline.claiming import claims_of as claims_of
from lrevopt.pipeline.claiming import claims_of_all as claims_of_all
from lrevopt.pipeline.claiming import write_claims as write_claims
from lrevopt.pipeline.comparing import baseline_settings as baseline_settings
from lrevopt.pipeline.comparing import evaluate_run as evaluate_run
from lrevopt.pipeline.comparing import load_tuning as load_tuning
from lrevopt.pipeline.comparing import tune_baselines as tune_baselines
from lrevopt.pipeline.drawing import draw_figures as draw_figures
from lrevopt.pipeline.everything import reproduce as reproduce
from lrevopt.pipeline.presenting import front_page_of as front_page_of
from lrevopt.pipeline.presenting import shipped_runs as shipped_runs
from lrevopt.pipeline.reporting import report_run as report_run
from lrevopt.pipeline.training import LATER as LATER
from lrevopt.pipeline.training import train as train
