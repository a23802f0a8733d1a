"""Training: a flat loop, exact resume, guards and logs."""
