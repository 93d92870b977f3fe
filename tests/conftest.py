"""Every test runs in float64, with strict dtype promotion and checked shapes, on the CPU."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Programs are kept however small, see below.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Tests compile a lot and compute little, so their programs are not optimised. With XLA_FLAGS set,
# even to nothing, they are those that users have: so for slow tests and in `.ci/newest`. Versions
# of jaxlib after 0.10 may end at the other flags, which they do not know. With the last of them a
# program is compiled in one piece: small ones take an eighth less time than in many.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * version("jaxlib").startswith("0.10."),
)

# Four devices for tests of meshes; everything else runs on the first.
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=4"
os.environ["LREVOPT_DEVICES"] = "1"

from collections.abc import Iterator

import hypothesis
import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# What one worker, or a script that it starts, has compiled is not compiled again in the same run of
# tests. With this variable set to a folder, programs stay from one run to the next.
PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
if PROGRAMS not in os.environ:
    os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="programs_")
    atexit.register(shutil.rmtree, os.environ[PROGRAMS], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])

# JAX writes a program without a lock: who reads it meanwhile gets a part, warns and compiles it
# himself. pyproject.toml ignores that warning; scripts that tests start ignore it by this variable.
os.environ["PYTHONWARNINGS"] = ",".join(
    filter(
        None,
        [
            os.environ.get("PYTHONWARNINGS"),
            "ignore:Error reading persistent compilation cache entry:UserWarning",
        ],
    )
)

# Stays installed, so that modules which are first imported inside a test are checked as well.
# The numeric tower lets an int pass for a float, as it does for every type checker.
jaxtyping.install_import_hook(
    "lrevopt", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

hypothesis.settings.register_profile(
    "lrevopt", derandomize=True, deadline=None, max_examples=25, database=None
)
hypothesis.settings.load_profile("lrevopt")


LONGEST = [
    "scripts", "figures", "scorecards", "explore", "optax", "transfers", "halving", "estimators",
    "network_tasks", "unroll", "claims", "audit", "audit_around", "audit_pairs", "audit_replays",
    "analysis_fixed_points", "memory", "analysis_parameter_types", "population", "devices",
    "function_task", "shared_evaluation", "universality", "factorial", "gallery", "suggestion",
    "meta_training", "appendix_b", "interruptions", "certificates", "plots", "pages", "observe",
    "distillation", "white_box_elimination", "lanes", "optax_hyperparameters",
    "optax_namespace", "parameter_optimizers", "analysis_mechanisms", "interventions", "storage",
]  # fmt: skip
"""Test files that take long, about the longest first, by their fast and their long tests."""


LONGEST_SLOW = (
    "every_stage_continues_after_every_signal",
    "killed_runs_end_with_the_same_bits",
    "digits_go_through_everything_without_data_and_network",
)
"""Slow tests that take minutes. A worker is given two at first: a shorter one parts the longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: at the end no worker waits for another that is in one of them."""
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    slow = {f"test_{name}": place for place, name in enumerate(LONGEST_SLOW)}
    items.sort(
        key=lambda item: (
            slow.get(item.name, len(slow)),
            order.get(item.path.stem, len(order)),
        )
    )


def pytest_collection_finish() -> None:
    """Leave what has been imported out of garbage collection, which took a tenth of the time."""
    gc.freeze()


@pytest.fixture
def as_user() -> Iterator[None]:
    """Without the type checks of the import hook, as users call the package.

    For tests of refusals: a user who passes `steps=1.5` meets our sentence, not beartype's.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="module")
def programs_are_given_back() -> Iterator[None]:
    """Compiled programs go with the file that compiled them.

    Each holds several memory maps, of which a process may have 65,530: a worker that runs many
    files would end in the compiler. And a program keeps what was patched when it was traced.
    """
    yield
    jax.clear_caches()
