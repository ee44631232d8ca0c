//! docker-py, Docker's library for Python, as the client.

use crate::subject::{IMAGE, Kind, Subject, finish};
use std::process::Command;

/// Runs a script in which `client` is connected; `None` if Python has no docker module, with the reason printed.
fn python(subject: &Subject, script: &str) -> Option<()> {
    let probe = Command::new("python3").args(["-c", "import docker"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: no python3 with the docker module");
        return None;
    }
    let head = format!(
        "import docker, io, tarfile, time\nfrom docker import errors, types\nIMAGE = {IMAGE:?}\nOURS = {}\nclient = docker.DockerClient(base_url='unix://{}', version='auto')\n",
        // the library loses what comes in one piece with the head, as dockerd sends it; whose numbers leave out what is none
        if subject.kind == Kind::Insula { "True" } else { "False" },
        subject.socket().display()
    );
    let mut command = Command::new("python3");
    command.args(["-c", &format!("{head}{script}")]).current_dir(subject.island.root());
    finish(&mut command, b"").expect(0);
    Some(())
}

#[test]
fn a_life_through_the_library() {
    let Some(subject) = Subject::start() else { return };
    let script = r#"
run = lambda *words, **more: client.containers.run(IMAGE, list(words), network_mode='none', **more)
assert run('echo', 'hello', remove=True) == b'hello\n'
try:
    run('sh', '-c', 'echo bad >&2; exit 3', remove=True)
    raise SystemExit('no error')
except errors.ContainerError as error:
    assert error.exit_status == 3 and error.stderr == b'bad\n', error

check = types.Healthcheck(test=['CMD', 'test', '-e', '/well'], interval=100_000_000, retries=1)
web = run('sh', '-c', 'echo one; echo two; sleep 100', name='web', detach=True, healthcheck=check, labels={'a': 'b'},
          log_config=types.LogConfig(type='json-file', config={'max-size': '1m'}), restart_policy={'Name': 'on-failure', 'MaximumRetryCount': 3})
deadline = time.time() + 10
while web.health != 'unhealthy':
    assert time.time() < deadline, web.attrs['State']
    time.sleep(0.05)
    web.reload()
assert web.attrs['State']['Health']['Log'][0]['ExitCode'] == 1

archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode='w') as tar:
    entry = tarfile.TarInfo('well')
    entry.size = 2
    tar.addfile(entry, io.BytesIO(b'ok'))
assert web.put_archive('/', archive.getvalue())
stream, stat = web.get_archive('/well')
assert stat['name'] == 'well' and stat['size'] == 2, stat
back = tarfile.open(fileobj=io.BytesIO(b''.join(stream)))
assert back.extractfile('well').read() == b'ok'
try:
    web.get_archive('/nowhere')
    raise SystemExit('no error')
except errors.NotFound:
    pass
while web.health != 'healthy':
    assert time.time() < deadline + 10, web.attrs['State']
    time.sleep(0.05)
    web.reload()

assert web.logs() == b'one\ntwo\n' and web.logs(tail=1) == b'two\n' and web.logs(stdout=False, stderr=True) == b''
assert b'T' in web.logs(timestamps=True, tail=1).split()[0]
assert web.attach(logs=True, stream=False) == b'one\ntwo\n' or not OURS
code, output = web.exec_run(['sh', '-c', 'echo out; echo err >&2; exit 4'], demux=True)
assert (code, output) == (4, (b'out\n', b'err\n')), (code, output)
code, output = web.exec_run(['sh', '-c', 'printf %s ' + 'a' * 20000 + ' | wc -c'])
assert (code, output.strip()) == (0, b'20000'), (code, output)
# one that has no terminal takes any size
web.resize(33, 99)
instance = client.api.exec_create(web.id, ['sleep', '100'])
client.api.exec_start(instance, detach=True)
shown = client.api.exec_inspect(instance)
assert shown['Running'] and shown['ExitCode'] is None and shown['Pid'] > 0, shown
assert 'Titles' in web.top() and len(web.top(ps_args='-o pid,args')['Processes'][0]) == 2
stats = web.stats(stream=False)
assert stats['memory_stats']['usage'] > 0 and ('networks' in stats or not OURS) and stats['pids_stats']['current'] >= 2, stats.keys()
first = next(web.stats(decode=True))
assert first['id'] == web.id
web.update(mem_limit='64m', memswap_limit='64m', restart_policy={'Name': 'always'})
web.reload()
assert web.attrs['HostConfig']['Memory'] == 64 << 20 and web.attrs['HostConfig']['RestartPolicy']['Name'] == 'always'
web.rename('site')
assert [one.name for one in client.containers.list(filters={'label': 'a=b', 'health': 'healthy', 'name': 'site'})] == ['site']
web.pause(); web.reload(); assert web.status == 'paused'
web.unpause()
web.kill('SIGKILL' if False else 'SIGUSR1')
web.stop(timeout=0)
assert web.wait()['StatusCode'] in (137, 138)
kinds = [event['Action'] for event in client.events(since=int(time.time()) - 60, until=int(time.time()) + 1, decode=True, filters={'container': web.id})]
for action in ['create', 'start', 'health_status: unhealthy', 'health_status: healthy', 'update', 'rename', 'pause', 'unpause', 'stop' if 'stop' in kinds else 'die']:
    assert action in kinds, (action, kinds)
assert any(kind.startswith('exec_create') for kind in kinds)
legacy = next(client.events(since=int(time.time()) - 60, until=int(time.time()) + 1, decode=True, filters={'container': web.id}))
assert legacy['status'] == legacy['Action'] and legacy['id'] == web.id and legacy['from'] == IMAGE, legacy
assert web.diff() and any(change['Path'] == '/well' for change in web.diff())
image = web.commit('kept', tag='1')
assert client.containers.run(image.id, ['cat', '/well'], remove=True, network_mode='none', healthcheck={'test': ['NONE']}) == b'ok'
assert sum(len(piece) for piece in web.export()) > 1000
web.remove(v=True)
assert client.containers.prune(filters={'until': '1h'})['SpaceReclaimed'] == 0
"#;
    python(&subject, script);
    subject.finish();
}

