"""From images to a mask file: one loop, its schedule, checkpoints and exact resume, and the run folder."""
