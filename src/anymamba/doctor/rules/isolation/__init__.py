"""Build isolation and what the build environment lacks."""
