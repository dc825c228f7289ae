"""What people see of a run: progress, curves, trackers."""
