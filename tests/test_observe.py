"""Observed optimizers: the same updates, closed forms of every number, thresholds of stability."""

import functools
import html
import json
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import vl_convert
from tables import mostly_long

import lrevopt as lo
from lrevopt.plots.explore import observed
from lrevopt.studies.observation import Observation


@pytest.fixture(autouse=True)
def as_optax_needs_it():
    """Optax itself mixes integers and floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


CURVATURES = jnp.array([1.0, 10.0, 40.0])


def quadratic(x):
    return 0.5 * jnp.sum(CURVATURES * x**2)


def train(optimizer, loss, params, steps, **options):
    """Losses, parameters and state of an observed run, all in one program."""
    watched = lo.observe(optimizer, **options)
    extra = {"loss": loss} if options.get("sharpness") else {}

    def body(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = watched.update(gradients, state, params, **extra)
        return (optax.apply_updates(params, updates), state), value

    start = (params, watched.init(params))
    run = jax.jit(lambda start: jax.lax.scan(body, start, None, length=steps))
    (params, state), losses = run(start)
    return np.asarray(losses), params, state


@pytest.mark.parametrize("shape", [(8192, 64), (64, 8192), (3, 2**16), (2**18,)])
def test_the_sample_of_a_large_array_prefers_no_row_or_column(shape):
    """RMSProp's rate differs from column to column and from row to row."""
    rows = 10.0 ** jnp.linspace(-1, 1, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    columns = 10.0 ** jnp.linspace(-1, 1, shape[-1])
    gradient = jnp.ones(shape) * (rows if len(shape) == 1 else rows * columns)
    optimizer = optax.scale_by_rms(initial_scale=1.0)
    watched = lo.observe(optimizer)
    update = jax.jit(watched.update)
    _, state = update(gradient, watched.init(gradient), gradient)
    before = state.inner
    _, state = update(gradient, state, gradient)
    found = lo.observation(state)

    slopes = jax.jvp(
        lambda g: optimizer.update(g, before)[0], (jnp.zeros(shape),), (jnp.ones(shape),)
    )[1]
    rate = -jnp.sum(gradient**2 * slopes) / jnp.sum(gradient**2)
    updates, _ = optimizer.update(gradient, before)
    np.testing.assert_allclose(found.rates[-1, 0], rate, rtol=0.02)
    ratio = jnp.linalg.norm(updates) / jnp.linalg.norm(gradient)
    np.testing.assert_allclose(found.ratios[-1, 0], ratio, rtol=0.02)


RATE, BETA = 0.01, 0.9
CLOSED = {
    "gradient descent": (optax.sgd(RATE), RATE, 0.0, 2 / RATE),
    "momentum": (optax.sgd(RATE, BETA), RATE, BETA, 2 * (1 + BETA) / RATE),
    "Nesterov": (
        optax.sgd(RATE, BETA, nesterov=True), RATE * (1 + BETA), BETA,
        2 * (1 + BETA) / (RATE * (1 + 2 * BETA)),
    ),
    "an average": (
        optax.chain(optax.ema(BETA, debias=False), optax.scale(-RATE)), RATE * (1 - BETA), BETA,
        2 * (1 + BETA) / (RATE * (1 - BETA)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_long(CLOSED, "momentum", "Nesterov"))
def test_rate_memory_and_stable_curvature_are_those_of_the_formula(name):
    optimizer, rate, memory, stable = CLOSED[name]
    losses, _, state = train(optimizer, quadratic, jnp.ones(3), 40, every=4, sharpness=True)
    found = lo.observation(state)
    np.testing.assert_array_equal(found.steps, np.arange(0, 40, 4))
    np.testing.assert_allclose(found.rates, rate, rtol=1e-12)
    np.testing.assert_allclose(found.memories, memory, rtol=1e-12)
    np.testing.assert_allclose(found.stable, stable, rtol=1e-12)
    np.testing.assert_allclose(found.top_stable, stable, rtol=1e-12)
    np.testing.assert_allclose(found.losses, losses[::4], rtol=1e-12)
    np.testing.assert_allclose(found.top_sharpness[-1], 40, rtol=1e-6)
    timescale = -1 / np.log(memory) if memory else 0.0
    np.testing.assert_allclose(found.timescales, timescale, rtol=1e-12)
    assert (found.saturated == 0).all()
    assert (found.known == 1).all()
    # The stable curvature is where runs on a quadratic begin to grow, within 5 %.
    for factor, grows in ((0.95, False), (1.05, True)):
        alone = functools.partial(lambda c, x: 0.5 * c * jnp.sum(x**2), factor * stable)
        values = train(optimizer, alone, jnp.ones(1), 2000)[0]
        assert (not values[-1] <= values[0]) == grows  # inf - inf is NaN


def test_ratio_and_sharpness_along_the_update():
    """Of gradient descent on a quadratic: u = -rate H x."""
    optimizer = optax.sgd(RATE)
    state = lo.observe(optimizer, sharpness=True).init(jnp.ones(3))
    gradients = jax.grad(quadratic)(jnp.ones(3))
    watched = lo.observe(optimizer, sharpness=True)
    _, state = watched.update(gradients, state, jnp.ones(3), loss=quadratic)
    found = lo.observation(state)
    g = np.asarray(gradients)
    np.testing.assert_allclose(found.ratios, RATE * np.linalg.norm(g) / np.sqrt(3))
    np.testing.assert_allclose(found.sharpness, (g**2 @ CURVATURES) / (g @ g))


@pytest.mark.parametrize(("rate", "crossed"), [(1.0, [0]), (0.5, [])])
def test_no_crossing_is_made_up_where_older_records_were_overwritten(rate, crossed):
    """Of curvature 3 a rate of 1 is beyond the edge in every update, 0.5 in none."""

    def loss(x):
        return 1.5 * jnp.sum(x**2)

    few, all_of_them = (
        lo.observation(
            train(optax.sgd(rate), loss, jnp.ones(1), 12, length=length, sharpness=True)[2]
        )
        for length in (5, 100)
    )
    assert [int(all_of_them.steps[k]) for k in all_of_them.crossed] == crossed
    assert few.steps.tolist() == [7, 8, 9, 10, 11]
    assert few.crossed == ()
    assert "5 records; older ones were overwritten." in str(few)
    assert "12 records." in str(all_of_them)


def test_a_ratio_without_parameters_does_not_exist_and_that_of_no_update_is_zero():
    """Also in the table, the figure and the page; NaN checks stay quiet while it is recorded."""
    params = {"start": jnp.zeros(3), "still": jnp.ones(2), "moved": 2 * jnp.ones(2)}
    gradients = {"start": jnp.ones(3), "still": jnp.zeros(2), "moved": jnp.ones(2)}
    watched = lo.observe(optax.sgd(0.1))
    with jax.debug_nans(True):
        _, state = watched.update(gradients, watched.init(params), params)
        _, alone = watched.update(gradients, watched.init(params))
    found, without = lo.observation(state), lo.observation(alone)
    assert found.groups == ("moved", "start", "still")
    np.testing.assert_allclose(found.ratios, [[0.05, np.nan, 0.0]], rtol=1e-12)
    np.testing.assert_array_equal(without.ratios, [[np.nan] * 3])
    np.testing.assert_allclose(without.rates, 0.1, rtol=1e-12)
    assert [row[2] for row in found.table().rows] == ["0.05", "not available", "0"]
    for record in (found, without):
        figure = lo.plot.observation(record)
        figure.canvas.draw()
        drawn = [np.asarray(line.get_ydata(), float) for line in figure.axes[1].lines]
        np.testing.assert_array_equal(np.concatenate(drawn), record.ratios[0])
        body = lo.observation_page(record).html.split('id="specifications">')[1]
        content = json.loads(body.split("</script>")[0], parse_constant=pytest.fail)
        vl_convert.vegalite_to_vega(content["charts"]["ratios"])


def test_adam_has_the_response_of_its_formula():
    """At zero gradient b2 v stands below, b1 and b2 give the memory b1 / sqrt(b2)."""
    b1, b2, eps = 0.9, 0.99, 1e-8
    optimizer = optax.adam(RATE, b1, b2, eps)
    state = optimizer.init(jnp.ones(3))
    random = np.random.default_rng(0)
    for _ in range(2000):
        _, state = optimizer.update(jnp.asarray(random.normal(size=3)), state)
    gradients = jnp.array([0.3, -0.2, 0.1])
    watched = lo.observe(optimizer)
    started = eqx.tree_at(lambda s: s.inner, watched.init(jnp.ones(3)), state)
    _, after = watched.update(gradients, started, jnp.ones(3))
    found = lo.observation(after)
    responses = RATE * (1 - b1) / (np.sqrt(b2 * np.asarray(state[0].nu)) + eps)
    g = np.asarray(gradients)
    np.testing.assert_allclose(found.rates[0, 0], responses @ g**2 / (g @ g), rtol=1e-6)
    np.testing.assert_allclose(found.memories[0, 0], b1 / np.sqrt(b2), rtol=1e-6)


def test_saturated_entries_are_those_beyond_the_clip():
    optimizer = optax.chain(optax.clip(1.0), optax.sgd(RATE))
    watched = lo.observe(optimizer)
    gradients = jnp.array([0.5, 2.0, -3.0, 0.9, -0.1])
    _, state = watched.update(gradients, watched.init(gradients), gradients)
    found = lo.observation(state)
    np.testing.assert_allclose(found.saturated, 2 / 5)
    np.testing.assert_allclose(found.rates, RATE, rtol=1e-12)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.01), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01)),
        optax.lamb(0.01), optax.adafactor(0.01), lo.to_optax(lo.Momentum(0.01, 0.9)),
        optax.MultiSteps(optax.adam(0.01), 2).gradient_transformation(),
        optax.masked(optax.sgd(0.1), {"a": True, "b": False}),
    ],
)  # fmt: skip
def test_updates_are_those_of_the_optimizer_to_the_last_bit(optimizer):
    params = {"a": jnp.linspace(0.1, 1.0, 6).reshape(2, 3), "b": jnp.ones(4)}
    watched = lo.observe(optimizer, every=2)
    plain, state = jax.jit(optimizer.update), optimizer.init(params)
    seen, own = jax.jit(watched.update), watched.init(params)
    for k in range(5):
        gradients = jax.tree.map(lambda leaf, k=k: jnp.sin(leaf + k), params)
        updates, state = plain(gradients, state, params)
        others, own = seen(gradients, own, params)
        jax.tree.map(np.testing.assert_array_equal, updates, others)
        jax.tree.map(np.testing.assert_array_equal, state, own.inner)
    found = lo.observation(own)
    assert found.groups == ("a", "b")
    assert len(found.steps) == 3
    assert not found.watched
    assert np.isnan(found.sharpness).all()


