"""What holds wherever the image runs. The rest comes from the environment: WEB_CONCURRENCY, GUNICORN_CMD_ARGS."""

proc_name = "shop"
bind = "0.0.0.0:8000"  # of the container; whether others reach that is said where the container is run
keepalive = 75  # seconds; longer than the proxy keeps an idle connection
graceful_timeout = 30  # seconds; whoever stops the container must wait for 10 more (stop_grace_period)
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}  # of proxies in FORWARDED_ALLOW_IPS
worker_tmp_dir = "/dev/shm"  # memory, which no slow disk holds up
accesslog = "-"
