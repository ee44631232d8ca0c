"""testcontainers against the daemon that DOCKER_HOST names.

Arguments: the name of an image with a shell, which must be there.
"""

import sys
import time

from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs

IMAGE = sys.argv[1]

started = time.time()
box = (
    DockerContainer(IMAGE)
    .with_command(["sh", "-c", "sleep 0.3; echo ready to serve $WHO; cat /shared/note; sleep 100"])
    .with_env("WHO", "you")
    .with_kwargs(network_mode="none", labels={"tier": "test"})
    .with_volume_mapping(sys.argv[2], "/shared", "ro")
)
with box as running:
    wait_for_logs(running, "ready to serve you", timeout=20)
    out, err = running.get_logs()
    assert b"note for the container" in out or wait_for_logs(running, "note for the container", timeout=5), (out, err)
    code, text = running.exec(["sh", "-c", "echo $WHO; exit 3"])
    assert (code, text) == (3, b"you\n"), (code, text)
    wrapped = running.get_wrapped_container()
    assert wrapped.labels["tier"] == "test" and wrapped.labels["org.testcontainers"] == "true", wrapped.labels
    name = wrapped.id
left = [c.id for c in running.get_docker_client().client.containers.list(all=True)]
assert name not in left, left
print("done")