def test_groups_are_named_by_paths_and_add_up():
    params = {"head": {"w": jnp.ones(3)}, "body": {"w": jnp.ones(2), "b": jnp.ones(1)}}
    optimizer = optax.multi_transform(
        {"fast": optax.sgd(0.1), "slow": optax.sgd(0.01, 0.5)},
        {"head": {"w": "fast"}, "body": {"w": "slow", "b": "slow"}},
    )
    watched = lo.observe(optimizer, groups=lambda path: path.split(".")[0])
    _, state = watched.update(params, watched.init(params), params)
    found = lo.observation(state)
    assert set(found.groups) == {"head", "body"}
    by_name = dict(zip(found.groups, found.rates[0], strict=True))
    assert by_name["head"] == pytest.approx(0.1)
    assert by_name["body"] == pytest.approx(0.01)
    memories = dict(zip(found.groups, found.memories[0], strict=True))
    assert memories == {"head": 0.0, "body": pytest.approx(0.5)}


def test_the_last_records_are_kept_in_order():
    _, _, state = train(optax.sgd(RATE), quadratic, jnp.ones(3), 25, length=4, every=3)
    found = lo.observation((state, "beside it"))
    np.testing.assert_array_equal(found.steps, [15, 18, 21, 24])
    assert str(found).startswith("Observed optimizer, after 24 updates")
    assert "parameters" in str(found)
    empty = lo.observation(lo.observe(optax.sgd(RATE)).init(jnp.ones(2)))
    assert "no record yet" in str(empty)


