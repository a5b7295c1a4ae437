"""What does the runs of a sweep: this process, workers on this machine, or Ray."""
