# Outrider's part of deploy/traefik: what to have in gunicorn.conf.py when Traefik is in front.

bind = "127.0.0.1:8000"  # tcp
#h2c bind = "127.0.0.1:8000"

# HTTP/2 from Traefik (h2c://); needs outrider[http2]. HTTP/1.1 is served on the same port.
#h2c http_protocols = "h2,h1"
#h2c http2_cleartext = "prior-knowledge"

# Only Traefik may say who the client is.
forwarded_allow_ips = "127.0.0.1"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}

# Longer than Traefik keeps an idle connection (60 s).
keepalive = 75
# A drain waits this long for requests. Shorter than responseHeaderTimeout.
graceful_timeout = 30

# %(h)s is the client, not Traefik.
accesslog = "-"
# Traefik asks /readyz here.
admin_bind = "127.0.0.1:9100"
