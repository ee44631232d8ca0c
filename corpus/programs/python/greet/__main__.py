"""python3 -m greet [--json] NAME..."""

import argparse
import json
import os

from . import greeting, version

parser = argparse.ArgumentParser(prog="greet")
parser.add_argument("--json", action="store_true")
parser.add_argument("names", nargs="+")
given = parser.parse_args()
said = [greeting(name) for name in given.names]
if given.json:
    print(json.dumps({"version": version(), "user": os.getuid(), "said": said}))
else:
    print("\n".join(said))