def test_none_leaves_half_precision_and_nan_checks():
    """Of an Equinox model; and no NaN is made that was not there (entries without gradient)."""
    model = eqx.filter(eqx.nn.MLP(2, 1, 4, 1, key=jr.key(0)), eqx.is_inexact_array)
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    gradients = jax.tree.map(jnp.zeros_like, model)
    watched = lo.observe(optax.adam(1e-3))
    with jax.debug_nans(False):
        updates, state = jax.jit(watched.update)(gradients, watched.init(model), model)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    found = lo.observation(state)
    assert found.groups[0] == "layers.0.weight"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.records))
    assert np.isnan(found.rates).all(), "where no gradient has been, Adam has no response"


def test_bad_arguments_are_refused(as_user):
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1, got 0"):
        lo.observe(optax.sgd(0.1), every=0)
    watched = lo.observe(optax.sgd(0.1), sharpness=True)
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="`loss` must be given to `update` where sharpness=True"):
        watched.update(x, watched.init(x), x)
    with pytest.raises(ValueError, match="`params` must be given"):
        watched.update(x, watched.init(x), loss=jnp.sum)
    with pytest.raises(ValueError, match=re.escape("`lo.observe` wraps, got 0 of them")):
        lo.observation(optax.sgd(0.1).init(x))


