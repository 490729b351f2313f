#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A small HTTP service that leaks on one line, and a client that sends it requests.

  demo-service.py serve              prints "listening on PORT", serves until it is killed
  demo-service.py load PORT SECONDS  sends requests for that long, prints how many were answered

Several lines allocate honestly: what they make is dropped after the request, or
is kept in a cache with a bound. One line, marked LEAK, keeps something of every
request for ever.
"""
import collections
import http.client
import http.server
import json
import signal
import sys
import time

CACHE_ENTRIES = 16
cache = collections.OrderedDict()
audit_log = []


def search(query):
    """Honest: the rows live as long as the request."""
    rows = [{"id": i, "title": "%s number %d" % (query, i), "score": i / 7.0} for i in range(200)]
    rows.sort(key=lambda row: -row["score"])
    return {"query": query, "rows": rows[:20]}


def render(name):
    """Honest: a page stays in a cache that drops its oldest page."""
    if name not in cache:
        cache[name] = "".join("<li>%s, line %d</li>" % (name, i) for i in range(400))
        if len(cache) > CACHE_ENTRIES:
            cache.popitem(last=False)
    return {"page": cache[name]}


def order(item):
    """Looks harmless: who would suspect the log?"""
    body = json.dumps({"item": item, "notes": "please deliver to the back door. " * 60})
    audit_log.append("%f %s %s" % (time.time(), item, body))  # LEAK: nobody ever empties it
    return {"ordered": item, "bytes": len(body)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; the client waits for both

    def do_GET(self):
        _, verb, argument = (self.path.split("/") + ["", ""])[:3]
        action = {"search": search, "render": render, "order": order}.get(verb)
        answer = action(argument) if action else {"error": "no such page"}
        body = json.dumps(answer).encode()
        self.send_response(200 if action else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print("listening on %d" % server.server_address[1], flush=True)
    server.serve_forever()


def load(port, seconds):
    end = time.monotonic() + seconds
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    verbs = ("search", "render", "order")
    answered = 0
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))  # after the request under way
    while not stopping and time.monotonic() < end:
        connection.request("GET", "/%s/thing%d" % (verbs[answered % 3], answered % 500))
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            sys.exit("request %d was answered with status %d" % (answered, response.status))
        answered += 1
        time.sleep(0.002)
    print("%d requests, all answered" % answered)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif len(sys.argv) == 4 and sys.argv[1] == "load":
        load(int(sys.argv[2]), float(sys.argv[3]))
    else:
        sys.exit(__doc__)
