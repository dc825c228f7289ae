"""A report for people (text.py), programs (document.py) and issues (markdown.py, without private data: privacy.py)."""
