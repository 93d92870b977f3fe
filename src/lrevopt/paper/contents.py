"""What the paper's appendix B keeps in the folder of a run on linear regression."""

from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.appendices.momentum_mimic import MomentumMimic
from lrevopt.runs.contents import record, register

APPENDIX_B = "appendix_b"
"""Folder within a run's that keeps the snapshot that is momentum, and its records."""

BESIDE = tuple(f"{APPENDIX_B}/{name}" for name in ("settings.json", "snapshots.csv"))

MOMENTUM_MIMIC = register(
    "momentum_mimic",
    record(
        MomentumMimic, f"{APPENDIX_B}/momentum_mimic.npz", "appendix-b",
        "The snapshot of another run that performs as tuned momentum.", beside=BESIDE,
    ),
)  # fmt: skip

MIMIC_BY_CURVES = register(
    "mimic_by_curves",
    record(
        MomentumMimic, f"{APPENDIX_B}/mimic_by_curves.npz", "appendix-b",
        "The snapshot of that run whose mean loss curve is nearest to tuned momentum's.",
    ),
)  # fmt: skip

META_DYNAMICS = register(
    "meta_dynamics",
    record(
        MetaDynamics, f"{APPENDIX_B}/meta_dynamics.npz", "appendix-b",
        "Modes of every snapshot of that run.",
    ),
)  # fmt: skip
