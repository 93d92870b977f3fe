"""Everything that the mechanism figures draw and the mechanism claims measure, as one record.

The figures of section 5 and appendix A show one optimizer on one task from six sides. `Mechanisms`
holds their numbers and nothing else, so that a figure is redrawn without the optimizer.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Complex, Float, Int


class Mechanisms(eqx.Module):
    """One optimizer on one task, taken apart. Host arrays in float64.

    *Projected* means: minus the mean of the visited states, times their first three principal
    components (axis `component`; zeros where the state has fewer coordinates). *Speed* is
    `q = 1/2 ||F(h, g*) - h||^2`. An *effective learning rate* is minus the slope of the update
    function at zero gradient, positive for a descending optimizer. An *update* is `w . F(h, g)`.

    States (Figure 3a, 8):
    - `explained_variance`: share of the variance of visited states in each component.
    - `paths`: projected states of up to 20 parameters of test problems.
    - `state_variance`: total variance (summed over coordinates) over parameters of all test
      problems, at each step.

    Fixed points at zero gradient (Figure 3a):
    - `fixed_point`: the convergence point, projected: the one reached from most states.
      `fixed_point_speed`, `fixed_point_radius` (spectral radius of its Jacobian).
    - `distinct_fixed_points`: how many different converged points were found;
      `converged_share`: share of the searched states from which one was reached.
    - `slow_points`, `slow_speeds`: approximate fixed points, visited states that relaxed under
      zero gradient until little but the slowest modes was left.

    Momentum (Figure 3b, c, 8):
    - `shifts`: displacements along the slow mode, in units of the state, symmetric around 0;
      `shift_points`: the shifted states, projected; `gradients`: a symmetric gradient axis over
      the central 98 % of met gradients; `shift_updates`: the update functions of shifted states.
    - `eigenvalues`, `learning_rates`: of the modes at the fixed point, slowest first.
    - `mode_energy`: share of the energy of the impulse response (the updates that one unit of
      gradient causes) explained by the best k + 1 modes together, for k = 0, 1, ...
    - `linear_error`: relative error of the linearised transition over the last quarter of test
      runs, `||F - F_linear|| / ||F - h*||` (root mean squares).

    Clipping (Figure 4, 10):
    - `clip_gradients`: gradient axis out to the largest met gradient; `initial_update`: update
      function of the initial state on it; `later_updates`: of a few visited states.
    - `gradient_edges`, `gradient_density`: histogram of met gradients on that axis, as a density.
    - `knees`: for the initial state and each of the later ones, the gradient magnitude beyond
      which the update is less than half its linear extrapolation (infinite where it never is).
    - `saturation`: the initial update function at the 99.9 % gradient magnitude over its linear
      extrapolation (1 for a linear one); `beyond_knee`: share of met gradients beyond the
      initial state's knee; `affine_fit`: R^2 of a line on the central 80 % of met gradients.

    Schedule (Figure 5, 11), `h' = F(h, 0)` from the initial state:
    - `schedule_path`: projected on its own first two principal components, and, alike,
      `schedule_points` (the slow points) and `schedule_end` (the convergence point).
    - `schedule_rates`: effective learning rate along it; `schedule_updates`: the updates
      `w . h'` that it causes by itself; `typical_step`: root-mean-square update of test runs.
    - `readout_angle`: angle in degrees between the path's first component and the readout.

    Adaptation (Figure 6, 12), for gradients held fixed:
    - `held_gradients`: ascending, log-spaced on both signs, with 0 in the middle.
    - `held_points` (projected), `held_speeds`, `held_converged`, `held_radius` (spectral radius),
      `held_rates` (effective learning rate at that point), `held_distinct` (number of distinct
      fixed points from several starts), `held_half_steps` (steps of the held gradient, from the
      convergence point, until half the distance is covered; infinite if not within the run).
    - `arm_index`: indices into the above of five points from the centre to the end of the
      positive arm; `arm_updates`: their update functions on `gradients`.
    """

    explained_variance: Float[np.ndarray, " component"]
    paths: Float[np.ndarray, "path visited component"]
    state_variance: Float[np.ndarray, " visited"]
    fixed_point: Float[np.ndarray, " component"]
    fixed_point_speed: float
    fixed_point_radius: float
    distinct_fixed_points: float
    converged_share: float
    slow_points: Float[np.ndarray, "point component"]
    slow_speeds: Float[np.ndarray, " point"]
    shifts: Float[np.ndarray, " shift"]
    shift_points: Float[np.ndarray, "shift component"]
    gradients: Float[np.ndarray, " grid"]
    shift_updates: Float[np.ndarray, "shift grid"]
    eigenvalues: Complex[np.ndarray, " mode"]
    learning_rates: Complex[np.ndarray, " mode"]
    mode_energy: Float[np.ndarray, " mode"]
    linear_error: float
    clip_gradients: Float[np.ndarray, " wide"]
    initial_update: Float[np.ndarray, " wide"]
    later_updates: Float[np.ndarray, "later wide"]
    gradient_edges: Float[np.ndarray, " edge"]
    gradient_density: Float[np.ndarray, " bin"]
    knees: Float[np.ndarray, " knee"]
    saturation: float
    beyond_knee: float
    affine_fit: float
    schedule_path: Float[np.ndarray, "visited 2"]
    schedule_points: Float[np.ndarray, "point 2"]
    schedule_end: Float[np.ndarray, "2"]
    schedule_rates: Float[np.ndarray, " visited"]
    schedule_updates: Float[np.ndarray, " step"]
    typical_step: float
    readout_angle: float
    held_gradients: Float[np.ndarray, " held"]
    held_points: Float[np.ndarray, "held component"]
    held_speeds: Float[np.ndarray, " held"]
    held_converged: Bool[np.ndarray, " held"]
    held_radius: Float[np.ndarray, " held"]
    held_rates: Float[np.ndarray, " held"]
    held_distinct: Int[np.ndarray, " held"]
    held_half_steps: Float[np.ndarray, " held"]
    arm_index: Int[np.ndarray, " arm"]
    arm_updates: Float[np.ndarray, "arm grid"]

    @property
    def fixed_point_stable(self) -> bool:
        """Whether states near the fixed point return to it: spectral radius below 1."""
        return self.fixed_point_radius < 1
