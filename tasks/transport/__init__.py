"""Pure mathematics of the probability-flow ODE: interpolants, targets, grids, solvers, losses, noise."""