# The edge of stability


def test_a_planted_instability_is_announced_before_the_loss_rises():
    """The rate jumps beyond 2 / 40: the stiff direction then grows from next to nothing."""
    said: list[str] = []
    schedule = optax.piecewise_constant_schedule(0.04, {60: 1.5})
    losses, _, state = train(
        optax.sgd(schedule), quadratic, jnp.ones(3), 400, every=5, sharpness=True,
        announce=said.append,
    )  # fmt: skip
    jax.effects_barrier()
    found = lo.observation(state)
    rises = 60 + int(np.argmax(np.diff(losses[60:]) > 0))
    assert losses[-1] > 1e3 * losses.min()
    (record,) = found.crossed
    assert found.steps[record] == 60
    assert found.steps[record] < rises - 20
    assert said == list(found.sentences) == [
        "In update 61 the sharpness 40 exceeds 33.33, up to which the optimizer is stable: the "
        "edge of stability is crossed."
    ]  # fmt: skip
    assert " ".join(str(found).split()).endswith(said[0])


INPUTS = jnp.linspace(-1, 1, 20)[:, None]


def network(params):
    hidden = jnp.tanh(INPUTS @ params["a"] + params["b"])
    return jnp.mean((hidden @ params["c"] - jnp.sin(4 * INPUTS)) ** 2)


def start(width=24):
    a, b, c = jr.split(jr.key(0), 3)
    return {
        "a": 2 * jr.normal(a, (1, width)), "b": jr.normal(b, (width,)),
        "c": 0.5 * jr.normal(c, (width, 1)) / jnp.sqrt(width),
    }  # fmt: skip


NETWORKS = {
    "gradient descent": (optax.sgd(0.15), 2 / 0.15),
    "momentum": (optax.sgd(0.27, 0.9), 2 * 1.9 / 0.27),
    "Adam": (optax.adam(0.01), None),
}


