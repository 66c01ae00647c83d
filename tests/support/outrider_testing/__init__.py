"""What the integration tests share: real gunicorn processes, a strict HTTP client and a load generator."""
