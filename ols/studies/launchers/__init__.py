"""Who starts the jobs of a study and sees them end: this machine, or SLURM."""
