"""In a worker of a drill: records the trajectory, and has the fault come in the step it is due."""
