"""Runs that outlive the process that asked for them: the local queue and Slurm."""