#[test]
fn what_was_asked_is_shown_and_kept() {
    let Some(subject) = Subject::start() else { return };
    let script = r#"
api = client.api
host = lambda **more: api.create_host_config(network_mode='none', **more)
made = api.create_container(IMAGE, ['true'], environment={'GONE': None, 'HERE': '1'}, host_config=host(
    binds=['/tmp:/a:ro', 'named:/b'], mounts=[types.Mount('/c', 'other', type='volume')], tmpfs={'/d': 'size=3M'}, isolation='default'))
shown = api.inspect_container(made)
settings = shown['HostConfig']
assert settings['Binds'] == ['/tmp:/a:ro', 'named:/b'] and settings['Tmpfs'] == {'/d': 'size=3M'}, settings
assert [mount['Target'] for mount in settings['Mounts']] == ['/c'] and settings['Isolation'] == 'default', settings
assert 'GONE' in shown['Config']['Env'] and 'HERE=1' in shown['Config']['Env'], shown['Config']['Env']
assert shown['Config']['OnBuild'] is None and shown['Config']['Volumes'] is None and settings['CapAdd'] is None
assert not [word for word in api.inspect_image(IMAGE)['Config']['OnBuild'] or []]
api.remove_container(made, v=True)
for name in ['named', 'other']:
    api.remove_volume(name)

# a wait that began while it ran ends with the run, whether it is to be started again or not
again = api.create_container(IMAGE, ['sh', '-c', 'sleep 0.5; exit 3'], host_config=host(restart_policy={'Name': 'always'}))
api.start(again)
assert api.wait(again)['StatusCode'] == 3
try:
    api.remove_container(again)
    raise SystemExit('removed')
except errors.APIError as error:
    assert 'stop the container before' in error.explanation.lower(), error
api.remove_container(again, force=True)

# a commit that pauses, of one that is about to end
short = api.create_container(IMAGE, ['sh', '-c', 'echo x >/made'], host_config=host())
api.start(short)
image = api.commit(short)['Id']
api.wait(short)
api.remove_container(short)
api.remove_image(image)

# a start says how output comes, whatever the exec has; keys are known in any case
box = api.create_container(IMAGE, ['sleep', '1000'], host_config=host())
api.start(box)
for tty in [False, True]:
    ran = api.exec_create(box, ['sh', '-c', 'echo out; echo err >&2'], tty=not tty)
    lines = sorted(api.exec_start(ran, tty=tty).split())
    # without frames there is one stream only
    assert lines == ([b'err', b'out'] if not tty else [b'out']), lines
answer = api._post_json(api._url('/containers/{0}/exec', box['Id']), data={'cmd': ['true'], 'ATTACHSTDOUT': True, 'detachKeys': 'a'})
assert answer.status_code == 201 and api.exec_inspect(answer.json()['Id'])['ProcessConfig']['entrypoint'] == 'true'
api.remove_container(box, force=True)
"#;
    python(&subject, script);
    subject.finish();
}

