"""A conversation on a terminal: what is typed and pasted, what is shown, what a pipe brings."""
