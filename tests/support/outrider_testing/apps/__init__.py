"""Applications for gunicorn to load."""