#[test]
fn links_are_removed_by_their_own_names() {
    let Some(subject) = Subject::start() else { return };
    let script = r#"
api = client.api
db = client.containers.run(IMAGE, ['sleep', '1000'], name='db', detach=True)
web = client.containers.run(IMAGE, ['sleep', '1000'], name='web', links={'db': 'store'}, detach=True)
assert b'store' in web.exec_run(['cat', '/etc/hosts']).output
api.remove_container('web/store', link=True)
web.reload()
db.reload()
assert not web.attrs['HostConfig']['Links'] and db.status == 'running'
try:
    api.remove_container('web/store', link=True)
    raise SystemExit('no error')
except errors.APIError:
    pass
for one in [web, db]:
    one.remove(force=True)
"#;
    python(&subject, script);
    subject.finish();
}

#[test]
fn a_websocket_carries_a_process() {
    let Some(subject) = Subject::start() else { return };
    // RFC 6455 by hand, since Python has no client of its own
    let script = r#"
import base64, os, socket, struct
path = client.api.base_url and client.api._custom_adapter.socket_path
def upgrade(target, **more):
    head = {'Upgrade': 'websocket', 'Connection': 'Upgrade', 'Sec-WebSocket-Version': '13',
            'Sec-WebSocket-Key': base64.b64encode(os.urandom(16)).decode(), 'Origin': 'http://x', **more}
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(path)
    lines = ''.join(f'{key}: {value}\r\n' for key, value in head.items() if value)
    sock.sendall(f'GET {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n'.encode())
    answer = b''
    while b'\r\n\r\n' not in answer:
        piece = sock.recv(1)
        assert piece, answer
        answer += piece
    return sock, answer
def exactly(sock, count):
    data = b''
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, data
        data += piece
    return data
def frame(sock):
    first, length = exactly(sock, 2)
    if length == 126:
        length, = struct.unpack('>H', exactly(sock, 2))
    return first & 15, exactly(sock, length)
def say(sock, kind, data):
    mask = os.urandom(4)
    sock.sendall(bytes([0x80 | kind, 0x80 | len(data)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
def told(sock, wanted):
    seen = b''
    while wanted not in seen:
        kind, data = frame(sock)
        assert kind == 2, (kind, data, seen)
        seen += data
    return seen
asked = client.api.create_container_config(IMAGE, ['sh', '-c', 'echo early; while read line; do echo "[$line]"; echo "<$line>" >&2; done; echo over'],
    stdin_open=True, host_config=client.api.create_host_config(network_mode='none'))
# one client that ends does not end the input for others
asked['StdinOnce'] = False
box = client.api.create_container_from_config(asked)
id = box['Id']
sock, answer = upgrade(f'/v1.41/containers/{id}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1')
assert answer.startswith(b'HTTP/1.1 101'), answer
client.api.start(box)
told(sock, b'early\n')
say(sock, 1, b'hel')
say(sock, 2, b'lo\n')
both = told(sock, b'[hello]\n')
if b'<hello>\n' not in both:
    told(sock, b'<hello>\n')
# a second one, with what there was before, only hears
other, answer = upgrade(f'/v1.41/containers/{id}/attach/ws?logs=1&stream=1&stdout=1')
assert answer.startswith(b'HTTP/1.1 101'), answer
told(other, b'early\n')
# it goes, and the process does not mind
say(other, 8, b'')
other.close()
say(sock, 1, b'again\n')
told(sock, b'[again]\n')
client.api.stop(box, timeout=0)
while frame(sock)[0] != 8:
    pass
assert upgrade('/v1.41/containers/nobody/attach/ws?stream=1&stdout=1')[1].startswith(b'HTTP/1.1 404')
assert upgrade(f'/v1.41/containers/{id}/attach/ws?stream=1&stdout=1', **{'Sec-WebSocket-Key': None})[1].startswith(b'HTTP/1.1 400')
client.api.remove_container(box, force=True)
"#;
    python(&subject, script);
    subject.finish();
}
