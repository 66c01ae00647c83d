# Outrider's part of deploy/caddy: what to have in gunicorn.conf.py when Caddy is in front.

bind = "127.0.0.1:8000"  # tcp
#h2c bind = "127.0.0.1:8000"
#unix bind = "unix:/run/shop/http.sock"
#unix umask = 0o007  # Caddy's user must be in the group of the service: usermod -aG shop caddy

# HTTP/2 from Caddy (h2c://); needs outrider[http2]. HTTP/1.1 is served on the same port.
#h2c http_protocols = "h2,h1"
#h2c http2_cleartext = "prior-knowledge"

# Only Caddy may say who the client is. (A peer on a unix socket is believed in any case.)
forwarded_allow_ips = "127.0.0.1"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}

# Longer than Caddy keeps an idle connection (60 s).
keepalive = 75
# A drain waits this long for requests. Shorter than response_header_timeout.
graceful_timeout = 30

# %(h)s is the client, not Caddy.
accesslog = "-"
# Caddy asks /readyz here.
admin_bind = "127.0.0.1:9100"
