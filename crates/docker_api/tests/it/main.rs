//! The server as a client sees it: a real engine over empty folders, a real socket, bare HTTP.

#![expect(clippy::unwrap_used, reason = "a test fails where anything fails")]

use docker_api::{Limits, Server, Settings};
use engine::{Config, Engine};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;

/// A server on a socket in a folder of its own.
struct Island {
    dir: tempfile::TempDir,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Island {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let config = Config {
                    netd: "/nowhere/insula-netd".into(),
                    network: engine::NetworkDefaults::default(),
                    root: root.join("root"),
                    run: root.join("run"),
                    shim: PathBuf::from("/bin/false"),
                    cgroup_parent: format!("/insula-test-{}", std::process::id()),
                    netns_pool: 0,
                    cdi_folders: Vec::new(),
                    userns: None,
                    runtimes: engine::Runtimes::default(),
                    distribution: engine::Distribution::default(),
                    cache_bytes: None,
                };
                let engine = Engine::open(config).await.unwrap();
                let listener = UnixListener::bind(root.join("docker.sock")).unwrap();
                ready.send(()).unwrap();
                let server = Server::with_limits(engine.clone(), Settings::default(), limits);
                server.serve(listener, stopped).await.unwrap();
                engine.close().await.unwrap();
            });
        });
        is_ready.recv_timeout(Duration::from_secs(30)).unwrap();
        Self { dir, stop, thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("docker.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends bytes and reads until the server closes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // the server may refuse before it has read everything
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One request on a connection of its own: status and body.
    fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let answer = self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn refused(&self, method: &str, path: &str, body: &str, status: u16, part: &str) {
        let (got, answer) = self.request(method, path, body);
        assert_eq!(got, status, "{method} {path}: {answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{method} {path}: {message}");
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}

#[test]
fn ping_says_who_we_are() {
    let island = Island::new();
    let answer = island.raw(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").to_ascii_lowercase();
    for part in ["http/1.1 200", "api-version: 1.51", "ostype: linux", "server: insula/", "\r\n\r\nok"] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    let answer = island.raw(b"HEAD /v1.41/_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn one_connection_serves_many_requests() {
    let island = Island::new();
    let mut stream = island.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /networks/none HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        let network: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((network["Name"].as_str(), network["Driver"].as_str()), (Some("none"), Some("null")));
    }
}

#[test]
fn wrong_requests_are_refused_with_a_message() {
    let island = Island::new();
    island.refused("GET", "/nowhere", "", 404, "page not found");
    island.refused("DELETE", "/_ping", "", 404, "page not found");
    island.refused("GET", "/v1.12/info", "", 400, "too old");
    island.refused("GET", "/v1.99/info", "", 400, "too new");
    island.refused("POST", "/containers/create", "", 400, "got EOF");
    island.refused("POST", "/containers/create", "{", 400, "invalid JSON");
    island.refused("POST", "/containers/create", r#"{"Image":5}"#, 400, "invalid JSON");
    island.refused("POST", "/containers/create", r#"{"Cmd":["x"]}"#, 400, "no image");
    island.refused("POST", "/containers/create", r#"{"Image":"web:2"}"#, 404, "web:2");
    island.refused("POST", "/containers/create", &format!("\"{}\"", "x".repeat(5 << 20)), 413, "longer than");
    island.refused("GET", "/containers/gone/json", "", 404, "No such container: gone");
    island.refused("POST", "/containers/gone/start", "", 404, "No such container: gone");
    island.refused("POST", "/containers/gone/attach?stream=1&stdout=1", "", 404, "gone");
    island.refused("GET", "/containers/gone/logs?stdout=1", "", 404, "gone");
    island.refused("POST", "/containers/gone/wait?condition=never", "", 400, "invalid condition");
    island.refused("GET", "/containers/gone/changes", "", 404, "gone");
    island.refused("GET", "/containers/json?filters=%7B%22odd%22%3A%5B%22x%22%5D%7D", "", 400, "invalid filter 'odd'");
    island.refused("GET", "/containers/json?limit=x", "", 400, "limit");
    island.refused("GET", "/events?since=yesterday", "", 400, "since");
    island.refused("GET", "/images/none:such/json", "", 404, "none:such");
    island.refused("POST", "/images/create?fromImage=localhost:1/debian&tag=12", "", 503, "localhost:1");
    island.refused("POST", "/images/create?fromSrc=http://127.0.0.1:1/x", "", 503, "127.0.0.1:1");
    island.refused("POST", "/images/create?fromSrc=-&changes=FROB", "", 400, "frob is not a valid change command");
    island.refused("POST", "/images/create?fromSrc=-&repo=UPPER", "", 400, "UPPER");
    island.refused("POST", "/exec/gone/start", "{}", 404, "gone");
    island.refused("GET", "/networks/mine", "", 404, "network mine not found");
    island.refused("DELETE", "/networks/none", "", 403, "pre-defined");
    island.refused("POST", "/networks/create", "{}", 400, "Name");
    island.refused("POST", "/networks/create", "{\"Name\":\"host\"}", 403, "predefined host network");
    island.refused("POST", "/networks/create", "{\"Name\":\"a/b\"}", 400, "a/b");
    island.refused("POST", "/networks/host/connect", "{\"Container\":\"nobody\"}", 404, "No such container: nobody");
    island.refused("GET", "/swarm", "", 503, "not a swarm manager");
    island.refused("POST", "/session", "", 400, "no upgrade");
    island.refused("POST", "/grpc", "", 400, "h2c");
    island.refused("POST", "/insula/images/bootstrap", r#"{"source":""}"#, 400, "source");
}

#[test]
fn an_empty_engine_lists_nothing() {
    let island = Island::new();
    for path in ["/containers/json?all=1", "/images/json", "/v1.40/images/json"] {
        assert_eq!(island.request("GET", path, ""), (200, serde_json::json!([])), "{path}");
    }
    let (status, info) = island.request("GET", "/info", "");
    assert_eq!((status, info["Containers"].as_i64(), info["OSType"].as_str()), (200, Some(0), Some("linux")));
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    let (status, version) = island.request("GET", "/version", "");
    assert_eq!(
        (status, version["ApiVersion"].as_str(), version["MinAPIVersion"].as_str()),
        (200, Some("1.51"), Some("1.24"))
    );
    let (status, networks) = island.request("GET", "/networks", "");
    assert_eq!((status, networks.as_array().map(Vec::len)), (200, Some(3)));
    let answer = island.raw(b"GET /events?since=1&until=2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("application/json"), "{answer}");
}

#[test]
fn volumes_come_and_go() {
    let island = Island::new();
    let (status, volume) = island.request("POST", "/volumes/create", r#"{"Name":"data","Labels":{"a":"b"}}"#);
    assert_eq!((status, volume["Name"].as_str(), volume["Driver"].as_str()), (201, Some("data"), Some("local")));
    let (_, list) = island.request("GET", "/volumes?filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D", "");
    assert_eq!(list["Volumes"][0]["Labels"]["a"], "b");
    island.refused("POST", "/volumes/create", r#"{"Name":"x!"}"#, 400, "x!");
    island.refused("POST", "/volumes/create", r#"{"Name":"xy","Driver":"nfs"}"#, 404, "plugin \"nfs\" not found");
    assert_eq!(island.request("DELETE", "/volumes/data", "").0, 204);
    island.refused("GET", "/volumes/data", "", 404, "data");
    island.refused("DELETE", "/volumes/data", "", 404, "data");
    assert_eq!(island.request("DELETE", "/volumes/data?force=1", "").0, 204);
}

#[test]
fn hostile_bytes_do_no_harm() {
    let island = Island::new();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200_000));
    let many: String = (0..500).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    for bytes in [
        &b"\0\xff\xfe\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
        b"POST /containers/create HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ] {
        let answer = island.raw(bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let encoded = island.request("GET", "/containers/%00%ff%2f..%2f..%2fetc/json", "");
    assert_eq!(encoded.0, 404);
    assert_eq!(island.request("GET", "/containers/json?filters=%7B%7B", "").0, 400);
    assert_eq!(island.request("GET", "/networks", "").0, 200);
}

#[test]
fn slow_clients_are_let_go() {
    let limit = Duration::from_millis(200);
    let island = Island::with(Limits { head: limit, body: limit });
    let mut silent = island.connect();
    silent.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Never").unwrap();
    let mut dripping = island.connect();
    let mut answer = Vec::new();
    dripping.write_all(b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    let mut drips = dripping.try_clone().unwrap();
    let drops = std::thread::spawn(move || while drips.write_all(b" ").is_ok() {});
    // others are not hurt meanwhile
    assert_eq!(island.request("GET", "/volumes", "").0, 200);
    assert_eq!(silent.read_to_end(&mut answer).unwrap(), 0);
    let mut status = [0; 12];
    dripping.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 408");
    drop(dripping);
    drops.join().unwrap();
}

#[test]
fn a_thousand_idle_connections_are_no_burden() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    if limit.maximum.is_some_and(|most| most < 2_500) {
        println!("skipped: this process may have {:?} descriptors only", limit.maximum);
        return;
    }
    let island = Island::new();
    let mut idle: Vec<UnixStream> = (0..1000).map(|_| island.connect()).collect();
    assert_eq!(island.request("GET", "/_ping", "").0, 200);
    // each is served when it asks at last
    for stream in idle.iter_mut().rev().step_by(100) {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
}

#[test]
fn a_stream_ends_when_the_server_stops() {
    let island = Island::new();
    let mut stream = island.connect();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    island.stop.send_replace(true);
    let mut rest = Vec::new();
    // the connection is cut without the body's end; what matters is that it ends
    let _ = stream.read_to_end(&mut rest);
    drop(island);
}