@pytest.mark.parametrize("name", mostly_long(NETWORKS, "gradient descent"))
def test_a_small_network_trains_at_the_edge_of_stability(name):
    """The sharpness stays at 2 / rate, 2 (1 + beta) / rate, or Adam's preconditioned threshold."""
    optimizer, threshold = NETWORKS[name]
    losses, _, state = train(optimizer, network, start(), 5000, every=10, sharpness=True)
    found = lo.observation(state)
    assert losses[-1] < 0.01 * losses[0]
    ratio = (found.top_sharpness / found.top_stable)[-200:]
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    if threshold is not None:
        assert np.median(found.top_sharpness[-200:]) == pytest.approx(threshold, rel=0.05)


def test_the_figure_has_a_curve_for_every_group_and_the_crossing():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    schedule = optax.piecewise_constant_schedule(0.04, {60: 1.5})

    def loss(params):
        return quadratic(params["a"]) + jnp.sum(params["b"] ** 2)

    _, _, state = train(optax.sgd(schedule), loss, params, 90, every=5, sharpness=True)
    figure = lo.plot.observation(state)
    rates, _, _, _, losses, edge = figure.axes
    curves = {line.get_label(): line.get_ydata() for line in rates.lines}
    found = lo.observation(state)
    assert curves.keys() == {"a", "b"}
    np.testing.assert_array_equal(curves["b"], found.rates[:, 1])
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), found.losses)
    np.testing.assert_allclose(
        np.asarray(edge.lines[1].get_ydata(), float), found.top_sharpness / found.top_stable
    )
    np.testing.assert_array_equal(np.asarray(edge.lines[-1].get_xdata()), [60, 60])
    with pytest.raises(ValueError, match="`record` must hold at least one record, got none"):
        lo.plot.observation(lo.observe(optax.sgd(0.1)).init(params))
    page = lo.observation_page(state, "<one> & two").html
    assert "<h1>&lt;one&gt; &amp; two</h1>" in page
    assert html.escape(found.sentences[0]) in page
    body = page.split('id="specifications">')[1].split("</script>")[0]
    content = json.loads(body)
    assert content["groups"] == ["a", "b"]
    for chart in content["charts"].values():
        vl_convert.vegalite_to_vega(chart)
    rows = next(iter(content["charts"]["rates"]["datasets"].values()), None) or content["charts"][
        "rates"]["data"]["values"]  # fmt: skip
    shown = [row["value"] for row in rows if row["group"] == "b"]
    np.testing.assert_allclose(shown, found.rates[:, 1], rtol=5e-5)


def test_more_groups_than_colours_are_told_apart_by_dashes():
    """Twelve groups have eight colours, and so do up to 24."""

    def looks(count):
        names, empty = tuple(f"w{k:02d}" for k in range(count)), np.ones(2)
        one: Any = dict.fromkeys(("rates", "ratios", "memories", "saturated", "known"),
                                 np.ones((2, count)))  # fmt: skip
        one |= dict.fromkeys(("losses", "sharpness", "stable", "top_sharpness", "top_stable"),
                             empty)  # fmt: skip
        record = Observation(steps=np.arange(2), groups=names, watched=False, **one)
        encoding = observed._groups(record, "rates")["encoding"]
        scales = [encoding[name]["scale"] for name in ("color", "strokeDash") if name in encoding]
        assert all(scale["domain"] == list(names) for scale in scales)
        return list(zip(*(map(str, scale["range"]) for scale in scales), strict=True))

    assert len(set(looks(8))) == 8
    assert len(set(looks(12))) == 12
    assert len(set(looks(24))) == 24


SIZES = {"float16": (0.0, 1e-5, 300.0), "bfloat16": (0.0, 1e-30, 1.0, 1e30),
         "float32": (0.0, 1e-30, 1.0, 1e30), "float64": (0.0, 1e-200, 1.0, 1e200)}  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "size"), [(dtype, size) for dtype, sizes in SIZES.items() for size in sizes]
)
def test_rates_do_not_depend_on_how_large_gradients_are(dtype, size):
    """Squares of gradients are weights only: of 0 they say nothing, and may exceed their dtype."""
    gradient = jnp.asarray(size * np.array([1.0, -0.5, 0.25]), dtype)
    watched = lo.observe(optax.sgd(0.125, momentum=0.5))  # exact in every dtype
    params = jnp.ones(3, dtype)
    update, state = watched.update(gradient, watched.init(params), params)
    found = lo.observation(state)
    np.testing.assert_allclose(found.rates, 0.125, rtol=1e-12)
    np.testing.assert_allclose(found.memories, 0.5, rtol=1e-12)
    if 1e-100 < size < 1e100:
        moved = np.asarray(update, float)
        np.testing.assert_allclose(found.ratios[0, 0], np.sqrt((moved**2).mean()), rtol=1e-6)


