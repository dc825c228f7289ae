"""The steps: forward, backward, update; when to validate, sample and stop."""
