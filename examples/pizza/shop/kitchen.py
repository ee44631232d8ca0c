"""Bakes what was paid for, by the menu."""

import signal
import time

from messages import leave, work

with open("/etc/menu", encoding="utf-8") as menu:
    MENU = {line.strip() for line in menu}


def bake(order):
    time.sleep(0.01)
    note = "" if order["pizza"] in MENU else ", which is not on the menu: the cook improvises"
    print(f"baked {order['pizza']} ({order['id']}){note}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    work("paid", "baked", bake)
