# Outrider's part of deploy/nginx: what to have in gunicorn.conf.py when nginx, with shop.conf, is in front.

bind = "127.0.0.1:8000"  # tcp
#unix bind = "unix:/run/shop/http.sock"
#unix umask = 0o007  # nginx's user must be in the group of the service: usermod -aG shop www-data

# Only nginx may say who the client is. (A peer on a unix socket is believed in any case.)
forwarded_allow_ips = "127.0.0.1"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}

# Longer than nginx keeps an idle connection (60 s).
keepalive = 75
# A drain waits this long for requests. Shorter than proxy_read_timeout.
graceful_timeout = 30

# %(h)s is the client, not nginx.
accesslog = "-"
admin_bind = "127.0.0.1:9100"

# With stream.conf in the place of shop.conf: TLS ends here, and a PROXY header says who the client is.
#proxy bind = "127.0.0.1:8443"
#proxy proxy_protocol = "v1"
#proxy proxy_allow_ips = "127.0.0.1"
#proxy forwarded_allow_ips = ""  # it passes on what clients say in X-Forwarded-*: that is not to be believed
#proxy certfile = "/etc/ssl/shop/fullchain.pem"
#proxy keyfile = "/etc/ssl/shop/privkey.pem"
#proxy http_protocols = "h2,h1"
