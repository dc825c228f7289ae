"""The selective scan of Mamba-1, and the state update of one token."""
