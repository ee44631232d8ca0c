"""Takes the money for what was ordered."""

import signal

from messages import leave, work


def pay(order):
    print(f"paid for {order['pizza']} ({order['id']})", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    work("ordered", "paid", pay)