@pytest.mark.parametrize("dtypes", [("float16", "float16"), ("bfloat16", "float32"),
                                    ("float32", "bfloat16")])  # fmt: skip
def test_sharpness_in_half_precision(dtypes):
    """Updates of 1e-6, whose squares half precision cannot hold; curvature 2 everywhere."""
    params = jnp.ones(4, dtypes[0])
    watched = lo.observe(optax.sgd(0.1), sharpness=True)
    state = watched.init(params)
    for _ in range(2):
        gradient = jnp.full(4, 1e-5, dtypes[1])
        _, state = watched.update(gradient, state, params, loss=lambda x: jnp.sum(x**2))
    found = lo.observation(state)
    np.testing.assert_allclose(found.sharpness, 2.0, rtol=1e-2)
    np.testing.assert_allclose(found.top_sharpness, 2.0, rtol=1e-2)
    np.testing.assert_allclose(found.stable, 20.0, rtol=1e-2)


def test_parameters_without_a_gradient_are_left_out():
    """Gradients as `eqx.filter_grad` gives them, and the whole module as parameters."""
    params = {"a": jnp.arange(4), "f": jax.nn.relu, "w": 100 * jnp.ones(5), "z": jnp.ones(())}
    gradients = {"a": None, "f": None, "w": jnp.ones(5), "z": jnp.ones(())}

    def loss(tree):
        return jnp.sum(tree["f"](tree["w"]) ** 2) + tree["z"] ** 2

    watched = lo.observe(optax.sgd(0.1), sharpness=True)
    state = watched.init(eqx.filter(params, eqx.is_array))
    for _ in range(2):
        _, state = watched.update(gradients, state, params, loss=loss)
    found = lo.observation(state)
    known = dict(zip(found.groups, found.ratios[-1], strict=True))
    np.testing.assert_allclose([known["w"], known["z"]], [1e-3, 0.1])
    np.testing.assert_allclose(found.top_sharpness, 2.0)


def test_numbers_and_trees_without_arrays():
    watched = lo.observe(optax.sgd(0.1))
    _, state = watched.update({"w": 2.0}, watched.init({"w": 1.0}), {"w": 1.0})
    np.testing.assert_allclose(lo.observation(state).rates, 0.1)
    _, state = watched.update({}, watched.init({}), {})
    assert lo.observation(state).groups == ()


def test_mapped_states_and_what_is_no_transformation_are_refused(as_user):
    watched = lo.observe(optax.sgd(0.1))
    mapped = jax.vmap(watched.init)(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"mapped over axes \(2,\): take one"):
        lo.observation(mapped)
    with pytest.raises(ValueError, match="`transformation` must be .* got sgd: call it"):
        lo.observe(optax.sgd)
    with pytest.raises(ValueError, match="`groups` must be a function"):
        lo.observe(optax.sgd(0.1), groups="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"announce": print}, "`announce` must be None without sharpness=True, for .* print"),
        (
            {"announce": "print", "sharpness": True},
            "`announce` must be a function of one",
        ),
        ({"announce": "print"}, "`announce` must be a function of one sentence or None, got 'pri"),
        ({"sharpness": "yes"}, "`sharpness` must be True or False, got 'yes'"),
    ],
)
def test_announcements_that_would_never_come_are_refused(options, said, as_user):
    with pytest.raises(ValueError, match=said) as refused:
        lo.observe(optax.sgd(0.1), **options)
    assert "\n" not in str(refused.value)
