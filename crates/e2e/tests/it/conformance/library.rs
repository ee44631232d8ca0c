//! docker-py, Docker's library for Python, as the client.

use crate::subject::{IMAGE, Subject, finish};
use std::process::Command;

/// Runs a script in which `client` is connected; `None` if Python has no docker module, with the reason printed.
fn python(subject: &Subject, script: &str) -> Option<()> {
    let probe = Command::new("python3").args(["-c", "import docker"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: no python3 with the docker module");
        return None;
    }
    let head = format!(
        "import docker, io, tarfile, time\nfrom docker import errors, types\nIMAGE = {IMAGE:?}\nclient = docker.DockerClient(base_url='unix://{}', version='auto')\n",
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
assert web.attach(logs=True, stream=False) == b'one\ntwo\n'
code, output = web.exec_run(['sh', '-c', 'echo out; echo err >&2; exit 4'], demux=True)
assert (code, output) == (4, (b'out\n', b'err\n')), (code, output)
instance = client.api.exec_create(web.id, ['sleep', '100'])
client.api.exec_start(instance, detach=True)
shown = client.api.exec_inspect(instance)
assert shown['Running'] and shown['ExitCode'] is None and shown['Pid'] > 0, shown
assert 'Titles' in web.top() and len(web.top(ps_args='-o pid,args')['Processes'][0]) == 2
stats = web.stats(stream=False)
assert stats['memory_stats']['usage'] > 0 and 'networks' in stats and stats['pids_stats']['current'] >= 2, stats.keys()
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
