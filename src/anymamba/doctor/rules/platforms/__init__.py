"""Systems and their libraries."""
