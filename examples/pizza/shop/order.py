"""Takes orders by HTTP and keeps them in the queue; tells how far each is."""

import json
import os
import signal
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from messages import Queue, leave

STEPS = ["ordered", "paid", "baked", "delivered"]
progress = {}


def follow():
    """Reads the whole stream from its beginning, so that a new start knows what the last one knew."""
    queue = Queue()
    queue.open()
    name = f"order-{uuid.uuid4().hex}"
    config = {"name": name, "filter_subject": "shop.*", "ack_policy": "none", "deliver_policy": "all", "inactive_threshold": 60_000_000_000}
    queue.api(f"CONSUMER.CREATE.SHOP.{name}", {"stream_name": "SHOP", "config": config})
    while True:
        taken = queue.take(name)
        if taken is not None:
            step, order, _ = taken
            known = progress.get(order["id"], "ordered")
            progress[order["id"]] = max(known, step, key=STEPS.index)


def follow_or_end():
    try:
        follow()
    finally:
        # without the queue nothing is known: the container is started again
        os._exit(1)


class Counter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        data = (json.dumps(body) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        try:
            length = int(self.headers.get("Content-Length", 0))
            order = {"id": uuid.uuid4().hex, "pizza": json.loads(self.rfile.read(length))["pizza"]}
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": 'send {"pizza": "margherita"}'})
        try:
            queue = Queue()
            queue.publish("ordered", order, f"ordered-{order['id']}")
        except OSError as error:
            # not taken, and the customer knows
            return self.answer(503, {"error": str(error)})
        progress.setdefault(order["id"], "ordered")
        self.answer(202, {**order, "status": "ordered"})

    def do_GET(self):
        if self.path == "/orders":
            counts = {step: sum(1 for known in list(progress.values()) if known == step) for step in STEPS}
            return self.answer(200, counts)
        order = self.path.removeprefix("/orders/")
        if order not in progress:
            return self.answer(404, {"error": f"no order {order!r}"})
        self.answer(200, {"id": order, "status": progress[order]})

    def log_message(self, form, *words):
        print(f"{self.command} {self.path} {words[1] if len(words) > 1 else ''}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=follow_or_end, daemon=True).start()
    print("order is open", flush=True)
    ThreadingHTTPServer(("", 80), Counter).serve_forever()
