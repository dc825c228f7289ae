"""What the public ops do with a call before a backend gets it: checks of arguments, torch.compile, calls seen before."""
