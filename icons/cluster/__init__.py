"""Running on a Slurm cluster: what an array task does, and the submission of a whole run."""
