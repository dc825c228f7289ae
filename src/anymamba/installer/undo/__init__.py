"""How an environment gets back to what it was: journal, guard, one install at a time, uninstall."""
