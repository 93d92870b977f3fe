"""Audits of optimizers of other libraries before and after a public fix of their update rule.

The rules are written here from the descriptions of the fixes, before and after; nothing is copied.
In each case the audit finds the mistake from updates alone and says what it was.
"""

import math

import pytest
from by_hand import adam, rprop
from tables import mostly_long

import lrevopt as lo


def paddle_nesterov(gradients, *, fixed):
    """A pair of brackets was missing: x - g rate + mu v rate."""
    velocity = 0.0
    for g in gradients:
        velocity = 0.9 * velocity + g
        yield -0.1 * (g + 0.9 * velocity) if fixed else -0.1 * g + 0.9 * velocity * 0.1


def mxnet_nadam(gradients, parameters, *, fixed):
    """`grad *= rescale + wd * weight` instead of `grad = grad * rescale + wd * weight`."""
    decay = 0.01
    seen = [
        g + decay * x if fixed else g * (1 + decay * x)
        for g, x in zip(gradients, parameters, strict=True)
    ]
    m = v = 0.0
    for k, g in enumerate(seen, 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        mean = 0.9 * m / (1 - 0.9 ** (k + 1)) + 0.1 * g / (1 - 0.9**k)
        yield -0.01 * mean / (math.sqrt(v / (1 - 0.999**k)) + 1e-8)


def nero(gradients, *, fixed):
    """`g / root + eps` instead of `g / (root + eps)`, of one weight."""
    v = 0.0
    for k, g in enumerate(gradients, 1):
        v = 0.999 * v + 0.001 * g * g
        root = math.sqrt(v / (1 - 0.999**k))
        if fixed:
            yield -0.01 * g / (root + 1e-8)
        else:
            yield -0.01 * ((g / root if root > 0 else 0.0) + 1e-8)


def ams_bound(gradients, *, fixed):
    """`sqrt(v + eps) + eps`, instead of `sqrt(v) + eps`."""
    m = v = 0.0
    for k, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        hat = v / (1 - 0.999**k)
        root = math.sqrt(hat) if fixed else math.sqrt(hat + 1e-8)
        yield -0.01 * m / (1 - 0.9**k) / (root + 1e-8)


def torchani_adamw(gradients, parameters, *, fixed):
    """Weights decayed after they had moved."""
    for u, x in zip(adam(gradients), parameters, strict=True):
        yield u - 0.01 * x if fixed else u - 0.01 * (x + u)


def nanochat_adamw(gradients, parameters, *, fixed):
    """Epsilon met a root whose bias was corrected later, through the step size."""
    moves = adam(gradients, epsilon="outside" if fixed else "before")
    for u, x in zip(moves, parameters, strict=True):
        yield u - 0.001 * x


def adam_with(**broken):
    """Adam, which departs as the arguments say before the fix."""
    eps = broken.pop("eps", 1e-8)

    def rule(gradients, *, fixed):
        return adam(gradients, eps=eps, **({} if fixed else broken))

    return rule


def amsgrad(gradients, *, fixed):
    return adam(gradients, amsgrad="before" if fixed else "after")


def optax_rprop(gradients, *, fixed):
    return rprop(gradients, turn="rests" if fixed else "late")


REPLAYS = {
    "google-deepmind/optax#1725": (optax_rprop, ["rprop_late"]),
    "google-deepmind/optax#1423": (amsgrad, ["amsgrad_before_correction"]),
    "pytorch/pytorch#22628": (adam_with(epsilon="before"), ["epsilon_before_correction"]),
    "karpathy/nanochat#304": (nanochat_adamw, ["epsilon_before_correction"]),
    "PaddlePaddle/Paddle#12231": (paddle_nesterov, ["nesterov_sign"]),
    "apache/mxnet#8925": (mxnet_nadam, ["decay_multiplies_gradient"]),
    "FluxML/Flux.jl#448": (adam_with(epsilon="inside"), ["epsilon_inside"]),
    "kozistr/pytorch_optimizer#397": (ams_bound, ["epsilon_twice"]),
    "kozistr/pytorch_optimizer#121": (nero, ["epsilon_beside_quotient"]),
    "karpathy/convnetjs#107": (
        adam_with(first="multiplied", second="multiplied"), ["correction_multiplied"],
    ),
    "tensorflow/tensorflow#61407": (adam_with(eps=3e-7, epsilon="minus"), ["epsilon_subtracted"]),
    "aiqm/torchani#261": (torchani_adamw, ["decay_after_update"]),
}  # fmt: skip


def made(rule, *, fixed):
    """A function of gradients, and of parameters where the rule has them."""
    if "parameters" in rule.__code__.co_varnames[: rule.__code__.co_argcount]:
        return lambda gradients, parameters: rule(gradients, parameters, fixed=fixed)
    return lambda gradients: rule(gradients, fixed=fixed)


@pytest.mark.parametrize(
    "case",
    mostly_long(
        REPLAYS, "google-deepmind/optax#1725", "pytorch/pytorch#22628", "PaddlePaddle/Paddle#12231"
    ),
)
def test_a_public_fix_is_found_from_updates_alone(case):
    rule, expected = REPLAYS[case]
    after, before = made(rule, fixed=True), made(rule, fixed=False)
    found = lo.audit(after, before, names=("after", "before"))
    assert not found.equal
    assert list(found.departures) == expected
    assert lo.audit(after, made(rule, fixed=True)).equal
