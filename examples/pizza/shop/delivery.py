"""Brings what was baked."""

import signal

from messages import leave, work


def bring(order):
    print(f"delivered {order['pizza']} ({order['id']})", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    work("baked", "delivered", bring)
