"""Audits: departures in what goes into an optimizer and what comes out, and the record."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import adadelta, adam, momentum
from tables import mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.__main__ import main
from lrevopt.optimizers.white_box_documents import distilled_box, document_of

partial = functools.partial
STEPS = 12
"""Updates of the schedule below."""


def listed(rule, **options):
    """A rule with options, as a function of gradients alone."""
    return lambda gradients: list(rule(gradients, **options))


def late(gradients):
    return [0.0, *adam(gradients[:-1])]


def counted_from_two(gradients):
    """The counter is raised before the gradient is seen for the first time."""
    return list(adam([0.0, *gradients]))[1:]


def scheduled(gradients, rule=momentum, shift=0, kind=float):
    rates = [kind(0.1 / (1 + (k + shift) / STEPS)) for k in range(len(gradients))]
    moves = rule(gradients, rate=1.0)
    return [rate * move for rate, move in zip(rates, moves, strict=True)]


def decayed(gradients, parameters, *, coupled=0.0, decoupled=0.0, after=0.0, multiplied=0.0):
    seen = [g * (1 + multiplied * x) + coupled * x
            for g, x in zip(gradients, parameters, strict=True)]  # fmt: skip
    moves = adam(seen)
    return [
        u - decoupled * x - after * (x + u) for u, x in zip(moves, parameters, strict=True)
    ]  # fmt: skip


def clipped(gradients):
    return list(adam(np.clip(gradients, -0.7, 0.7)))


def with_decay(**options):
    """Named argument `parameters`, so that the audit gives them."""

    def rule(gradients, parameters):
        return decayed(gradients, parameters, **options)

    return rule


ADAM, HEAVY = listed(adam), listed(momentum)
PLANTED = {
    "sign": (ADAM, lambda g: [-u for u in adam(g)], ["sign"]),
    "rate": (ADAM, listed(adam, rate=0.02), ["factor"]),
    "loss scaled, and not scaled back": (listed(adadelta), lambda g: list(adadelta(8 * g)),
                                         ["gradient_factor"]),
    "one gradient late": (listed(momentum), lambda g: [0.0, *momentum(g[:-1])], ["gradient_late"]),
    "one update late": (ADAM, late, ["update_late"]),
    "counter ahead": (ADAM, counted_from_two, ["counter_ahead"]),
    "schedule and no other counter ahead": (scheduled, partial(scheduled, shift=1),
                                            ["counter_ahead"]),
    "schedule ahead": (partial(scheduled, rule=adam), partial(scheduled, rule=adam, shift=1),
                       ["schedule_ahead"]),
    "schedule behind": (partial(scheduled, rule=adam, shift=1), partial(scheduled, rule=adam),
                        ["schedule_behind"]),
    "schedule in single precision": (scheduled, partial(scheduled, kind=np.float32),
                                     ["single_precision"]),
    "no schedule": (scheduled, HEAVY, ["no_schedule"]),
    "clipped": (ADAM, clipped, ["gradient_clipping"]),
    "coupled decay": (with_decay(decoupled=0.001), with_decay(coupled=0.1), ["coupled_decay"]),
    "decoupled decay": (with_decay(coupled=0.1), with_decay(decoupled=0.001), ["decoupled_decay"]),
    "decay missing": (with_decay(decoupled=0.001), ADAM, ["no_decay"]),
    "decay strength": (with_decay(decoupled=0.001), with_decay(decoupled=0.1), ["decay_strength"]),
    "decay after": (with_decay(decoupled=0.01), with_decay(after=0.01), ["decay_after_update"]),
    "decay multiplies": (with_decay(coupled=0.01), with_decay(multiplied=0.01),
                         ["decay_multiplies_gradient"]),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    mostly_long(
        PLANTED, "sign", "one gradient late", "schedule ahead", "coupled decay", "decay missing"
    ),
)
def test_a_planted_departure_is_flagged_and_named(name):
    first, second, expected = PLANTED[name]
    found = lo.audit(first, second)
    assert not found.equal
    assert list(found.departures) == expected


def test_both_sides_of_a_coupling_are_named():
    """A norm over the array: one parameter alone moves as it does without the clipping."""
    signs = optax.chain(optax.scale_by_sign(), optax.scale(-0.1))

    def update(gradients, state, parameters):
        norm = jnp.linalg.norm(gradients)
        return -0.1 * gradients / jnp.where(norm > 0, norm, 1.0), state

    normed = optax.GradientTransformation(lambda parameters: (), update)
    found = lo.audit(signs, normed, names=("signs", "normed"))
    assert found.experiment == "three parameters"
    assert found.departures == ("coupled_parameters",)
    assert found.departure == (
        "signs updates each parameter on its own, normed updates each parameter together with "
        "the others"
    )


def towards_mean():
    """Gradients move a tenth of the way to their mean: nothing happens to one alone."""
    return optax.stateless(
        lambda g, _: jax.tree.map(lambda each: 0.9 * each + 0.1 * each.mean(), g)
    )


def test_a_coupling_beside_other_departures_is_named():
    """A decay explains nothing of arrays, nor does a formula of one parameter."""
    clipping = optax.chain(optax.clip(1.0), optax.sgd(0.1))
    normed = optax.chain(
        optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), optax.sgd(0.1)
    )
    found = lo.audit(clipping, normed, names=("clipping", "normed"))
    assert found.departures == ("decoupled_decay", "coupled_parameters")
    assert found.departure is not None
    said = "clipping updates each parameter on its own, normed updates each parameter together"
    assert said in found.departure
    plain, heavy = optax.sgd(0.1), optax.chain(towards_mean(), optax.sgd(0.1, momentum=0.9))
    assert lo.audit(plain, heavy).departures == ("no_first_moment", "coupled_parameters")
    both = lo.audit(optax.chain(towards_mean(), plain), heavy)
    assert both.departures == ()


def test_a_pair_of_plain_functions_gets_arrays_and_parameters():
    def init(parameters):
        assert parameters.shape in ((1,), (3,))
        return 0.0

    def update(gradients, state, parameters):
        velocity = 0.9 * state + gradients
        return -0.1 * velocity - 0.01 * parameters, velocity

    def other(gradients, parameters):
        moves = momentum(gradients)
        return [u - 0.01 * x for u, x in zip(moves, parameters, strict=True)]

    assert lo.audit((init, update), other).equal


def test_where_nothing_explains_it_is_said():
    def strange(gradients):
        return [-0.01 * g / (1 + k * abs(g)) for k, g in enumerate(gradients)]

    found = lo.audit(lo.Momentum(0.01, 0.9), strange)
    assert found.departure is None
    assert found.departures == ()
    assert found.verdict.endswith("No departure in the catalogue explains it.")
    assert found.difference is not None
    assert found.difference.step == 2


def test_the_record_prints_experiments_properties_and_the_verdict():
    found = lo.audit(lo.Adam(0.01), optax.chain(optax.adam(0.01), optax.scale(-1.0)))
    assert found.experiment == "first update"
    assert found.difference is not None
    assert found.difference.first == pytest.approx(-0.01)
    assert found.difference.second == pytest.approx(0.01)
    lines = str(found).splitlines()
    assert lines[0] == "Audit: Adam and optax"
    assert any(
        line.startswith("updates without any gradient") and "equal" in line for line in lines
    )
    assert "optax has the other sign than Adam" in " ".join(lines)
    shown = {row[0]: row[1:] for row in found.properties.rows}
    assert shown["odd in the gradient"] == ("yes", "yes")
    degrees = shown["degree: exponent of the gradient at 1 to 10"]
    assert [abs(float(d.replace("\N{MINUS SIGN}", "-"))) < 1e-6 for d in degrees] == [True, True]
    # At gradient 1e-12, Adam divides by epsilon alone.
    assert shown["slope at gradient 1e-12"] == ("\N{MINUS SIGN}9.999e+05", "9.999e+05")
    assert "other sign" in found._repr_html_()
    assert lo.DEPARTURES["sign"] == "{b} has the other sign than {a}"
    assert all("{" in says for name, says in lo.DEPARTURES.items() if name != "b1_and_b2_exchanged")


@pytest.mark.parametrize(
    ("rule", "departure"),
    [
        (listed(adam, b1=0.90001), "numbers"),
        (listed(adam, b1=float(np.float32(0.9))), "single_precision"),
        (lambda g: [float(np.float32(u)) for u in adam(g)], "single_precision"),
    ],
)
def test_near_numbers_are_told_from_rounded_ones(rule, departure):
    found = lo.audit(ADAM, rule)
    assert found.departures == (departure,)
    if departure == "numbers":
        assert found.departure is not None
        assert found.departure.endswith("with other numbers: b1 0.9 and 0.90001")


def test_single_precision_hyperparameters_are_read_as_decimals():
    """An optimizer made without double precision has the rate that its user wrote."""
    rate = jnp.asarray(np.float32(0.1))
    made = lo.Momentum(rate, jnp.asarray(np.float32(0.9)))
    made = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), made)
    assert lo.audit(made, optax.sgd(0.1, 0.9)).equal


def stateless(rule):
    """A transformation without a state."""
    return optax.GradientTransformation(lambda x: (), lambda g, state, x=None: (rule(g), state))


@pytest.mark.parametrize("names", ["ab", ("a",), (1, 2)])
def test_names_are_two_strings(as_user, names):
    with pytest.raises(ValueError, match=re.escape(f"`names` must be two strings, got {names!r}")):
        lo.audit(lo.Adam(0.1), lo.Adam(0.1), names=names)


def test_no_factor_makes_nan_of_numbers():
    """Updates that are no numbers have no explanation, least of all a factor of NaN."""
    found = lo.audit(optax.adam(0.01), stateless(lambda g: g * jnp.nan))
    assert not found.equal
    assert found.departures == ()


@pytest.mark.parametrize("bound", [1.0, 0.25, 0.32718])
def test_bounds_of_clipping_are_found(bound):
    """Of optax's own chain, whether or not the bound is a round number."""
    adam = optax.adam(0.01)
    found = lo.audit(adam, optax.chain(optax.clip(bound), adam), names=("adam", "clipped"))
    assert found.departure == f"clipped clips gradients at {bound:.4g}, adam does not"


