"""Audits: departures planted in formulas are found and named by behaviour alone."""

import pytest
from by_hand import adam, lion, momentum, nadam, rmsprop, rprop
from tables import mostly_long

import lrevopt as lo


def listed(rule, **options):
    """A rule with options, as a function of gradients alone."""
    return lambda gradients: list(rule(gradients, **options))


ADAM, HEAVY = listed(adam), listed(momentum)
PLANTED = {
    "epsilon inside": (ADAM, listed(adam, epsilon="inside"), ["epsilon_inside"]),
    "epsilon outside": (listed(rmsprop), listed(rmsprop, inside=False), ["epsilon_outside"]),
    "epsilon before correction": (ADAM, listed(adam, epsilon="before"),
                                  ["epsilon_before_correction"]),
    "epsilon subtracted": (listed(adam, eps=3e-7), listed(adam, eps=3e-7, epsilon="minus"),
                           ["epsilon_subtracted"]),
    "no correction": (ADAM, listed(adam, first="none", second="none"), ["no_correction"]),
    "no correction of the first": (ADAM, listed(adam, first="none"), ["no_first_correction"]),
    "no correction of the second": (ADAM, listed(adam, second="none"), ["no_second_correction"]),
    "correction ahead": (ADAM, listed(adam, first="ahead", second="ahead"), ["counter_ahead"]),
    "correction of the first ahead": (ADAM, listed(adam, first="ahead"),
                                      ["first_correction_ahead"]),
    "moment before its update": (ADAM, listed(adam, moment="old"), ["first_moment_before_update"]),
    "square before its update": (listed(adam, eps=1e-3), listed(adam, square="old", eps=1e-3),
                                 ["second_moment_before_update"]),
    "Nesterov": (HEAVY, listed(momentum, form="nesterov"), ["nesterov"]),
    "heavy ball": (listed(momentum, form="nesterov"), HEAVY, ["no_nesterov"]),
    "Nadam": (ADAM, listed(nadam), ["nesterov"]),
    "dampened": (HEAVY, listed(momentum, share=0.3), ["factor"]),
    "centred": (listed(rmsprop), listed(rmsprop, centred=True), ["centred"]),
    "no root": (ADAM, listed(adam, epsilon="no root"), ["no_root"]),
    "amsgrad": (listed(adam, amsgrad="after"), listed(adam, amsgrad="before"),
                ["amsgrad_before_correction"]),
    "amsgrad missing": (listed(adam, amsgrad="after"), ADAM, ["no_amsgrad"]),
    "b1 and b2": (listed(adam, b1=0.9, b2=0.99), listed(adam, b1=0.99, b2=0.9),
                  ["b1_and_b2_exchanged"]),
    "b2": (ADAM, listed(adam, b2=0.99), ["numbers"]),
    "two at once": (ADAM, listed(adam, epsilon="inside", second="none"),
                    ["epsilon_inside", "no_second_correction"]),
    "Lion": (listed(lion), listed(lion, updated_first=True), ["lion_updated_first"]),
    "Lion exchanged": (listed(lion), listed(lion, b1=0.99, b2=0.9), ["b1_and_b2_exchanged"]),
    "Rprop late": (listed(rprop), listed(rprop, turn="late"), ["rprop_late"]),
    "Rprop moves": (listed(rprop), listed(rprop, turn="moves"), ["rprop_moves_at_turns"]),
    "Rprop remembers": (listed(rprop), listed(rprop, turn="remembers"), ["rprop_remembers_turns"]),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    mostly_long(PLANTED, "epsilon inside", "no correction", "Nesterov", "b2", "two at once"),
)
def test_a_planted_departure_is_flagged_and_named(name):
    first, second, expected = PLANTED[name]
    found = lo.audit(first, second)
    assert not found.equal
    assert list(found.departures) == expected
