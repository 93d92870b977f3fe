"""Audits of torch.optim: sound pairs are not flagged, and where libraries differ it is said how.

Skipped without torch, which is no dependency of the package.
"""

import functools

import optax
import pytest

import lrevopt as lo

torch = pytest.importorskip("torch")


def of_torch(make):
    """An optimizer of torch as a pair of plain functions."""

    def init(parameters):
        held = torch.nn.Parameter(torch.tensor(parameters, dtype=torch.float64))
        return held, make([held])

    def update(gradients, state, parameters):
        held, optimizer = state
        with torch.no_grad():
            held.copy_(torch.tensor(parameters))
        held.grad = torch.tensor(gradients)
        optimizer.step()
        return held.detach().numpy() - parameters, state

    return init, update


def pair(name, ours, **options):
    make = functools.partial(getattr(torch.optim, name), foreach=False, **options)
    return of_torch(make), ours


SOUND = {
    "SGD": pair("SGD", optax.sgd(0.1), lr=0.1),
    "momentum": pair("SGD", lo.Momentum(0.1, 0.9), lr=0.1, momentum=0.9),
    "Nesterov": pair("SGD", optax.sgd(0.1, 0.9, nesterov=True), lr=0.1, momentum=0.9,
                     nesterov=True),
    "SGD with decay": pair("SGD", optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
                           lr=0.1, weight_decay=0.1),
    "Adam": pair("Adam", optax.adam(0.01), lr=0.01),
    "Adam of ours": pair("Adam", lo.Adam(0.01), lr=0.01),
    "Adam with coupled decay": pair(
        "Adam", optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01)), lr=0.01,
        weight_decay=0.1),
    "AdamW": pair("AdamW", optax.adamw(0.01, weight_decay=0.1), lr=0.01, weight_decay=0.1),
    "AdaMax": pair("Adamax", optax.adamax(0.01), lr=0.01),
    "Adagrad": pair("Adagrad", optax.adagrad(0.1, 0.1, 0.0), lr=0.1,
                    initial_accumulator_value=0.1, eps=0.0),
    "Adadelta": pair("Adadelta", optax.adadelta(1.0), lr=1.0),
    "RMSProp": pair("RMSprop", optax.rmsprop(0.01, 0.9, eps_in_sqrt=False), lr=0.01, alpha=0.9),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_pair_is_equal(name):
    found = lo.audit(*SOUND[name])
    assert found.equal, found.verdict


DIFFERENT = {
    "RMSProp": (pair("RMSprop", optax.rmsprop(0.01, 0.99), lr=0.01), ["epsilon_outside"]),
    "AMSGrad": (pair("Adam", optax.amsgrad(0.01), lr=0.01, amsgrad=True),
                ["amsgrad_before_correction"]),
    "Rprop": (pair("Rprop", optax.rprop(0.01), lr=0.01), ["rprop_late"]),
    "AdamW's decay": (pair("Adam", optax.adamw(0.01, weight_decay=0.1), lr=0.01, weight_decay=0.1),
                      ["decoupled_decay"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_libraries_differ_the_departure_is_named(name):
    pair_of, expected = DIFFERENT[name]
    first, second = pair_of
    found = lo.audit(second, first) if name in ("RMSProp", "AMSGrad") else lo.audit(first, second)
    assert list(found.departures) == expected
    assert not found.equal