@pytest.mark.parametrize("bound", [1.0, 0.5])
def test_a_bound_on_the_norm_of_an_array_is_found(bound):
    """One parameter alone is clipped, three are shortened together."""
    adam = optax.adam(0.01)
    clipped = optax.chain(optax.clip_by_global_norm(bound), adam)
    found = lo.audit(clipped, adam, names=("clipped", "adam"))
    assert found.departures == ("norm_clipping",)
    assert found.departure == (
        f"clipped clips the norm of each array of gradients at {bound:g}, adam does not"
    )


def test_where_nothing_is_finite_nothing_is_equal():
    """NaN in both agrees, but is no evidence."""
    found = lo.audit(stateless(lambda g: g * jnp.nan), stateless(lambda g: g + jnp.nan))
    assert not found.equal
    assert found.difference is None
    assert found.verdict == "Nothing to compare: no update of both is finite."
    assert {row[3] for row in found.table().rows} == {"nothing finite"}
    assert "no" not in {value for row in found.properties.rows for value in row[1:]}


def test_updates_without_value_in_both_are_said():
    """g / g has none at 0, where most traces end."""
    found = lo.audit(stateless(lambda g: -g / jnp.abs(g)), stateless(lambda g: -jnp.abs(g) / g))
    assert found.equal
    assert found.verdict.startswith(
        "Equal where finite: these updates agree to 1e\N{MINUS SIGN}09. "
    )
    assert "the first: updates without any gradient." in found.verdict
    rows = {row[0]: row[3] for row in found.table().rows}
    assert rows["first update at gradient 1"] == "equal"
    assert rows["updates without any gradient"] == "nothing finite"
    assert rows["one gradient and then none"] == "equal where finite"


