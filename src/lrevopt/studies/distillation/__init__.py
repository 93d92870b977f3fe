"""Distillation: a learned optimizer as a few numbers, and what each part is worth."""

from lrevopt.studies.distillation.attribution import Attribution as Attribution
from lrevopt.studies.distillation.attribution import attribute as attribute
from lrevopt.studies.distillation.distilling import Distillation as Distillation
from lrevopt.studies.distillation.distilling import Distilling as Distilling
from lrevopt.studies.distillation.distilling import distill as distill
from lrevopt.studies.distillation.elimination import prune_path as prune_path
from lrevopt.studies.distillation.equations import latex_text as latex_text
from lrevopt.studies.distillation.export import optax_text as optax_text
from lrevopt.studies.distillation.path import WhiteBoxPath as WhiteBoxPath
from lrevopt.studies.distillation.path import grow_path as grow_path
from lrevopt.studies.distillation.starts import default_box as default_box
from lrevopt.studies.distillation.training import BOX_TRAINING as BOX_TRAINING
from lrevopt.studies.distillation.training import NETWORK_BOX_TRAINING as NETWORK_BOX_TRAINING
from lrevopt.studies.distillation.training import BoxTraining as BoxTraining
