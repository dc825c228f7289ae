"""The selective scan of Mamba-1, the whole Mamba-1 mixer around it, and the state update of one token."""