def growing(start):
    """A rate that grows by a half from update to update, from a counter that begins as `start`."""
    return optax.GradientTransformation(
        lambda x: start, lambda g, count, x=None: (-g * (1 + count), count + 0.5)
    )


def test_a_counter_that_becomes_a_fraction_counts_on():
    """Its type after an update is not that of its start, and would cut off the half."""
    with jax.numpy_dtype_promotion("standard"):
        found = lo.audit(
            growing(jnp.int32(0)), lambda g: [-u * (1 + k / 2) for k, u in enumerate(g)]
        )
    assert found.equal


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (3, "`first` must be an optimizer, an optax transformation, a function of the gradient "),
        (optax.adam, "`first` must give an update for a gradient"),
        (lambda gradients: [0.0], "1 updates for 32 gradients"),
        (lambda gradients: 1 / 0, "a ZeroDivisionError: division by zero"),
        (stateless(lambda g: -0.1 * g + 0.1j), "`first` must give an update .* complex updates"),
        (stateless(lambda g: jnp.zeros(7)), r"`first` must give .* shape \(7,\) for .* of \(1,\)"),
        ((lambda x: 0, lambda g, s, x: (-0.1 * g + 1j, s)), "`first` must give .* complex updates"),
    ],
)
def test_what_is_no_optimizer_is_refused(as_user, first, said):
    with pytest.raises(ValueError, match=said):
        lo.audit(first, lo.Adam(0.1))
    with pytest.raises(ValueError, match="`tolerance` must be a finite number above 0, got 0"):
        lo.audit(lo.Adam(0.1), lo.Adam(0.1), tolerance=0)


