"""The paper's sentences in order, each with what decides it.

Thresholds were fixed before any run was measured with them. They stand as constants beside the
function that uses them; the words here are made from these constants.
"""

from lrevopt.paper.claims import adaptation, appendix_b, clipping, momentum, networks, performance
from lrevopt.paper.claims import schedules as schedule
from lrevopt.paper.claims.verdicts import Claim

L, R, M, N = "linear_regression", "rosenbrock", "two_moons", "mnist"


def _on(*tasks: str) -> dict[str, bool]:
    return dict.fromkeys(tasks, True)


WIDTH = (
    "Width, input scale and meta-training decide how far into its saturation the GRU works; the "
    "paper's values are not printed."
)
LENGTH = (
    "Ours was meta-trained for far fewer steps than the paper's 5,000, and optimizers of other "
    "seeds differ."
)
TRAINED = (
    "Ours was trained on runs of other length or with another estimator of the meta-gradient than "
    "the paper's (see the report), which rewards other behaviour."
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "performance",
        "The learned optimizer has the lowest meta-objective, on average.",
        "Figures 1, 17",
        _on(L, R, M, N),
        "meta-objective minus the best tuned baseline's, mean over test problems",
        "the 95 % bootstrap interval lies below 0",
        ("evaluation",),
        performance.performance,
        "The baselines' ranges and the length of meta-training are ours.",
    ),
    Claim(
        "late-momentum",
        "Momentum may still win late on linear regression.",
        "footnote 2",
        _on(L),
        "mean log10 of final loss over momentum's, paired",
        "the 95 % bootstrap interval lies above 0",
        ("evaluation",),
        performance.late_momentum,
        "An optimizer that is trained for longer, or in float32 reaches round-off first, has no "
        "late phase to lose.",
    ),
    Claim(
        "baseline-edge",
        "The best hyperparameters are not on an edge of the grid.",
        "D.3, Figures 18-21",
        _on(L, R, M, N),
        "grid steps from the best setting of any baseline to the nearest edge",
        "at least 1",
        ("tuning",),
        performance.baseline_edge,
        "Ranges that end at a natural limit, such as no momentum at all, cannot be widened.",
    ),
    Claim(
        "converge",
        "States converge: their total variance over test problems goes to zero.",
        "Figures 3a, 8",
        {L: True, R: True, M: True, N: False},
        "variance of states at the last step over its maximum",
        f"there: at most {momentum.VARIANCE_GONE}; absent: at least {momentum.VARIANCE_LEFT}",
        ("mechanisms",),
        momentum.converge,
        "Gradients that have not died out after 200 updates, noise, or several points of rest "
        "keep states apart.",
    ),
    Claim(
        "one-fixed-point",
        "Without gradient there is a single, global fixed point.",
        "Figures 3a, 8",
        _on(L, R, M),
        "distinct fixed points reached by a solver from 500 visited states",
        f"there: 1, reached by {100 * momentum.REACHED:.0f} % of searches; absent: any other "
        "number",
        ("mechanisms",),
        momentum.one_fixed_point,
        "A solver finds unstable points too, and points of a slow line can pass for several.",
    ),
    Claim(
        "linear-near-fixed-point",
        "Near the fixed point the optimizer is linear.",
        "section 5.1, C",
        _on(L, R, M),
        "relative error of the linearized step over the last quarter of test runs",
        f"there: at most {momentum.LINEAR}; absent: at least {momentum.NOT_LINEAR}",
        ("mechanisms",),
        momentum.linear_near_fixed_point,
        f"States may still be on their way after 150 updates. {WIDTH}",
    ),
    Claim(
        "momentum-offset",
        "Moving along the dominant mode shifts the update function up or down.",
        "Figures 3b, 8",
        _on(L, R, M),
        "rank correlation of the place on the dominant mode with the update at zero gradient",
        f"there: at most {momentum.MONOTONE}, and the slope changes by no more than "
        f"{100 * momentum.TILTED:.0f} %; absent: otherwise",
        ("mechanisms",),
        momentum.momentum_offset,
        f"Where states travel far, one mode does several things at once. {WIDTH}",
    ),
    Claim(
        "dominant-mode",
        "One or two eigenmodes carry the dynamics.",
        "Figures 3c, 8",
        _on(L, R, M),
        "share of the impulse response's energy in the best two modes",
        f"there: at least {momentum.CARRIED}; absent: at most {momentum.SPREAD_OUT}",
        ("mechanisms",),
        momentum.dominant_mode,
        "Conjugate pairs count as two modes; two oscillations are four.",
    ),
    Claim(
        "many-modes",
        "On MNIST momentum is spread over several modes.",
        "Figure 9",
        _on(N),
        "share of the impulse response's energy in the best two modes",
        f"there: at most {momentum.SPREAD_OUT}; absent: at least {momentum.CARRIED}",
        ("mechanisms",),
        momentum.many_modes,
        f"A narrower GRU has fewer modes. {LENGTH}",
    ),
    Claim(
        "saturation",
        "The update function saturates for large gradients; on linear regression less.",
        "Figures 4, 10",
        {R: True, L: False},
        "update at the 99.9 % gradient over its linear extrapolation",
        f"there: at most {clipping.SATURATED}; absent: at least {clipping.STRAIGHT}",
        ("mechanisms",),
        clipping.saturation,
        f"Starting gradients of linear regression are heavy-tailed. {WIDTH}",
    ),
    Claim(
        "saturation-follows-task",
        "The likelier large gradients are, the more clipping is used.",
        "section 5.2",
        _on(L, R, M, N),
        "rank correlation over tasks of the share beyond the knee with 1 - saturation",
        f"there: at least {clipping.FOLLOWS}; absent: at most {clipping.DOES_NOT:.0f}",
        ("mechanisms",),
        clipping.saturation_follows_task,
        "Four tasks have few ranks, and each has an input scale of its own here.",
        joint=True,
    ),
    Claim(
        "threshold-constant",
        "The saturating threshold is the same throughout state space.",
        "section 5.2",
        _on(R),
        "largest over smallest knee of the initial and of five visited states",
        f"there: at most {clipping.CONSTANT}; absent: at least {clipping.VARIES}",
        ("mechanisms",),
        clipping.threshold_constant,
        "A gate that adapts the learning rate moves the knee with it.",
    ),
    Claim(
        "affine-centre",
        "Update functions are always affine in the middle.",
        "footnote 3",
        _on(L, R, M, N),
        "R^2 of a line through the update function on the central 80 % of met gradients",
        f"there: at least {clipping.AFFINE}; absent: at most {clipping.BENT}",
        ("mechanisms",),
        clipping.affine_centre,
        f"Most gradients may already saturate the GRU. {WIDTH}",
    ),
    Claim(
        "backward-bend",
        "On MNIST the update function slopes backwards for large gradients.",
        "A.2, Figure 10",
        _on(N),
        "fall of the update from its extreme to the largest met gradient, lesser side",
        f"there: at least {clipping.BENDS}; absent: none",
        ("mechanisms",),
        clipping.backward_bend,
        f"The paper calls its use a mystery; nothing need call for it. {WIDTH}",
    ),
    Claim(
        "schedule",
        "Autonomous dynamics change the learning rate: warm-up, then decay.",
        "Figures 5, 11",
        {L: True, N: True, R: False, M: False},
        "largest learning rate along h' = F(h, 0) over that at the start",
        f"there: at least {schedule.WARM_UP}, and the last at most {schedule.DECAY} of the "
        "largest; absent: neither",
        ("mechanisms",),
        schedule.schedule,
        f"A trained initial state is free to lie away from the fixed point on any task. {TRAINED}",
    ),
    Claim(
        "schedule-orthogonal",
        "The autonomous path does not move parameters.",
        "footnote 5",
        _on(L, N),
        "mean |w . h'| along the autonomous path over the typical update of test runs",
        f"there: at most {schedule.STILL}; absent: at least {schedule.MOVES}",
        ("mechanisms",),
        schedule.schedule_orthogonal,
        "Nothing but the meta-objective keeps the readout of a state at rest at zero.",
    ),
    Claim(
        "s-curve",
        "Each held gradient has one attracting fixed point, on an S-curve.",
        "Figures 6a, 12",
        _on(L, R, M),
        "share of held gradients with exactly one fixed point, converged and attracting",
        f"there: at least {adaptation.ALL_POINTS}, and no point off its neighbours' middle by more "
        f"than {100 * adaptation.SMOOTH:.0f} % of the length; absent: at most "
        f"{adaptation.MANY_POINTS}, or "
        f"{100 * adaptation.ROUGH:.0f} %",
        ("mechanisms",),
        adaptation.s_curve,
        "A saturated GRU creeps: the largest gradients have no point that a search reaches, or "
        "several.",
    ),
    Claim(
        "rate-falls",
        "The learning rate falls along both arms, symmetrically.",
        "Figures 6c, 12",
        _on(L, R, M),
        "learning rate at the largest held gradient over that at zero, larger of both arms",
        f"there: at most {adaptation.FALLS}, and arms differ by no more than {adaptation.ALIKE}; "
        f"absent: at least {adaptation.RISES:.0f}, or by {adaptation.UNLIKE}",
        ("mechanisms",),
        adaptation.rate_falls,
        f"Nothing makes a GRU odd in its input but training on gradients of both signs. {LENGTH}",
    ),
    Claim(
        "rate-floor",
        "The smallest learning rate matches that of tuned momentum.",
        "A.4, Figure 12",
        _on(L, R, M),
        "least learning rate under held gradients over that of tuned momentum",
        f"there: within a factor of {adaptation.MATCHES:.0f}; absent: beyond {adaptation.FAR:.0f}",
        ("mechanisms", "tuning"),
        adaptation.rate_floor,
        "The slope at zero gradient of a state that only large gradients hold is rarely used.",
    ),
    Claim(
        "adapts-after-several",
        "It acts after several large gradients in a row.",
        "A.4",
        _on(L, R, M),
        "steps of a large held gradient until half the way to its fixed point is covered",
        f"there: at least {adaptation.SEVERAL:.0f}; absent: {adaptation.ONE:.0f}",
        ("mechanisms",),
        adaptation.adapts_after_several,
        "Gates that a large gradient opens fully replace the state at once.",
    ),
    Claim(
        "types-separate",
        "States separate by layer, and by weight or bias.",
        "Figure 7a",
        _on(N),
        "distance between mean states of groups over that between parameters of one, maximum",
        f"there: at least {networks.APART}; absent: at most {networks.ALIKE}",
        ("parameter_types",),
        networks.types_separate,
        f"The difference can only enter through gradients. {LENGTH}",
    ),
    Claim(
        "bias-slower",
        "Biases have much smaller learning rates than weights.",
        "Figure 7b",
        _on(N),
        "learning rate of biases over that of weights, median over steps",
        f"there: at most {networks.MUCH_SLOWER}; absent: at least {networks.NOT_SLOWER:.0f}",
        ("parameter_types",),
        networks.bias_slower,
        f"Rates are those of mean states, as in the paper. {TRAINED}",
    ),
    Claim(
        "later-faster",
        "Later layers have larger learning rates than earlier ones.",
        "Figure 7b",
        _on(N),
        "rank correlation of depth with learning rate, lesser of weights' and biases'",
        f"there: at least {networks.RISES}; absent: at most {networks.DOES_NOT:.0f}",
        ("parameter_types",),
        networks.later_faster,
        f"Four layers have few ranks. {TRAINED}",
    ),
    Claim(
        "bias-gradients",
        "At the start biases have larger gradients than weights in the later layers.",
        "Figure 7c",
        _on(N),
        "median first |gradient| of biases over that of weights, least of the last two layers",
        "there: above 1; absent: 1 or less",
        ("parameter_types",),
        networks.bias_gradients,
        "It depends on how weights are drawn, which the paper does not say.",
    ),
    Claim(
        "manifold",
        "Without gradient the fixed points form a one-dimensional manifold.",
        "Figure 13a",
        _on(N),
        "participation ratio of approximate fixed points; 1 for a line",
        f"there: at most {networks.LINE}, extended over at least {100 * networks.LONG:.0f} % of "
        f"visited states, {100 * networks.STAYS:.0f} % of which stays after another run, with an "
        f"eigenvalue within {networks.NEAR_ONE} of 1; absent: at least {networks.MORE:.0f}, or at "
        f"most {100 * networks.SHORT:.0f} %, {100 * networks.GOES:.0f} %, or none within "
        f"{networks.OFF_ONE}",
        ("manifold",),
        networks.manifold,
        f"A line of rest takes a balance that training finds late. {LENGTH}",
    ),
    Claim(
        "manifold-rate",
        "The learning rate varies along the manifold.",
        "Figure 13b",
        _on(N),
        "largest over smallest learning rate of the approximate fixed points",
        f"there: at least {networks.CHANGES:.0f}; absent: at most {networks.SAME}",
        ("manifold",),
        networks.manifold_rate,
        LENGTH,
    ),
    Claim(
        "recovers-momentum",
        "Early in training on linear regression the GRU is momentum.",
        "Figure 14a",
        _on(L),
        "share of the variance of states in the first principal component",
        f"there: at least {appendix_b.NEARLY_ALL}, and the loss curve within "
        f"{appendix_b.SAME_CURVE} decades of tuned momentum's; absent: at most "
        f"{appendix_b.NOT_ALL}, or {appendix_b.OTHER_CURVE} decades",
        ("momentum_mimic",),
        appendix_b.recovers_momentum,
        f"Snapshots between the saved ones may come nearer. {WIDTH}",
    ),
    Claim(
        "mode-is-optimal",
        "Its mode's learning rate and timescale are the analytic optimum.",
        "Figure 14d",
        _on(L),
        "relative difference of the dominant mode's learning rate from the optimum",
        f"there: at most {appendix_b.RATE}, and of the timescale {appendix_b.TIMESCALE}; absent: "
        f"at least {appendix_b.OTHER_RATE}, or {appendix_b.OTHER_TIMESCALE}",
        ("momentum_mimic",),
        appendix_b.mode_is_optimal,
        "The optimum is that of the worst problem; the meta-objective is a mean over problems and "
        "200 updates, whose own best momentum is elsewhere.",
    ),
    Claim(
        "one-mode-suffices",
        "That mode alone matches the full optimizer.",
        "B.1",
        _on(L),
        "root mean square over steps of log10 mean loss of one mode over the whole's",
        f"there: at most {appendix_b.SAME_CURVE}; absent: at least {appendix_b.OTHER_CURVE}",
        ("momentum_mimic",),
        appendix_b.one_mode_suffices,
        "What large first gradients do is not linear, and one mode has no clipping.",
    ),
    Claim(
        "meta-path",
        "Over meta-training the dominant mode approaches the optimum.",
        "Figure 15",
        _on(L),
        "least distance of the dominant mode to the optimum on its path over that at its start",
        f"there: at most {appendix_b.NEAR}; absent: at least {appendix_b.STILL_FAR:.0f}",
        ("meta_dynamics",),
        appendix_b.meta_path,
        "Once it is better than momentum, an optimizer has no reason to stay near it.",
    ),
)
"""Every claim, in the order of the paper's mechanisms."""

BY_NAME: dict[str, Claim] = {claim.name: claim for claim in CLAIMS}
