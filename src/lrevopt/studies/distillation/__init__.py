"""Distillation: a learned optimizer as a few numbers, and what each part is worth."""

from lrevopt.studies.distillation.distilling import Distillation as Distillation
from lrevopt.studies.distillation.distilling import Distilling as Distilling
from lrevopt.studies.distillation.distilling import distill as distill
