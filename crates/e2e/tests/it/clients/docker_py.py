"""docker-py against the daemon that DOCKER_HOST names: broad, with checks of what its users rely on.

Arguments: the name of an image with a shell, which must be there.
"""

import io
import os
import sys
import tarfile
import threading
import time

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.types import LogConfig, Mount, Ulimit

IMAGE = sys.argv[1]
client = docker.from_env(timeout=60)


def refused(kind, call, *args, status=None, words="", **named):
    """The call fails, with this class, status and words."""
    try:
        call(*args, **named)
    except kind as error:
        if status is not None:
            assert error.response.status_code == status, (status, error)
        assert words in str(error), (words, str(error))
        return error
    raise AssertionError(f"{call} was not refused")


def system():
    assert client.ping() is True
    version = client.version()
    assert version["Os"] == "linux" and version["MinAPIVersion"] == "1.24" or "Components" in version
    info = client.info()
    for key in ("ID", "Containers", "Images", "Driver", "ServerVersion", "NCPU", "MemTotal", "Swarm", "Plugins"):
        assert key in info, key
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    usage = client.df()
    for key in ("LayersSize", "Images", "Containers", "Volumes"):
        assert key in usage, key
    refused(APIError, client.swarm.reload, status=503, words="not a swarm manager")
    refused(APIError, client.nodes.list, status=503)
    refused(APIError, client.services.list, status=503)
    refused(APIError, client.secrets.list, status=503)
    refused(APIError, client.configs.list, status=503)
    assert client.plugins.list() == []
    error = refused(APIError, client.api._result, client.api._get(client.api._url("/nowhere")), status=404)
    assert "page not found" in str(error)


def volumes():
    made = client.volumes.create("py-data", driver="local", labels={"from": "py"})
    assert made.attrs["Driver"] == "local" and made.attrs["Scope"] == "local"
    assert client.volumes.get("py-data").attrs["Labels"] == {"from": "py"}
    assert [v.name for v in client.volumes.list(filters={"label": "from=py"})] == ["py-data"]
    assert client.volumes.list(filters={"label": "from=nobody"}) == []
    box = client.containers.create(IMAGE, "true", volumes={"py-data": {"bind": "/data", "mode": "ro"}}, network_mode="none")
    assert box.attrs["Mounts"][0]["Type"] == "volume" and box.attrs["Mounts"][0]["RW"] is False
    assert box.attrs["Mounts"][0]["Name"] == "py-data"
    refused(APIError, made.remove, status=409, words="volume is in use")
    box.remove()
    out = client.containers.run(
        IMAGE, ["sh", "-c", "echo kept >/data/file; stat -f -c %T /scratch; stat -f -c %T /memory"], remove=True,
        network_mode="none", tmpfs={"/scratch": "size=1m"},
        mounts=[Mount("/data", "py-data"), Mount("/memory", None, type="tmpfs", tmpfs_size=1 << 20)],
    )
    assert out == b"tmpfs\ntmpfs\n", out
    out = client.containers.run(IMAGE, "cat /x/file", remove=True, network_mode="none", volumes=["py-data:/x:ro"])
    assert out == b"kept\n", out
    refused(NotFound, client.volumes.get, "py-nothing", words="no such volume")
    refused(APIError, client.volumes.create, "py/bad", status=400, words="invalid characters")
    refused(APIError, client.volumes.create, "py-bad", driver_opts={"odd": "x"}, status=400, words="invalid option")
    made.remove()
    refused(NotFound, made.remove)
    pruned = client.volumes.prune(filters={"label": "from=nobody"})
    assert not pruned["VolumesDeleted"] and pruned["SpaceReclaimed"] == 0


