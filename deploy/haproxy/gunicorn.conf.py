# Outrider's part of deploy/haproxy: what to have in gunicorn.conf.py when HAProxy, with haproxy.cfg, is in front.

bind = "127.0.0.1:8000"  # tcp
#h2c bind = "127.0.0.1:8000"
#unix bind = "unix:/var/lib/haproxy/shop/http.sock"
#unix umask = 0o007  # HAProxy's user must be in the group of the service: usermod -aG shop haproxy

# HTTP/2 from HAProxy (proto h2); needs outrider[http2]. HTTP/1.1 is served on the same port.
#h2c http_protocols = "h2,h1"
#h2c http2_cleartext = "prior-knowledge"

# Only HAProxy may say who the client is. (A peer on a unix socket is believed in any case.)
forwarded_allow_ips = "127.0.0.1"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}

# Longer than HAProxy keeps an idle connection.
keepalive = 75
# A drain waits this long for requests. Shorter than `timeout server`.
graceful_timeout = 30

# %(h)s is the client, not HAProxy.
accesslog = "-"
# HAProxy asks /readyz here.
admin_bind = "127.0.0.1:9100"

# With tcp.cfg in the place of haproxy.cfg: TLS ends here, and a PROXY header says who the client is.
#proxy bind = "127.0.0.1:8443"
#proxy proxy_protocol = "v2"
#proxy proxy_allow_ips = "127.0.0.1"
#proxy forwarded_allow_ips = ""  # it passes on what clients say in X-Forwarded-*: that is not to be believed
#proxy certfile = "/etc/ssl/shop/fullchain.pem"
#proxy keyfile = "/etc/ssl/shop/privkey.pem"
#proxy http_protocols = "h2,h1"