MODULE = """
import optax

def formula(gradients):
    return [-0.1 * g for g in gradients]

def factory(learning_rate, sign=1.0):
    return optax.chain(optax.sgd(learning_rate), optax.scale(sign))

pair = (lambda x: 0, lambda g, state, x: (-0.1 * g, state))
"""
BOX = """
from lrevopt.optimizers.white_box_documents import distilled_box

box = distilled_box("rosenbrock")
"""


def test_the_command_names_both_and_says_by_its_exit_code(tmp_path, monkeypatch, capsys):
    (tmp_path / "audited.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rate = ["--learning-rate", "0.1"]
    assert main(["audit", "optax:sgd", "--against", "audited:formula", *rate]) == 0
    assert main(["audit", "audited:factory", "--against", "audited:pair", *rate]) == 0
    wrong = ["--kwargs", "sign=-1", "--output", "audit.html"]
    assert main(["audit", "audited:factory", "--against", "audited:pair", *rate, *wrong]) == 1
    assert "audited:pair has the other sign than audited:factory" in capsys.readouterr().out
    assert "<table>" in (tmp_path / "audit.html").read_text()
    assert main(["audit", "audited:factory", "--against", "audited:pair", *rate, *wrong]) == 1
    storage.save_json(tmp_path / "box.json", document_of(distilled_box("rosenbrock")))
    (tmp_path / "audited_box.py").write_text(BOX)
    assert main(["audit", "box.json", "--against", "audited_box:box"]) == 0
    with pytest.raises(SystemExit) as stop:
        main(["audit", "audited:nothing", "--against", "optax:sgd"])
    assert stop.value.code == 2


def still_at_zero(gradients):
    """Gradient descent that also moves at a zero gradient, from update 101 on."""
    return [-0.1 * g - 1e-3 * (k > 100 and g == 0) for k, g in enumerate(gradients, 1)]


def lazy_adam(gradients, rate=0.01, b1=0.9, b2=0.999, epsilon=1e-8):
    """Adam whose moments, counter and updates rest where the gradient is 0."""
    m = v = k = 0
    for g in gradients:
        if g == 0:
            yield 0.0
            continue
        m, v, k = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2, k + 1
        yield -rate * m / (1 - b1**k) / ((v / (1 - b2**k)) ** 0.5 + epsilon)


@pytest.mark.long
@pytest.mark.parametrize(
    ("first", "second"),
    [(lambda gradients: [-0.1 * g for g in gradients], still_at_zero), (ADAM, lazy_adam)],
)
def test_what_no_schedule_does_is_not_explained_by_one(first, second):
    """Both equal the other on random gradients; one factor a step must hold in all experiments."""
    found = lo.audit(first, second)
    assert not found.equal
    assert not any("schedule" in name for name in found.departures)


def test_a_late_step_of_a_schedule_is_said_with_its_update():
    def dropped(gradients):
        return [-(0.1 if k <= 500 else 0.05) * g for k, g in enumerate(gradients, 1)]

    found = lo.audit(lambda gradients: [-0.1 * g for g in gradients], dropped)
    assert found.departures == ("schedule",)
    assert "1 up to update 500, then 0.5, 0.5" in found.verdict
