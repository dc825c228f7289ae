"""The tests mirror src/anymamba; what several files share is imported as tests.FOLDER.NAME."""
