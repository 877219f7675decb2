"""The command line: composes and prints, decides nothing. One file per command group; `app.py` joins them."""
