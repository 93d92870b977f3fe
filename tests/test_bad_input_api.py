"""Bad arguments of public functions: one sentence each, which names the argument.

A table of calls. Each must raise `ValueError` with one line that names the argument in backquotes
and says what would be right. Most are refused before anything is computed or compiled.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array

import lrevopt
from lrevopt.analysis import Modes
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.studies.gradient_replay import measure_gradient_replay
from lrevopt.tasks import AbstractTask
from lrevopt.tasks.rosenbrock import RosenbrockProblem

pytestmark = pytest.mark.usefixtures("as_user")

lo: Any = lrevopt
"""For type checkers anything: the calls are wrong on purpose."""

KEY = jr.key(0)
KEYS = jr.split(KEY, 3)


class Anything(AbstractOptimizer):
    """An optimizer made of what it is given."""

    w: Any
    start: Any
    move: Callable[..., Any] = eqx.field(static=True, default=lambda h, g: 0.5 * h + g)

    @property
    def readout(self):
        return self.w

    def initial_state(self):
        return self.start

    def transition(self, state, gradient):
        return self.move(state, gradient)


class Drawn(AbstractTask):
    """A task of given initial parameters, with a loss that is given."""

    start: Any
    of: Callable[..., Any] = eqx.field(static=True, default=lambda x: jnp.sum(x**2))

    def sample(self, key):
        return DrawnProblem(self.start)

    def loss(self, problem, parameters, step):
        return self.of(parameters)


class DrawnProblem(eqx.Module):
    initial_parameters: Any


class Squashed(eqx.Module):
    """A cell without weights."""

    def __call__(self, inputs, hidden):
        return jnp.tanh(hidden + inputs[0])


def half(dtype: Any) -> Anything:
    return Anything(jnp.ones(1, dtype), jnp.zeros(1, dtype), lambda h, g: h + g.astype(dtype))


MOMENTUM, TASK = lo.Momentum(0.1, 0.9), lo.Rosenbrock()
PROBLEM = RosenbrockProblem(jnp.ones(2))
ONE, TWO = jnp.zeros(1), jnp.zeros(2)
GRU = lo.RecurrentOptimizer(Squashed(), 2)
TRAINING = lo.MetaTraining(steps=1, unroll=2, problems=2, selection_problems=2)
SEARCH = lo.MetaTraining(steps=1, unroll=2, problems=2, selection_problems=2, estimator="cma")
OPTIMIZERS: dict[str, tuple[Any, str]] = {
    "None": (None, "`{}` must be an optimizer, got None"),
    "a class": (lo.Momentum, "`{}` must be an optimizer, got the class Momentum: call it"),
    "optax": (optax.sgd(0.1), "`{}` must be an optimizer, got .*: use `from_optax`"),
    "a task": (TASK, "`{}` must be an optimizer, got "),
    "float16": (half(jnp.float16), r"`{}.initial_state\(\)` must be of float32 or float64"),
    "bfloat16": (half(jnp.bfloat16), r"`{}.initial_state\(\)` must be of float32 or float64"),
    "integers": (half(jnp.int32), r"`{}.initial_state\(\)` must be .*, got int32"),
    "complex": (half(jnp.complex64), r"`{}.initial_state\(\)` must be .*, got complex64"),
    "two types": (
        Anything(jnp.ones(1), jnp.zeros(1, jnp.float32)),
        "`{}` must have a readout and a state of one type, got float64 and float32",
    ),
    "matrix": (Anything(jnp.ones((2, 1)), jnp.zeros((2, 1))), "`{}` must have a flat initial"),
    "lengths": (Anything(jnp.ones(2), jnp.zeros(1)), "`{}` must have a flat initial state"),
    "empty": (Anything(jnp.ones(0), jnp.zeros(0)), "`{}` must have a state of at least one"),
    "shape": (
        Anything(jnp.ones(1), ONE, lambda h, g: jnp.stack([h, h])),
        r"`{}.transition` must map .* but that of Anything returns float64 and shape \(2, 1\)",
    ),
    "type": (
        Anything(jnp.ones(1), ONE, lambda h, g: h.astype(jnp.float32)),
        "`{}.transition` must map .* returns float32",
    ),
    "None back": (Anything(jnp.ones(1), ONE, lambda h, g: None), "`{}.transition` must .* None"),
    "raises": (Anything(jnp.ones(1), ONE, lambda h: h), "`{}.transition` must .* TypeError"),
}

TASKS: dict[str, tuple[Any, str]] = {
    "None": (None, "`task` must be a task, got None"),
    "a class": (lo.Rosenbrock, "`task` must be a task, got the class Rosenbrock: call it"),
    "an optimizer": (MOMENTUM, "`task` must be a task, got "),
    "a matrix": (Drawn(jnp.ones((2, 2))), "`problem.initial_parameters` must be one flat vector"),
    "a number": (Drawn(1.0), "`problem.initial_parameters` must be one flat vector"),
    "a dictionary": (Drawn({"a": ONE}), "`problem.initial_parameters` must be one flat vector"),
    "no parameters": (
        Drawn(jnp.ones(0)),
        r"`problem.initial_parameters` .* got f64\[0\]",
    ),
    "integers": (Drawn(jnp.arange(2)), "`problem.initial_parameters` must be one flat vector"),
    "complex": (Drawn(TWO.astype(complex)), "`problem.initial_parameters` must be one flat vector"),
    "vector loss": (Drawn(TWO, lambda x: x), "`Drawn.loss` must return a scalar of dtype float64"),
    "single loss": (
        Drawn(TWO, lambda x: jnp.sum(x).astype(jnp.float32)),
        "`Drawn.loss` must return a scalar of dtype float64, got float32",
    ),
}

KEYED: dict[str, tuple[Any, str]] = {
    "None": (None, r"`{}` must be one random key, as `jax.random.key\(0\)` makes, got None"),
    "a number": (0, "`{}` must be one random key, .* got 0"),
    "many": (KEYS, r"`{}` must be one random key, .* an array of keys of shape \(3,\)"),
}


def runs(optimizer: Any = MOMENTUM, task: Any = TASK, key: Any = KEY) -> dict[str, Any]:
    """Every public function that runs an optimizer on a task."""
    short: dict[str, Any] = {"key": key, "problems": 2, "steps": 2}
    return {
        "evaluate": lambda: lo.evaluate({"a": optimizer}, task, **short),
        "analyze": lambda: lo.analyze(optimizer, task, **short),
        "measure_scorecard": lambda: lo.measure_scorecard(optimizer, task, **short),
        "intervene": lambda: lo.intervene(optimizer, task, **short),
        "explore": lambda: lo.explore(optimizer, task, key=key, steps=2),
        "meta_train": lambda: lo.meta_train(task, optimizer, TRAINING, key=key, progress=False),
        "gradient_replay": lambda: measure_gradient_replay(optimizer, task, **short),
    }


def rows() -> dict[str, tuple[Callable[..., Any], str]]:
    """The table: `part: call, what is bad` -> the call and the expected words."""
    return (
        _doors()
        | _constructors()
        | _points()
        | _records()
        | _inner_loop()
        | _tuning()
        | _training()
        | _studies()
    )


def _doors() -> dict[str, tuple[Callable[..., Any], str]]:
    """Optimizer, task and key of the functions that take all three."""
    table: dict[str, tuple[Callable[..., Any], str]] = {}
    named = {"evaluate": r"optimizers\['a'\]"}
    for bad, (optimizer, words) in OPTIMIZERS.items():
        for call, made in runs(optimizer=optimizer).items():
            table[f"optimizer: {call}, {bad}"] = made, words.format(named.get(call, "optimizer"))
        table[f"optimizer: unroll, {bad}"] = (
            lambda o=optimizer: lo.unroll(o, TASK, PROBLEM, 2),
            words.format("optimizer"),
        )
        table[f"optimizer: update_function, {bad}"] = (
            lambda o=optimizer: lo.update_function(o, ONE, ONE),
            words.format("opt"),
        )
    for bad, (task, words) in TASKS.items():
        for call, made in runs(task=task).items():
            table[f"task: {call}, {bad}"] = made, words.format(named.get(call, "optimizer"))
    for bad, (key, words) in KEYED.items():
        for call, made in runs(key=key).items():
            table[f"key: {call}, {bad}"] = made, words.format("key")
    return table


def _constructors() -> dict[str, tuple[Callable[..., Any], str]]:
    nan, cell = float("nan"), lambda inputs, hidden: jnp.zeros(2)
    return {
        "constructors: Momentum, text": (lambda: lo.Momentum("x", 0.9), "`learning_rate` .*'x'"),
        "constructors: Momentum, None": (lambda: lo.Momentum(0.1, None), "`momentum` .* None"),
        "constructors: Momentum, list": (lambda: lo.Momentum([0.1], 0.9), "`learning_rate` must"),
        "constructors: Momentum, nan": (lambda: lo.Momentum(0.1, nan), "`momentum` .* nan"),
        "constructors: Momentum, bool": (lambda: lo.Momentum(True, 0.9), "`learning_rate` .*True"),
        "constructors: Nesterov, complex": (lambda: lo.Nesterov(1j, 0.9), "`learning_rate` .* 1j"),
        "constructors: GradientDescent": (lambda: lo.GradientDescent(-1), "`learning_rate` .* -1"),
        "constructors: Clipped": (
            lambda: lo.ClippedGradientDescent(0.1, "x"), "`threshold` must be real numbers"),
        "constructors: RMSProp": (lambda: lo.RMSProp(0.1, epsilon=0.0), "`epsilon` must be finite"),
        "constructors: Adam, b1": (lambda: lo.Adam(0.1, b1=1.0), "`b1` must be below 1, got 1"),
        "constructors: Adam, b2": (lambda: lo.Adam(0.1, b2=2.0), "`b2` must be below 1, got 2"),
        "constructors: Adam, text": (lambda: lo.Adam("1e-3"), "`learning_rate` .* '1e-3'"),
        "constructors: Aggregated, text": (
            lambda: lo.AggregatedMomentum("ab", [0.5]), "`learning_rates` must be real numbers"),
        "constructors: Aggregated, ragged": (
            lambda: lo.AggregatedMomentum([1.0, [2.0]], [0.5]), "`learning_rates` must be real"),
        "constructors: Aggregated, lengths": (
            lambda: lo.AggregatedMomentum([1.0], [0.5, 0.9]), "`learning_rates` and `momenta`"),
        "constructors: GRU, units": (lambda: lo.GRUOptimizer(0, key=KEY), "`units` .* got 0"),
        "constructors: GRU, whole": (lambda: lo.GRUOptimizer(2.0, key=KEY), "`units` .* got 2.0"),
        "constructors: GRU, key": (lambda: lo.GRUOptimizer(2, key=None), "`key` .* got None"),
        "constructors: GRU, keys": (lambda: lo.GRUOptimizer(2, key=KEYS), r"`key` .* \(3,\)"),
        "constructors: GRU, scale": (
            lambda: lo.GRUOptimizer(2, key=KEY, input_scale="big"), "`input_scale` .* 'big'"),
        "constructors: GRUCell, key": (lambda: lo.GRUCell(2, key=1), "`key` must be one random"),
        "constructors: Recurrent, None": (lambda: lo.RecurrentOptimizer(None, 2), "`cell` must"),
        "constructors: Recurrent, class": (
            lambda: lo.RecurrentOptimizer(lo.GRUCell, 2), "`cell` must map .* the class GRUCell"),
        "constructors: Recurrent, width": (
            lambda: lo.RecurrentOptimizer(cell, 3), "`cell` must map an input of shape"),
        "constructors: Recurrent, bias": (
            lambda: lo.RecurrentOptimizer(cell, 2, bias="no"), "`bias` must be True or False"),
        "constructors: Linear, text": (
            lambda: lo.LinearOptimizer("x", ONE, ONE, ONE), "`fixed_point` must be real numbers"),
        "constructors: Linear, nan": (
            lambda: lo.LinearOptimizer(ONE, jnp.full((1, 1), nan), ONE, ONE), "`recurrent` .* nan"),
        "constructors: Linear, shape": (
            lambda: lo.LinearOptimizer(ONE, ONE, ONE, ONE), "`recurrent` must have shape"),
        "constructors: Linear, empty": (
            lambda: lo.LinearOptimizer(jnp.ones(0), ONE, ONE, ONE), "`fixed_point` must have at"),
        "constructors: Modes, text": (
            lambda: lo.ModeOptimizer(["x"], [1.0]), "`eigenvalues` must be numbers"),
        "constructors: Modes, none": (
            lambda: lo.ModeOptimizer([], []), "`eigenvalues` and `learning_rates` must be lists"),
        "constructors: WhiteBox, rate": (
            lambda: lo.WhiteBox(0.0), "`learning_rate` must be finite and above 0, got 0"),
        "constructors: WhiteBox, momentum": (
            lambda: lo.WhiteBox(0.1, momentum=1.0), "`momentum` must be numbers of modulus below"),
        "constructors: WhiteBox, no modes": (
            lambda: lo.WhiteBox(0.1, momentum=[]), "`momentum` must be numbers of modulus"),
        "constructors: WhiteBox, text": (
            lambda: lo.WhiteBox(0.1, momentum="x"), "`momentum` must be numbers, got 'x'"),
        "constructors: WhiteBox, shares": (
            lambda: lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.9, 0.5), (1.0, 1.0))),
            r"`momentum.shares` must be one for each of 2 modes"),
        "constructors: WhiteBox, knee": (
            lambda: lo.WhiteBox(0.1, saturation=lo.BoxSaturation(-1)), "`knee` must be .* got -1"),
        "constructors: WhiteBox, what saturates": (
            lambda: lo.WhiteBox(0.1, saturation=lo.BoxSaturation(1, of="x")),
            "`saturation.of` must be one of gradient, memory, update, got 'x'"),
        "constructors: WhiteBox, a number": (
            lambda: lo.WhiteBox(0.1, saturation=2.0), "`saturation` must be a `BoxSaturation`"),
        "constructors: WhiteBox, memory": (
            lambda: lo.WhiteBox(0.1, adaptation=lo.BoxAdaptation(1.0)), "`memory` .* below 1, got"),
        "constructors: WhiteBox, timescale": (
            lambda: lo.WhiteBox(0.1, schedule=lo.BoxSchedule(2.0, None)), "`timescale` .* None"),
        "constructors: WhiteBox, agreement": (
            lambda: lo.WhiteBox(0.1, agreement=0.5), "`agreement` must be a `BoxAgreement`"),
        "constructors: WhiteBox, memory of agreement": (
            lambda: lo.WhiteBox(0.1, agreement=lo.BoxAgreement(0.5, 1.0)),
            "`agreement_memory` .* below 1, got"),
        "constructors: WhiteBox, curvature": (
            lambda: lo.WhiteBox(0.1, agreement=lo.BoxAgreement(0.5, 0.7, float("nan"))),
            "`agreement_curvature` must be finite, got nan"),
        "constructors: WhiteBox, knee of agreement": (
            lambda: lo.WhiteBox(0.1, agreement=lo.BoxAgreement(0.5, knee=-1.0)),
            "`agreement.knee` must be left out where nothing saturates"),
        "constructors: WhiteBox, sharpness of each mode": (
            lambda: lo.WhiteBox(0.1, momentum=0.9, saturation=lo.BoxSaturation(
                1.0, of="memory", sharpness_ratio=2.0)),
            "`saturation.sharpness_ratio` must be left out unless memory saturates"),
        "constructors: WhiteBox, hold": (
            lambda: lo.WhiteBox(0.1, hold=("knee",)), "`hold` must be one of learning_rate, got"),
        "constructors: WhiteBox, numbers": (
            lambda: lo.WhiteBox(0.1).with_numbers({"knee": 1.0}), "`values` must be one of learn"),
        "constructors: rescaled": (lambda: lo.rescaled(MOMENTUM), "`optimizer` must be a Recurr"),
        "constructors: rescaled, 0": (lambda: lo.rescaled(GRU, 0.0), "`input_factor` .* got 0"),
        "constructors: regression, dim": (lambda: lo.LinearRegression(-1), "`dim` .* got -1"),
        "constructors: regression, range": (
            lambda: lo.LinearRegression(2, 5), "`log10_eigenvalues` must be two finite .* got 5"),
        "constructors: regression, decades": (
            lambda: lo.LinearRegression(2, (-400, 0)), "`log10_eigenvalues` must lie from -30"),
        "constructors: moons": (lambda: lo.TwoMoons("x"), "`regularization` .* got 'x'"),
        "constructors: digits, batch": (
            lambda: lo.MNIST("digits", batch=0), "`batch` must be an integer of at least 1"),
        "constructors: digits, source": (lambda: lo.MNIST(3), "`source` must be one of .* got 3"),
        "constructors: FunctionTask, loss": (
            lambda: lo.FunctionTask(None, lambda key: ONE), "`loss` must be a function"),
        "constructors: FunctionTask, init": (
            lambda: lo.FunctionTask(lambda p: p.sum(), lambda: ONE), "`init` must be callable"),
        "constructors: FunctionTask, title": (
            lambda: lo.FunctionTask(lambda p: p.sum(), lambda key: ONE, title=3), "`title` .* 3"),
        "constructors: Minibatches": (lambda: lo.Minibatches(TWO, 3), "`size` must be at most 2"),
    }  # fmt: skip


def _points() -> dict[str, tuple[Callable[..., Any], str]]:
    """States and gradients of the functions that take an optimizer apart."""
    table: dict[str, tuple[Callable[..., Any], str]] = {}
    calls: dict[str, tuple[str, Callable[..., Any]]] = {
        "update_function": ("state", lambda h, g=ONE: lo.update_function(MOMENTUM, h, g)),
        "effective_learning_rate": (
            "state", lambda h, g=0.0: lo.effective_learning_rate(MOMENTUM, h, g)),
        "linearize": ("state", lambda h, g=0.0: lo.linearize(MOMENTUM, h, g)),
        "find_fixed_points": (
            "initial_states",
            lambda h, g=0.0: lo.find_fixed_points(MOMENTUM, h[None] if np.ndim(h) else h, g),
        ),
        "find_attractors": (
            "visited",
            lambda h, g=0.0: lo.find_attractors(MOMENTUM, h[None] if np.ndim(h) else h, g),
        ),
    }  # fmt: skip
    for name, (argument, call) in calls.items():
        bad: dict[str, tuple[Any, str]] = {
            "long": (TWO, f"`{argument}` must have shape"),
            "a number": (0.0, f"`{argument}` must have shape"),
            "nan": (ONE + jnp.nan, f"`{argument}` must be finite, got nan"),
            "complex": (ONE.astype(complex), f"`{argument}` must be real numbers"),
            "text": (np.array(["x"]), f"`{argument}` must be real numbers"),
            "huge": (ONE + 1e300, f"`{argument}` must be at most 1e"),
        }
        for kind, (state, words) in bad.items():
            table[f"points: {name}, {kind} state"] = (lambda c=call, h=state: c(h)), words
        axis = name == "update_function"
        wrong: dict[str, Any] = {"nan": jnp.nan, "huge": 1e300, "text": "x", "complex": 1j}
        for kind, value in wrong.items():
            given = np.array([value]) if axis else value
            words = "`gradients`" if axis else "`gradient`"
            table[f"points: {name}, {kind} gradient"] = (
                (lambda c=call, g=given: c(ONE, g)),
                f"{words} must be ",
            )
    return table


def _records() -> dict[str, tuple[Callable[..., Any], str]]:
    """Functions of records."""
    one = np.ones((1, 1), complex)
    modes = Modes(one[0], one[0], one, one)
    run = {"a": 1}
    return {
        "records: eigenmodes": (lambda: lo.eigenmodes(MOMENTUM), "`linearization` must be a lin"),
        "records: steady_state_gain": (
            lambda: lo.steady_state_gain(None), "`linearization` must be a linearization"),
        "records: find_attractors, none": (
            lambda: lo.find_attractors(MOMENTUM, np.empty((0, 1))), "`visited` must hold at least"),
        "records: find_attractors, steps": (
            lambda: lo.find_attractors(MOMENTUM, ONE[None], steps=0), "`steps` must be an integer"),
        "records: hankel_values": (
            lambda: lo.hankel_values(modes), "`linearization` must be a linearization"),
        "records: hankel_values, endless": (
            lambda: lo.hankel_values(lo.linearize(lo.Momentum(0.1, 1.0), ONE)),
            "`linearization.recurrent` must have eigenvalues of size below 1 .*, got 1"),
        "records: momentum_fit": (
            lambda: lo.momentum_fit(None), "`linearization` must be a linearization"),
        "records: momentum_fit, count": (
            lambda: lo.momentum_fit(lo.linearize(MOMENTUM, ONE), 2), "`count` must be at most 1"),
        "records: momentum_fit, none": (
            lambda: lo.momentum_fit(lo.linearize(MOMENTUM, ONE), 0), "`count` must be an integer"),
        "records: momentum_fit, steps": (
            lambda: lo.momentum_fit(lo.linearize(MOMENTUM, ONE), steps=1), "`steps` must be at l"),
        "records: linear_optimizer": (
            lambda: lo.linear_optimizer(modes), "`linearization` must be a linearization"),
        "records: mode_optimizer": (lambda: lo.mode_optimizer(None, 0), "`modes` must be the m"),
        "records: mode_optimizer, index": (
            lambda: lo.mode_optimizer(modes, 3), "`indices` must be integers from 0 to 0"),
        "records: certify": (lambda: lo.certify(MOMENTUM, None), "`points` must be the fixed p"),
        "records: plot.scorecard": (lambda: lo.plot.scorecard(None), "`card` must be a scorecard"),
        "records: plot.trajectory": (lambda: lo.plot.trajectory(None), "`run` must be a traj"),
        "records: plot.losses": (lambda: lo.plot.losses(run), "`runs` must be an evaluation or"),
        "records: plot.losses, None": (lambda: lo.plot.losses(None), "`runs` must be a dict"),
        "records: plot.interventions": (
            lambda: lo.plot.interventions(None), "`record` must be interventions"),
        "records: plot.update_functions": (
            lambda: lo.plot.update_functions(lo.Momentum), "`optimizer` must be an optimizer"),
        "records: plot.update_functions, states": (
            lambda: lo.plot.update_functions(MOMENTUM, [ONE]), "`states` must be a dictionary"),
        "records: plot.eigenmodes": (
            lambda: lo.plot.eigenmodes(None), "`optimizer` must be an optimizer, got None"),
        "records: plot, ax": (
            lambda: lo.plot.losses({"a": None}), "`runs` must be an evaluation or trajectories"),
    }  # fmt: skip


def _inner_loop() -> dict[str, tuple[Callable[..., Any], str]]:
    stacked = DrawnProblem(jnp.ones((2, 2)))
    settings = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), MOMENTUM)

    def run(**changed: Any) -> Callable[[], Any]:
        given = {"optimizer": MOMENTUM, "task": TASK, "problem": PROBLEM, "steps": 2} | changed
        return lambda: lo.unroll(**given)

    def many(**changed: Any) -> Callable[[], Any]:
        given = {"optimizer": MOMENTUM, "task": TASK, "problems": stacked, "steps": 2} | changed
        return lambda: lo.unroll_losses(**given)

    def score(**changed: Any) -> Callable[[], Any]:
        given: dict[str, Any] = {"task": TASK, "optimizers": settings, "problems": stacked,
                                 "steps": 2}  # fmt: skip
        return lambda: lo.score_settings(**(given | changed))

    def judge(optimizers: Any = None, **changed: Any) -> Callable[[], Any]:
        given: dict[str, Any] = {"key": KEY, "problems": 1, "steps": 1} | changed
        return lambda: lo.evaluate({"a": MOMENTUM} if optimizers is None else optimizers, TASK,
                                   **given)  # fmt: skip

    return {
        "inner loop: unroll, steps": (run(steps=0), "`steps` must be an integer of at least 1"),
        "inner loop: unroll, text": (run(steps="3"), "`steps` must be an integer .* got '3'"),
        "inner loop: unroll, bool": (run(steps=True), "`steps` must be an integer .* got True"),
        "inner loop: unroll, kept": (run(checkpoint_every=-1), "`checkpoint_every` .* got -1"),
        "inner loop: unroll, None": (run(problem=None), "`problem.initial_parameters` .* None"),
        "inner loop: unroll, a key": (run(problem=KEY), "`problem.initial_parameters` .* None"),
        "inner loop: losses, one": (many(problems=PROBLEM), "`problem.initial_parameters` must"),
        "inner loop: losses, None": (many(problems=None), "`problems` must be arrays with one"),
        "inner loop: losses, clip": (many(cotangent_clip=-1.0), "`cotangent_clip` .* got -1"),
        "inner loop: losses, text": (many(cotangent_clip="x"), "`cotangent_clip` .* got 'x'"),
        "inner loop: score, one": (score(optimizers=MOMENTUM), "`optimizers` must be arrays with"),
        "inner loop: score, None": (score(optimizers=None), "`optimizers` must be arrays with"),
        "inner loop: score, objective": (score(objective=3), "`objective` must be one of .* 3"),
        "inner loop: score, memory": (score(memory=0), "`memory` must be an integer of at least"),
        "inner loop: evaluate, list": (judge([MOMENTUM]), "`optimizers` must be a dictionary"),
        "inner loop: evaluate, none": (judge({}), "`optimizers` must name at least one"),
        "inner loop: evaluate, names": (judge({1: MOMENTUM}), "`optimizers` must have strings"),
        "inner loop: evaluate, count": (judge(problems=-1), "`problems` must be an integer"),
        "inner loop: evaluate, part": (judge(steps=1.5), "`steps` must be an integer .* 1.5"),
        "inner loop: evaluate, single": (
            judge({"a": half(jnp.float32)}), "must compute in at least the type of the task's"),
        "inner loop: sample_problems": (
            lambda: lo.sample_problems(TASK, KEY, -1), "`count` must be an integer .* got -1"),
        "inner loop: sample_problems, key": (
            lambda: lo.sample_problems(TASK, None, 1), "`key` must be one random key"),
        "inner loop: sample_problems, task": (
            lambda: lo.sample_problems(None, KEY, 1), "`task` must be a task, got None"),
        "inner loop: meta_objective": (
            lambda: lo.meta_objective(jnp.ones(0)), "`losses` must hold at least one loss"),
        "inner loop: meta_objective, text": (
            lambda: lo.meta_objective("x"), "`losses` must be real numbers, got 'x'"),
        "inner loop: meta_objective, kind": (
            lambda: lo.meta_objective(TWO + 1, "median"), "`kind` must be one of mean"),
    }  # fmt: skip


def _tuning() -> dict[str, tuple[Callable[..., Any], str]]:
    few = lo.Tuning(settings=2, problems=1, steps=1, finalists=1, fresh_problems=1)
    bad: dict[str, tuple[dict[str, Any], str]] = {
        "ranges": ({"ranges": 5}, "`ranges` must be a dictionary of pairs .* got 5"),
        "pair": ({"ranges": {"momentum": 3}}, r"`ranges\['momentum'\]` must be two finite"),
        "reversed": ({"ranges": {"b1": (0.9, 0.1)}}, r"`ranges\['b1'\]` must be two finite"),
        "settings": ({"settings": -1}, "`settings` must be an integer of at least 1, got -1"),
        "grid": ({"grid": 1}, "`grid` must be an integer of at least 2, got 1"),
        "objective": ({"objective": None}, "`objective` must be one of .* got None"),
        "rungs": ({"rungs": 5}, "`rungs` must be pairs of integers"),
    }
    make = {"make": lo.WELL_KNOWN["sgd"], "task": TASK, "key": KEY}

    def rate(**changed: Any) -> Callable[[], Any]:
        return lambda: lo.tune_rate(**(make | changed))

    def stack(values: Any, constructor: Any = lo.Momentum) -> Callable[[], Any]:
        return lambda: lo.stack_settings(constructor, values)

    return {
        f"tuning: Tuning, {name}": ((lambda given=given: lo.Tuning(**given)), words)
        for name, (given, words) in bad.items()
    } | {
        "tuning: tune, an instance": (
            lambda: lo.tune(TASK, MOMENTUM, few, key=KEY), "`constructor` must .* pass its class"),
        "tuning: tune, None": (
            lambda: lo.tune(TASK, None, few, key=KEY), "`constructor` must be a class or"),
        "tuning: tune, a class": (
            lambda: lo.tune(TASK, lo.Momentum, lo.Tuning, key=KEY), "`settings` must be Tuning"),
        "tuning: tune, key": (
            lambda: lo.tune(TASK, lo.Momentum, few, key=KEYS), "`key` must be one random key"),
        "tuning: tune, task": (
            lambda: lo.tune(None, lo.Momentum, few, key=KEY), "`task` must be a task, got None"),
        "tuning: stack, lengths": (
            stack({"learning_rate": [0.1], "momentum": [0.5, 0.9]}), "`values` must be lists of"),
        "tuning: stack, numbers": (
            stack({"learning_rate": 0.1, "momentum": 0.9}), "`values` must be lists of one"),
        "tuning: stack, text": (stack({"learning_rate": ["x"]}), r"`values\['learning_rate'\]`"),
        "tuning: stack, None": (stack(None), "`values` must be a dictionary of settings"),
        "tuning: stack, name": (stack({"rate": [0.1]}), "`values` must name arguments .* 'rate'"),
        "tuning: stack, class": (stack({"rate": [0.1]}, None), "`constructor` must be a class"),
        "tuning: rate, make": (rate(make=None), "`make` must be a function from a learning rate"),
        "tuning: rate, none": (rate(rates=()), "`rates` must hold at least one learning rate"),
        "tuning: rate, number": (rate(rates=0.1), "`rates` must be a list with at least one"),
        "tuning: rate, nan": (rate(rates=(jnp.nan,)), "`rates` must be a finite number"),
        "tuning: rate, key": (rate(key=None), "`key` must be one random key"),
        "tuning: analytic_momentum": (
            lambda: lo.analytic_momentum(3), "`log10_eigenvalues` must be two finite .* got 3"),
        "tuning: scales, optimizer": (
            lambda: lo.search_scales(TASK, MOMENTUM, key=KEY), "`optimizer` must be a Recurrent"),
        "tuning: scales, factor": (
            lambda: lo.search_scales(TASK, GRU, key=KEY, input_factors=2.0), "`input_factors` mu"),
    }  # fmt: skip


def _training() -> dict[str, tuple[Callable[..., Any], str]]:
    settings: dict[str, tuple[dict[str, Any], str]] = {
        "steps": ({"steps": 0}, "`steps` must be an integer of at least 1, got 0"),
        "unroll": ({"unroll": 2.5}, "`unroll` must be an integer of at least 1, got 2.5"),
        "problems": ({"problems": -2}, "`problems` must be an integer of at least 1, got -2"),
        "micro_batch": ({"micro_batch": 5}, "`micro_batch` must divide `problems`"),
        "rate": ({"learning_rate": "x"}, "`learning_rate` must be a finite number .* 'x'"),
        "b1": ({"b1": 1.0}, "`b1` must be a finite number .* below 1, got 1.0"),
        "estimator": ({"estimator": 3}, "`estimator` must be one of exact, .* got 3"),
        "schedule": ({"schedule": "linear"}, "`schedule` must be one of constant, .* 'linear'"),
        "warm_up": ({"warm_up": -1}, "`warm_up` must be an integer of at least 0, got -1"),
        "early": ({"early_snapshots": "no"}, "`early_snapshots` must be True or False"),
    }

    def train(task: Any = TASK, optimizer: Any = GRU, **changed: Any) -> Callable[[], Any]:
        given = {"settings": TRAINING, "key": KEY, "progress": False} | changed
        return lambda: lo.meta_train(task, optimizer, **given)

    def population(task: Any = TASK, **changed: Any) -> Callable[[], Any]:
        given = {"optimizers": [GRU, GRU], "settings": TRAINING, "keys": KEYS[:2]} | changed
        return lambda: lo.meta_train_population(task, progress=False, **given)

    def gradient(**changed: Any) -> Callable[[], Any]:
        given = {"optimizer": GRU, "task": TASK, "keys": KEYS[:2], "settings": TRAINING} | changed
        return lambda: lo.meta_gradient(**given)

    still = Drawn(jnp.zeros(2))
    negative = Drawn(jnp.ones(2), lambda x: -jnp.sum(x**2))
    wild = Drawn(jnp.zeros(2), lambda x: jnp.sum(x / x))
    plain = Anything(1.0, 0.0)
    return {
        f"training: MetaTraining, {name}": ((lambda given=given: lo.MetaTraining(**given)), words)
        for name, (given, words) in settings.items()
    } | {
        "training: no leaves": (train(optimizer=Fixed()), "`optimizer` must have floating-point"),
        "training: Python numbers": (train(optimizer=plain), "`optimizer` must have a flat"),
        "training: loss 0": (train(still), "`task` must have a finite loss above 0 .* got 0"),
        "training: loss below 0": (train(negative), "`task` must have a finite loss .* got -2"),
        "training: loss nan": (train(wild), "`task` must have a finite loss above 0 .* got nan"),
        "training: settings": (train(settings=lo.MetaTraining), "`settings` must be MetaTraining"),
        "training: settings None": (train(settings=None), "`settings` must be MetaTraining"),
        "training: time": (train(time_limit=-1.0), "`time_limit` must be a finite number above 0"),
        "training: save": (train(save_every="x"), "`save_every` must be a finite number"),
        "training: resume": (train(resume="yes"), "`resume` must be True or False, got 'yes'"),
        "training: overwrite": (train(overwrite=1), "`overwrite` must be True or False, got 1"),
        "training: memory": (train(memory_limit=0), "`memory_limit` must be a finite number above"),
        "training: memory, cma": (
            train(memory_limit=float("nan"), settings=SEARCH),
            "`memory_limit` must be a finite number above 0, got nan"),
        "training: gradient, key": (gradient(keys=KEY), "`keys` must be random keys"),
        "training: gradient, count": (gradient(keys=KEYS[:0]), "`keys` must be random keys"),
        "training: gradient, task": (gradient(task=None), "`task` must be a task, got None"),
        "training: gradient, optimizer": (
            gradient(optimizer=lo.Momentum), "`optimizer` must be an optimizer, got the class"),
        "training: plan, settings": (
            lambda: lo.plan_memory(TASK, GRU, None), "`settings` must be MetaTraining settings"),
        "training: plan, task": (
            lambda: lo.plan_memory(None, GRU, TRAINING), "`task` must be a task, got None"),
        "training: members": (
            lambda: lo.plan_memory(TASK, GRU, TRAINING, members=0), "`members` must be an integer"),
        "training: population, keys": (population(keys=KEY), "`keys` must be random keys"),
        "training: population, task": (population(task=None), "`task` must be a task, got None"),
        "training: population, one": (
            population(optimizers=MOMENTUM), "`optimizers` must be arrays with one common first"),
        "training: population, flat": (
            population(optimizers=GRU), r"`optimizers\[0\]` must have a flat initial state"),
        "training: population, none": (population(optimizers=None), "`optimizers` must be a list"),
        "training: population, class": (
            population(optimizers=[GRU, lo.Adam]), r"`optimizers\[1\]` must be an optimizer"),
        "training: population, few": (population(optimizers=[GRU]), "`optimizers` must be as many"),
        "training: population, kinds": (
            population(optimizers=[GRU, MOMENTUM]), "`optimizers` must have one structure"),
        "training: population, settings": (population(settings=None), "`settings` must be MetaTra"),
        "training: population, rates": (
            population(learning_rates=0.1), "`learning_rates` must be a list"),
        "training: population, rate": (
            population(learning_rates=[0.1, "x"]), "`learning_rates` must be a finite number"),
        "training: population, time": (population(time_limit=0), "`time_limit` must be a finite"),
        "training: population, resume": (population(resume=1), "`resume` must be True or False"),
        "training: population, mesh": (population(mesh=2), "`mesh` must be a jax.sharding.Mesh"),
        "training: population, memory": (population(memory_limit=0), "`memory_limit` must be a f"),
        "training: search, bounds": (
            lambda: lo.search_learning_rate(TASK, GRU, TRAINING, bounds=3, key=KEY),
            "`bounds` must be two finite numbers"),
        "training: search, candidates": (
            lambda: lo.search_learning_rate(TASK, GRU, TRAINING, candidates=0, key=KEY),
            "`candidates` must be an integer of at least 1"),
        "training: suggest, task": (
            lambda: lo.suggest_training(lo.Rosenbrock, key=KEY), "`task` must be a task"),
        "training: suggest, time": (
            lambda: lo.suggest_training(TASK, key=KEY, time_limit="x"), "`time_limit` must be"),
        "training: suggest, key": (
            lambda: lo.suggest_training(TASK, key=None), "`key` must be one random key"),
    }  # fmt: skip


class Fixed(AbstractOptimizer):
    """Gradient descent at a rate that is written into it."""

    @property
    def readout(self) -> Array:
        return -0.1 * jnp.ones(1)

    def initial_state(self) -> Array:
        return jnp.zeros(1)

    def transition(self, state: Array, gradient: Array) -> Array:
        return gradient[None]


def _studies() -> dict[str, tuple[Callable[..., Any], str]]:
    def transfer(**changed: Any) -> Callable[[], Any]:
        given = {
            "optimizers": {"a": MOMENTUM}, "task": TASK, "home_optimizer": "a", "key": KEY,
            "analysis_key": KEY, "problems": 1, "steps": 1, "analysed": 0,
        } | changed  # fmt: skip
        return lambda: lo.measure_transfer(**given)

    return {
        "studies: transfer, list": (transfer(optimizers=[MOMENTUM]), "`optimizers` must be a dict"),
        "studies: transfer, home": (transfer(home_optimizer=0), "`home_optimizer` must be one of"),
        "studies: transfer, key": (transfer(analysis_key=None), "`analysis_key` must be one"),
        "studies: transfer, count": (transfer(analysed=-1), "`analysed` must be an integer"),
        "studies: scorecard, at_rest": (
            lambda: lo.measure_scorecard(MOMENTUM, TASK, key=KEY, at_rest=lo.Momentum),
            "`at_rest` must be an optimizer, got the class Momentum"),
        "studies: scorecard, count": (
            lambda: lo.measure_scorecard(MOMENTUM, TASK, key=KEY, problems=0), "`problems` must"),
        "studies: intervene, list": (
            lambda: lo.intervene(MOMENTUM, TASK, key=KEY, interventions=["a"]),
            "`interventions` must be a dictionary"),
        "studies: intervene, value": (
            lambda: lo.intervene(MOMENTUM, TASK, key=KEY, interventions={"a": 1}),
            r"`interventions\['a'\]` must be an Intervention, got 1"),
        "studies: intervene, rest": (
            lambda: lo.intervene(MOMENTUM, TASK, key=KEY, rest_analysis=1),
            "`rest_analysis` must be a RestAnalysis or None, got 1"),
        "studies: explore, title": (
            lambda: lo.explore(MOMENTUM, TASK, key=KEY, title=3), "`title` must be a string"),
        "studies: explore, moments": (
            lambda: lo.explore(MOMENTUM, TASK, key=KEY, moments=0), "`moments` must be an int"),
        "studies: analyze, steps": (
            lambda: lo.analyze(MOMENTUM, TASK, key=KEY, steps=-5), "`steps` must be an integer"),
        "studies: distill, box": (
            lambda: lo.distill(MOMENTUM, MOMENTUM, TASK, key=KEY), "`white_box` must be a `White"),
        "studies: distill, held": (
            lambda: lo.distill(
                MOMENTUM, lo.WhiteBox(0.1, hold=("learning_rate",)), TASK, key=KEY),
            "`white_box` must have a number that is not held"),
        "studies: distill, baselines": (
            lambda: lo.distill(MOMENTUM, lo.WhiteBox(0.1), TASK, key=KEY, baselines=[MOMENTUM]),
            "`baselines` must be a dictionary of optimizers"),
        "studies: distill, key": (
            lambda: lo.distill(MOMENTUM, lo.WhiteBox(0.1), TASK, key=KEYS), "`key` must be one"),
        "studies: distill, task": (
            lambda: lo.distill(MOMENTUM, lo.WhiteBox(0.1), None, key=KEY), "`task` must be a task"),
        "studies: distill, settings": (
            lambda: lo.distill(MOMENTUM, lo.WhiteBox(0.1), TASK, key=KEY, settings=3),
            "`settings` must be `Distilling` settings, got 3"),
        "studies: attribute, box": (
            lambda: lo.attribute(
                MOMENTUM, lo.WhiteBox(0.1), TASK, key=KEY, test_key=KEY,
                baselines={"a": MOMENTUM}), "`white_box` must have at least one part"),
        "studies: attribute, held rate": (
            lambda: lo.attribute(
                MOMENTUM, lo.WhiteBox(0.1, momentum=0.9, hold=("learning_rate",)), TASK, key=KEY,
                test_key=KEY, baselines={"a": MOMENTUM}),
            "`white_box` must leave `learning_rate` free"),
        "studies: attribute, baselines": (
            lambda: lo.attribute(
                MOMENTUM, lo.WhiteBox(0.1, momentum=0.9), TASK, key=KEY, test_key=KEY,
                baselines={}), "`baselines` must name at least one"),
        "studies: attribute, key": (
            lambda: lo.attribute(
                MOMENTUM, lo.WhiteBox(0.1, momentum=0.9), TASK, key=KEY, test_key=0,
                baselines={"a": MOMENTUM}), "`test_key` must be one random key"),
        "studies: path, numbers": (
            lambda: lo.grow_path(
                MOMENTUM, TASK, key=KEY, test_key=KEY, baselines={"a": MOMENTUM}, numbers=0),
            "`numbers` must be an integer of at least 1"),
        "studies: path, settings": (
            lambda: lo.grow_path(
                MOMENTUM, TASK, key=KEY, test_key=KEY, baselines={"a": MOMENTUM}, settings=1),
            "`settings` must be `BoxTraining` settings"),
        "studies: elimination, box": (
            lambda: lo.prune_path(
                MOMENTUM, 0.1, TASK, key=KEY, test_key=KEY, baselines={"a": MOMENTUM}),
            "`white_box` must be a `WhiteBox`"),
        "studies: elimination, modes": (
            lambda: lo.prune_path(
                MOMENTUM, lo.WhiteBox(0.1, momentum=lo.BoxMomentum((0.1, 0.2, 0.3))), TASK,
                key=KEY, test_key=KEY, baselines={"a": MOMENTUM}),
            "`white_box` must have at most 2 modes, got 3"),
        "studies: elimination, problems": (
            lambda: lo.prune_path(
                MOMENTUM, lo.WhiteBox(0.1), TASK, key=KEY, test_key=KEY, baselines={"a": MOMENTUM},
                problems=0), "`problems` must be an integer of at least 1"),
        "studies: box training": (lambda: lo.BoxTraining(starts=0), "`starts` must be an integer"),
        "studies: no trained start": (
            lambda: lo.BoxTraining(trained_starts=0), "`trained_starts` must be an integer"),
        "studies: box training, training": (
            lambda: lo.BoxTraining(3), "`training` must be `MetaTraining` settings, got 3"),
        "studies: text": (lambda: lo.optax_text(MOMENTUM), "`white_box` must be a `WhiteBox`"),
        "studies: LaTeX": (lambda: lo.latex_text(1), "`white_box` must be a `WhiteBox`"),
        "studies: text, digits": (
            lambda: lo.optax_text(lo.WhiteBox(0.1), digits=0), "`digits` must be an integer"),
        "studies: text, name": (
            lambda: lo.optax_text(lo.WhiteBox(0.1), "a b"), "`name` must be a name in Python"),
        "studies: waterfall": (lambda: lo.plot.waterfall(1), "`record` must be an attribution"),
        "studies: path plot": (lambda: lo.plot.path(1), "`record` must be a path"),
        "studies: distances, none": (
            lambda: lo.response_distances({}, np.ones((2, 3))), "`optimizers` must"),
        "studies: distances, list": (
            lambda: lo.response_distances([MOMENTUM], np.ones((2, 3))), "`optimizers` must"),
        "studies: distances, kind": (
            lambda: lo.response_distances({"a": 3}, np.ones((2, 3))), r"`optimizers\['a'\]` must"),
        "studies: distances, axes": (
            lambda: lo.response_distances({"a": MOMENTUM}, np.ones(3)),
            r"`gradients` must be a table .* shape \(3,\)"),
        "studies: distances, words": (
            lambda: lo.response_distances({"a": MOMENTUM}, "g"), "`gradients` must"),
        "studies: distances, NaN": (
            lambda: lo.response_distances({"a": MOMENTUM}, [[1.0, np.nan]]), "`gradients` must"),
        "studies: distances, window": (
            lambda: lo.response_distances({"a": MOMENTUM}, np.ones((2, 3)), window=0),
            "`window` must be an integer of at least 1"),
        "studies: distances, skip": (
            lambda: lo.response_distances({"a": MOMENTUM}, np.ones((2, 3)), skip=3),
            "`skip` must be less than the 3 updates"),
        "optimizer: load": (
            lambda: lo.load(None), "`source` must be the folder of a run, .*, got None"),
        "studies: distilled": (lambda: lo.distilled("x"), "`name` must be one of .*, got 'x'"),
        "studies: distilled, type": (lambda: lo.distilled(3), "`name` must be a string, got 3"),
        "studies: distill, starts": (lambda: lo.Distilling(starts=0), "`starts` must be an int"),
        "studies: distill, steps": (
            lambda: lo.Distilling(refinement=-1), "`refinement` must be an integer of at least 0"),
    }  # fmt: skip


TABLE = rows()


@pytest.mark.parametrize("row", TABLE)
def test_refused_in_one_sentence(row):
    call, words = TABLE[row]
    with pytest.raises(ValueError, match=words) as error:
        call()
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 400


def test_the_table_covers_every_part():
    """At least 130 rows, some of each part."""
    counts = Counter(row.partition(":")[0] for row in TABLE)
    print(f"{len(TABLE)} tried, by part: {dict(counts)}")
    assert len(TABLE) >= 130
    assert min(counts.values()) >= 10


def test_what_is_right_is_accepted():
    """NumPy's numbers and keys of the old kind are accepted."""
    adam = lo.Adam(0.1)
    old = jr.PRNGKey(0)
    new = jr.wrap_key_data(old, impl="threefry2x32")
    found = lo.evaluate({"a": adam}, TASK, problems=np.int64(2), steps=2, key=old)
    again = lo.evaluate({"a": adam}, TASK, problems=2, steps=2, key=new)
    np.testing.assert_array_equal(found.losses, again.losses)
    with jax.enable_x64(False):
        numpy = Anything(-np.full(1, 0.1), np.zeros(1), lambda h, g: 0.5 * h + g)
        task = Drawn(np.ones(2))
        run = lo.unroll(numpy, task, task.sample(KEY), 3)
        assert run.losses.dtype == jnp.float32
        assert lo.update_function(numpy, np.zeros(1), [1]).dtype == jnp.float32
