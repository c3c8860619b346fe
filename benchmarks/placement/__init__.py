"""The planner of placements on simulated machines: shapes of real models, the machines, and every placement of them."""
