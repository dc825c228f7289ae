"""The chunked scan of Mamba-2 (SSD)."""
