"""How to read each figure: captions, and the sentences that several of them share."""

STATES = (
    "Thin lines are the states of single parameters during test runs, projected on the first two "
    "principal components of all visited states; the black square is the point they converge to "
    "without gradient, grey dots are slow points nearby. The inset shows the total variance of "
    "the states over the inner steps: it goes to 0 when all runs end in the same point."
)
OFFSETS = (
    "Update functions of states displaced from the fixed point along the dominant mode; "
    "triangles in the same colours mark these states in the projection. Curves that are shifted "
    "up and down mean momentum, as in Figure 2c."
)
MODES = (
    "Eigenvalues of the Jacobian at the fixed point; the dashed line is the unit circle. "
    "An eigenvalue near 1 is a long memory, like the coefficient of momentum; the colour is the "
    "size of the learning rate with which that mode moves the parameter. The ring marks the slow "
    "mode."
)
SATURATION = (
    "Update function of the initial state out to the largest gradient met (thick), what it would "
    "be if it were linear (dotted), and the update functions of states visited later (grey). "
    "Where the thick curve leaves the dotted line, gradients are clipped, as in Figure 2b."
)
GRADIENTS = (
    "Density of the gradients met on test problems, on a logarithmic axis: how much of it lies "
    "beyond the straight part of the update function says how much clipping is used."
)
PATH = (
    "Path of the state when every gradient is 0, from the initial state (triangle) to the "
    "fixed point (square), on its own principal components, among slow points (grey)."
)
SCHEDULE = (
    "Effective learning rate, minus the slope of the update function at zero gradient, along "
    "that path: a learning-rate schedule that runs without input. Dashed: the learning rate of "
    "tuned momentum."
)
S_CURVE = (
    "Fixed points of the state when one gradient is held for ever, one point per gradient, in "
    "the projection of Figure 3; green for positive, pink for negative gradients, hollow where "
    "the search did not converge. The square is the fixed point without gradient."
)
ARM = (
    "Update functions at the points marked by diamonds of the same colours. A flatter curve is a "
    "smaller learning rate, as in Figure 2d."
)
RATES = (
    "Effective learning rate at each fixed point against the size of its gradient. Where it "
    "falls, large gradients make the optimizer cautious. Dashed: tuned momentum."
)
TUNED = (
    "Each point is one random setting of a baseline, in the plane of two of its "
    "hyperparameters; its colour is the meta-objective on the tuning problems, on one scale for "
    "all panels: purple is best, yellow is no better than not moving. Grey crosses diverged on "
    "some problem. The star is the best setting, which is the baseline everywhere else."
)

TYPES = (
    "(a) States averaged over the parameters of one layer and type and over test problems, from "
    "the initial state (triangle) to the end of the run (dots), on three principal components of "
    "single parameters' states. Blue solid lines are weights, orange dashed ones biases, darker "
    "in later layers: lines that part mean that the optimizer tells these parameters apart. (b) "
    "Effective learning rate at each of these mean states. (c) How large the first gradients of "
    "each layer are, with their medians: what the optimizer may tell parameters apart by. This is "
    "a correlation, not yet a cause."
)
MANY_MODES = (
    "Eigenvalues of the Jacobian at a fixed point, as in Figure 8, with the slowest modes "
    "numbered. (b) to (e) Update functions of the state when it is moved along each of these "
    "modes, as far as test runs go to both sides. Curves that are shifted up and down mean "
    "momentum; curves that tilt mean that moving along the mode changes the learning rate. Last: "
    "states of test runs, as in Figure 3, with their variance over the inner steps: where it "
    "stays up, runs of different parameters end in different states."
)
LINE = (
    "(a) Approximate fixed points without gradient, found from visited states (pale), on the "
    "principal components of these; the colour is the effective learning rate at each. One place "
    "means that the optimizer always comes to rest in the same state, a line that it may rest "
    "anywhere along it. (b) Update functions at the points marked by diamonds of the same colours. "
    "(c) Effective learning rate along the points' own first principal component, in units of the "
    "spread of visited states: where it changes, the place on the line sets the learning rate."
)