def runs():
    assert client.containers.run(IMAGE, "echo out", remove=True, network_mode="none") == b"out\n"
    both = client.containers.run(
        IMAGE, ["sh", "-c", "echo out; echo err >&2"], remove=True, stderr=True, network_mode="none"
    )
    assert sorted(both.split()) == [b"err", b"out"], both
    failed = refused(ContainerError, client.containers.run, IMAGE, ["sh", "-c", "exit 7"], remove=True, network_mode="none")
    assert failed.exit_status == 7
    refused(ImageNotFound, client.containers.create, "nothing-like-this:none", "true")
    box = client.containers.run(
        IMAGE, ["sh", "-c", "echo $A $(hostname); trap 'exit 3' TERM; while true; do sleep 0.1; done"], detach=True, name="py-box",
        environment={"A": "b"}, hostname="inside", labels={"who": "py"}, mem_limit="64m", network_mode="none",
        ulimits=[Ulimit(name="nofile", soft=100, hard=200)], cap_drop=["NET_RAW"], init=True, shm_size="8m",
        log_config=LogConfig(type="json-file", config={"max-size": "1m"}), restart_policy={"Name": "no"},
    )
    assert box.status in ("created", "running")
    for line in box.logs(stream=True, follow=True):
        assert line == b"b inside\n", line
        break
    box.reload()
    assert box.status == "running" and box.attrs["HostConfig"]["Memory"] == 64 << 20
    assert box.attrs["HostConfig"]["Ulimits"][0]["Hard"] == 200
    refused(APIError, client.containers.create, IMAGE, "true", name="py-box", status=409, words="already in use")
    assert [c.name for c in client.containers.list(filters={"label": "who=py"})] == ["py-box"]
    assert client.containers.list(filters={"name": "py-nobody"}) == []
    assert box.top()["Titles"][0] in ("UID", "PID")
    stats = box.stats(stream=False)
    assert stats["memory_stats"]["usage"] > 0 and stats["pids_stats"]["current"] >= 1
    first = next(box.stats(stream=True, decode=True))
    assert first["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    execs(box)
    box.pause()
    box.reload()
    assert box.status == "paused"
    box.unpause()
    box.rename("py-renamed")
    box.reload()
    assert box.name == "py-renamed"
    box.update(mem_limit="96m", memswap_limit="96m")
    box.reload()
    assert box.attrs["HostConfig"]["Memory"] == 96 << 20
    assert b"b inside" in box.logs(tail=1) and box.logs(tail=0) == b""
    assert b"Z " in box.logs(timestamps=True)
    box.stop(timeout=5)
    assert box.wait()["StatusCode"] == 3
    box.start()
    box.kill()
    assert box.wait()["StatusCode"] == 137
    box.restart(timeout=0)
    assert {"Path": "/made", "Kind": 1} in (box.exec_run("touch /made") and box.diff())
    names = tarfile.open(fileobj=io.BytesIO(b"".join(box.export()))).getnames()
    assert "made" in names
    files(box)
    image = box.commit("py-committed", "1", changes=["ENV X=y"])
    assert client.containers.run("py-committed:1", "sh -c 'echo $X; ls /made'", remove=True, network_mode="none") == b"y\n/made\n"
    image.tag("py-tagged", "2")
    assert sorted(client.images.get("py-tagged:2").tags) == ["py-committed:1", "py-tagged:2"]
    assert client.images.get("py-tagged:2").history()
    saved = b"".join(client.images.get("py-tagged:2").save(named="py-tagged:2"))
    client.images.remove("py-tagged:2")
    assert client.images.load(saved)[0].tags
    client.images.remove("py-tagged:2")
    box.remove(force=True)
    client.images.remove("py-committed:1")
    refused(NotFound, client.containers.get, "py-renamed", words="No such container")
    refused(ImageNotFound, client.images.get, "py-committed:1")


def execs(box):
    code, out = box.exec_run("sh -c 'echo in; exit 4'")
    assert (code, out) == (4, b"in\n")
    code, (out, err) = box.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
    assert (code, out, err) == (0, b"out\n", b"err\n")
    assert b"".join(box.exec_run("echo streamed", stream=True).output) == b"streamed\n"
    assert box.exec_run("sh -c 'echo $E; pwd; id -u'", environment={"E": "f"}, workdir="/tmp", user="1000").output == b"f\n/tmp\n1000\n"
    made = client.api.exec_create(box.id, "cat", stdin=True)
    sock = client.api.exec_start(made["Id"], socket=True)
    raw = getattr(sock, "_sock", sock)
    raw.sendall(b"through\n")
    raw.shutdown(1)
    got = b""
    while b"through\n" not in got:
        piece = raw.recv(4096)
        assert piece, got
        got += piece
    raw.close()
    refused(NotFound, client.api.exec_inspect, "gone")


def files(box):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo("put.txt")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"put!"))
    assert box.put_archive("/tmp", data.getvalue())
    assert box.exec_run("cat /tmp/put.txt").output == b"put!"
    pieces, stat = box.get_archive("/tmp/put.txt")
    assert stat["name"] == "put.txt" and stat["size"] == 4
    tar = tarfile.open(fileobj=io.BytesIO(b"".join(pieces)))
    assert tar.extractfile("put.txt").read() == b"put!"
    refused(NotFound, box.get_archive, "/tmp/none")


def events():
    seen, since = [], int(time.time()) - 1

    def watch():
        for event in client.events(decode=True, filters={"container": "py-events"}):
            seen.append(event)
            if event["Action"] == "destroy":
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    time.sleep(0.3)
    client.containers.run(IMAGE, "true", name="py-events", remove=True, network_mode="none")
    watcher.join(20)
    actions = [event["Action"] for event in seen]
    for action in ("create", "start", "die", "destroy"):
        assert action in actions, actions
    die = next(event for event in seen if event["Action"] == "die")
    assert die["Type"] == "container" and die["Actor"]["Attributes"]["exitCode"] == "0"
    assert die["status"] == "die" and die["from"] == IMAGE and len(die["id"]) == 64
    until = int(time.time()) + 1
    time.sleep(1.1)
    past = list(client.events(decode=True, since=since, until=until, filters={"event": "die", "type": "container"}))
    assert any(event["Actor"]["Attributes"]["name"] == "py-events" for event in past)


def versions():
    for version in ("1.24", "1.30", "1.38", "1.41", "auto"):
        api = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version=version, timeout=60)
        box = api.create_container(IMAGE, "echo old", host_config=api.create_host_config(network_mode="none"), volumes=["/v"])
        api.start(box["Id"])
        assert api.wait(box["Id"])["StatusCode"] == 0
        assert api.logs(box["Id"]) == b"old\n"
        assert api.inspect_container(box["Id"])["State"]["ExitCode"] == 0
        assert any(c["Id"] == box["Id"] for c in api.containers(all=True))
        api.remove_container(box["Id"], v=True)
        assert api.images() and api.volumes() is not None
    for version, words in (("1.11", "too old"), ("1.99", "too new")):
        other = client.api.get(client.api.base_url + f"/v{version}/info")
        assert other.status_code == 400 and words in other.text, other.text


def build():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        text = f"FROM {IMAGE}\nARG WHO=nobody\nLABEL who=$WHO\nRUN echo $WHO >/who\nCMD cat /who\n".encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    data.seek(0)
    image, log = client.images.build(
        fileobj=data, custom_context=True, tag="py-built:1", buildargs={"WHO": "me"}, rm=True, network_mode="none"
    )
    assert image.labels["who"] == "me" and any("stream" in line for line in log)
    assert client.containers.run("py-built:1", remove=True, network_mode="none") == b"me\n"
    client.images.remove("py-built:1")


for part in (system, volumes, runs, events, versions, build):
    part()
    print("done:", part.__name__, flush=True)
