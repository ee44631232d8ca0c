"""Ends with 0 if the queue answers and keeps streams."""

import sys

from messages import Queue

queue = Queue(sys.argv[1])
queue.ping()
queue.api("INFO", {})
