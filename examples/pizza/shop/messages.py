"""The queue as the services use it: NATS with JetStream, over a plain socket.

A message that was published is on the queue's disk before publish() returns, and one that was taken comes again, to this
service or to another of its kind, unless it was acknowledged. Messages with the same id are kept once.
"""

import json
import os
import socket
import sys
import time

STREAM = "SHOP"
SUBJECTS = "shop.>"
# How long a service may work on a message before another one gets it, in nanoseconds.
PATIENCE = 10_000_000_000


class Queue:
    """One connection. Whoever loses it ends, and is started again."""

    def __init__(self, address=None):
        host, port = (address or os.environ["QUEUE"]).rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.file = self.socket.makefile("rb")
        self.inbox = f"_INBOX.{os.getpid()}.{time.monotonic_ns()}"
        self.count = 0
        if not self.file.readline().startswith(b"INFO "):
            raise ConnectionError("this is no NATS server")
        self.send('CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}')
        self.send(f"SUB {self.inbox}.* 1")

    def send(self, line, payload=None):
        data = line.encode() + b"\r\n"
        if payload is not None:
            data += payload + b"\r\n"
        self.socket.sendall(data)

    def ping(self):
        self.send("PING")
        while True:
            line = self.file.readline()
            if line == b"PONG\r\n":
                return
            if not line:
                raise ConnectionError("the queue has gone")

    def receive(self):
        """The next message: subject, reply subject, status, payload."""
        while True:
            line = self.file.readline()
            if not line:
                raise ConnectionError("the queue has gone")
            words = line.split()
            if words[0] == b"PING":
                self.send("PONG")
            elif words[0] == b"-ERR":
                raise ConnectionError(line.decode().strip())
            elif words[0] in (b"MSG", b"HMSG"):
                size = int(words[-1])
                data = self.file.read(size + 2)[:-2]
                head = int(words[-2]) if words[0] == b"HMSG" else 0
                reply = words[3] if len(words) == (6 if head else 5) else b""
                status = data[:head].split(b"\r\n")[0].split()[1:2]
                return words[1].decode(), reply.decode(), int(status[0]) if status else 200, data[head:]

    def ask(self, subject, payload=b"", headers=None):
        """One question and its answer."""
        self.count += 1
        inbox = f"{self.inbox}.{self.count}"
        if headers is None:
            self.send(f"PUB {subject} {inbox} {len(payload)}", payload)
        else:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            self.send(f"HPUB {subject} {inbox} {len(head)} {len(head) + len(payload)}", head + payload)
        while True:
            to, reply, status, data = self.receive()
            # an answer to an earlier question comes too late
            if to == inbox:
                return reply, status, data

    def api(self, what, body):
        reply, status, data = self.ask(f"$JS.API.{what}", json.dumps(body).encode())
        if status != 200:
            raise ConnectionError(f"the queue is not ready: {status}")
        answer = json.loads(data)
        if "error" in answer:
            raise ConnectionError(f"{what}: {answer['error']['description']}")
        return answer

    def open(self):
        """Makes the stream, if it is not there."""
        self.api(f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": [SUBJECTS], "storage": "file", "num_replicas": 1})

    def publish(self, subject, message, key):
        """Keeps a message. It is on the disk when this returns."""
        _, status, data = self.ask(f"shop.{subject}", json.dumps(message).encode(), {"Nats-Msg-Id": key})
        answer = json.loads(data) if status == 200 and data else {}
        if "seq" not in answer:
            raise ConnectionError(f"the queue did not keep a message: {status} {data!r}")

    def consumer(self, subject, name):
        """Makes a place in the stream that all services of a kind share."""
        config = {"durable_name": name, "filter_subject": f"shop.{subject}", "ack_policy": "explicit", "ack_wait": PATIENCE}
        self.api(f"CONSUMER.DURABLE.CREATE.{STREAM}.{name}", {"stream_name": STREAM, "config": config})

    def take(self, name):
        """The next message of a consumer: its subject's last word, the message, and where to acknowledge it; nothing if none
        has come for a while."""
        self.count += 1
        inbox = f"{self.inbox}.{self.count}"
        body = json.dumps({"batch": 1, "expires": 5_000_000_000}).encode()
        self.send(f"PUB $JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name} {inbox} {len(body)}", body)
        while True:
            subject, reply, status, data = self.receive()
            # a message of the stream keeps its own subject
            if reply.startswith("$JS.ACK."):
                return subject.rsplit(".", 1)[1], json.loads(data), reply
            if subject == inbox:
                # nothing there, or nothing came in time
                if status in (404, 408, 409):
                    return None
                raise ConnectionError(f"the queue gave status {status}")

    def done(self, reply):
        """Acknowledges a message, and waits until the queue knows."""
        self.ask(reply, b"+ACK")


def work(takes, gives, act):
    """What a service does all day: takes messages, acts, tells of it, and acknowledges, in this order."""
    queue = Queue()
    queue.open()
    name = os.environ["SERVICE"]
    queue.consumer(takes, name)
    print(f"{name} is open", flush=True)
    while True:
        taken = queue.take(name)
        if taken is None:
            continue
        _, order, reply = taken
        act(order)
        # the same message twice is kept once, so that a crash between the two lines does no harm
        queue.publish(gives, order, f"{gives}-{order['id']}")
        queue.done(reply)


def leave(_signal, _frame):
    sys.exit(0)
