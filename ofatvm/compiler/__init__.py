"""From operator graphs to machine code: fusion plan, schedules, kernels, programs."""