MIMIC = (
    "The snapshot of one run on linear regression whose loss curve is nearest to tuned momentum's. "
    "(a) States of the five parameters of one problem, from the initial state (triangle) to the "
    "fixed point, on the principal components of visited states; the inset shows how much of "
    "their variance each component explains. (b) Update functions of the fixed point moved along "
    "the first component: curves that are shifted and not bent are momentum's, as in Figure 2c. "
    "(c) Eigenvalues at the fixed point, as in Figure 8; the ring marks the dominant mode, which "
    "gives "
    "most of the steady response. (d) The same modes as settings of momentum, beside tuned "
    "momentum (star) and the optimum from theory (cross); the diamond is the momentum that all "
    "modes are together, with their immediate and their total response. (e) Mean loss on test "
    "problems of the whole optimizer, of the ringed mode run alone, and of momentum. If one mode "
    "is all there is, its curve lies on the whole's; modes of opposite signs need each other."
)
HISTORY = (
    "Snapshots of the run of Figure 14, linearized at the point where each comes to rest. (a) "
    "Learning rate and timescale of every mode, the later in meta-training the darker, and the "
    "optimum from theory (star). (b) and (c) The same for the dominant mode, the one that gives "
    "most of "
    "the steady response, with the optimum as a line; complex values are shown by their size. "
    "Dashed: the momentum that all modes are together. Hollow points are snapshots where no fixed "
    "point was found."
)

HALVED = (
    "Grey dots are settings that successive halving stopped, the darker the later; only those "
    "that ran in full have a colour, because scores of unequal length cannot be compared."
)

COSTS = (
    "One panel per task. Each row takes something away from the learned optimizer and runs what is "
    "left on the test problems; the colour says which mechanism that belongs to. Dots are the "
    "geometric mean, over problems, of its meta-objective over the original's, bars 95 % intervals "
    "of that mean, on a logarithmic axis: at 1 nothing is lost, to the right the mechanism was "
    "worth something. Arrows with a number stand for values beyond the axis. Where runs diverged, "
    "their number stands at the right, and the hollow dot is of the others."
)
GRADIENT_STREAMS = (
    "(a) Effective learning rate of the states of each group of parameters during test runs, mean "
    "over parameters and problems; dashed lines are biases. All states start alike: what differs "
    "is the gradients they meet. (b) These gradients, changed in one property and replayed to "
    "fresh states: how much of the separation between groups is left, with 95 % intervals; at 1 "
    "the property had not told them apart. (c) Groups that are given another group's gradients "
    "from the middle of the run (dotted line) on: 0 is the rate of their own stream, 1 that of the "
    "new."
)

GALLERY = (
    "One panel per optimizer. Left: update functions of a typical parameter at five moments of its "
    "run, the later the darker. Curves that are shifted up and down mean momentum, curves that "
    "tilt adaptation, curves that bend clipping. Right: eigenvalues of the last of these updates "
    "beside the unit circle; the colour is the learning rate of the mode over the largest of the "
    "optimizer, hollow marks have less than a millionth of it, triangles a negative one."
)
TRANSFER = (
    "(a) Every learned optimizer and every tuned baseline, on every task: geometric mean over test "
    "problems of its meta-objective over that of the task's own learned optimizer. Framed: at "
    "home. A number with a cross counts the problems on which a run diverged. (b) The same ratio "
    "against the distance between scorecards, both measured on that task: if being alike meant "
    "being as good, points would rise from the lower left. (c) Mean meta-objective on linear "
    "regression with other numbers of parameters."
)
SWEEPS = (
    "Each task's learned optimizer and baselines, one column per task. Top: every gradient is "
    "multiplied by the same factor; at 1 is what they were trained and tuned for. Bottom: runs of "
    "other lengths; they were trained and tuned for 200 updates. Crosses stand where runs diverged."
)
