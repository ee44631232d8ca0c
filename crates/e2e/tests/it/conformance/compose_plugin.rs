//! Docker's own compose plugin against whichever subject is chosen, alone and in turn with `insula compose`.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use testkit::wait_for;

use super::buildx;
use super::compose::{SHOP, Stack};
use crate::subject::{Run, SOON, finish};

/// Where docker's client looks for plugins, beside its folder of settings.
const FOLDERS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// The plugin that `INSULA_E2E_COMPOSE` names, or that is installed; `None` with the reason printed.
fn plugin() -> Option<PathBuf> {
    if let Some(path) = env::var_os("INSULA_E2E_COMPOSE") {
        return Some(path.into());
    }
    let own = env::home_dir().map(|home| home.join(".docker/cli-plugins"));
    let folders = own.into_iter().chain(FOLDERS.iter().map(PathBuf::from));
    let found = folders.map(|folder| folder.join("docker-compose")).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: docker's compose plugin is neither installed nor named by INSULA_E2E_COMPOSE");
    }
    found
}

/// Both clients of one project.
pub(super) struct Pair {
    pub(super) stack: Stack,
}

impl Pair {
    pub(super) fn start(file: &str) -> Option<Self> {
        Self::start_with(file, &[])
    }

    /// With further plugins of docker's.
    fn start_with(file: &str, others: &[PathBuf]) -> Option<Self> {
        let plugin = plugin()?;
        let stack = Stack::start(file)?;
        let _ = stack.subject.docker_command(&[])?;
        let folder = stack.subject.island.dir("docker-config/cli-plugins");
        symlink(plugin, folder.join("docker-compose")).unwrap();
        for other in others {
            symlink(other, folder.join(other.file_name().unwrap())).unwrap();
        }
        Some(Self { stack })
    }

    fn command(&self, words: &[&str]) -> Command {
        let words = [&["compose"][..], words].concat();
        let mut command = self.stack.subject.docker_command(&words).unwrap();
        for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "COMPOSE_ENV_FILES"] {
            command.env_remove(name);
        }
        command.current_dir(self.stack.subject.island.path("shop")).env("FROM_USER", "user's");
        // builds by the engine's own builder
        command.env("DOCKER_BUILDKIT", "0").env("COMPOSE_ANSI", "never");
        command
    }

    pub(super) fn run(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), b"")
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> Run {
        self.run(words).expect(0)
    }

    /// One that goes on beside the test, with a file for what it prints.
    fn beside(&self, words: &[&str], output: &str) -> Beside {
        let path = self.stack.subject.island.path(output);
        let file = fs::File::create(&path).unwrap();
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Beside { child: command.spawn().unwrap(), path }
    }
}

/// A client that is ended with the test.
struct Beside {
    child: Child,
    path: PathBuf,
}

impl Beside {
    /// Waits until it has printed this.
    #[track_caller]
    fn await_text(&self, text: &str) {
        let shown = || fs::read_to_string(&self.path).unwrap();
        assert!(wait_for(SOON, || shown().contains(text).then_some(())).is_some(), "{text:?} is not in {}", shown());
    }

    /// Waits for its end.
    #[track_caller]
    fn ended(mut self) -> Option<i32> {
        let status = wait_for(SOON, || self.child.try_wait().unwrap());
        assert!(status.is_some(), "it goes on: {}", fs::read_to_string(&self.path).unwrap());
        status.and_then(|status| status.code())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // one that has ended already can't be killed
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_plugin_drives_a_project() {
    let Some(pair) = Pair::start(SHOP) else { return };
    pair.stack.write("db.env", "FILE_VALUE=\"a b\"\n");
    let events = pair.beside(&["events", "--json"], "events");
    let up = pair.ok(&["up", "-d"]);
    assert!(up.err.contains("Container shop-db-1  Healthy"), "{}", up.err);
    assert_eq!(pair.stack.names(), "shop-db-1 shop-setup-1 shop-web-1 shop-web-2");
    events.await_text("\"action\":\"start\"");
    drop(events);
    assert_eq!(pair.ok(&["exec", "-T", "web", "cat", "/etc/page", "/run/secrets/key"]).out, "to user'suser's");
    assert_eq!(pair.run(&["exec", "-T", "db", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(pair.run(&["exec", "-T", "db", "/nothing"]).code, 127);
    let logs = pair.ok(&["logs", "--no-color", "--no-log-prefix", "web"]).out;
    assert!(logs.contains("hello") && logs.contains("trouble"), "{logs}");
    assert!(pair.ok(&["top", "db"]).out.contains("sleep 1000"));
    assert!(pair.ok(&["images"]).out.contains("shop-web-2"));
    let stats = pair.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"]).out;
    assert!(stats.lines().any(|line| line.starts_with("shop-web-2 ") && line.ends_with("/ 64MiB")), "{stats}");
    assert!(pair.ok(&["ls"]).out.lines().any(|line| line.starts_with("shop ") && line.contains("running(3)")));
    single_programs(&pair);
    files_and_lives(&pair);
    pair.ok(&["down", "-v", "--remove-orphans"]);
    assert_eq!(pair.stack.names(), "");
    remove_nameless_volumes(&pair);
    pair.stack.finish();
}

/// From 2.36 or so on `scale` and `create` of one service make those that it depends on anew, and leave the volumes without a name that
/// these had, whatever the daemon.
fn remove_nameless_volumes(pair: &Pair) {
    let left = pair.stack.subject.docker(&["volume", "ls", "-q"]).expect(0);
    for name in left.out.lines() {
        assert!(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name} is left");
        pair.stack.subject.docker(&["volume", "rm", name]).expect(0);
    }
}

fn single_programs(pair: &Pair) {
    let once = pair.ok(&["run", "--rm", "-T", "--no-deps", "-e", "X=1", "web", "sh", "-c", "echo $X; cat /etc/page"]);
    assert_eq!(once.out, "1\nto user's");
    assert_eq!(pair.run(&["run", "--rm", "-T", "--no-deps", "web", "sh", "-c", "exit 9"]).code, 9);
    let echoed = finish(&mut pair.command(&["run", "--rm", "-T", "-i", "tool", "cat"]), b"typed\n").expect(0);
    assert_eq!(echoed.out, "typed\n");
    let name = pair.ok(&["run", "-d", "--no-deps", "--name", "once", "web", "sleep", "1000"]);
    assert!(!name.text().is_empty());
    pair.stack.subject.docker(&["rm", "-f", "once"]).expect(0);
}

fn files_and_lives(pair: &Pair) {
    let shop = pair.stack.subject.island.path("shop");
    pair.stack.write("note", "to and fro\n");
    pair.ok(&["cp", "note", "db:/tmp/there"]);
    pair.ok(&["cp", "db:/tmp/there", "back"]);
    assert_eq!(fs::read_to_string(shop.join("back")).unwrap(), "to and fro\n");
    pair.ok(&["pause", "web"]);
    assert!(pair.ok(&["ps", "web"]).out.contains("(Paused)"));
    pair.ok(&["unpause", "web"]);
    pair.ok(&["up", "-d", "--scale", "web=3", "--no-recreate"]);
    pair.ok(&["scale", "web=1"]);
    assert_eq!(pair.stack.names(), "shop-db-1 shop-setup-1 shop-web-1");
    pair.ok(&["stop", "web"]);
    pair.ok(&["start", "web"]);
    pair.ok(&["restart", "web"]);
    let follow = pair.beside(&["logs", "-f", "web"], "follow");
    follow.await_text("hello");
    // a signal that comes while it restarts has nobody to go to
    let killed = wait_for(SOON, || {
        pair.ok(&["kill", "web"]);
        pair.ok(&["ps", "-a", "--format", "{{.State}}", "web"]).out.contains("exited").then_some(())
    });
    assert!(killed.is_some(), "web goes on");
    assert_eq!(follow.ended(), Some(0));
    pair.ok(&["rm", "-f", "web"]);
    assert_eq!(pair.stack.names(), "shop-db-1 shop-setup-1");
    pair.ok(&["create", "web"]);
    assert!(pair.stack.names().ends_with("shop-web-1 shop-web-2"));
}

/// What each of the two has made, the other leaves as it is, sees, and takes away.
#[test]
fn both_clients_share_a_project() {
    let file = r#"
x-base: &base {image: "test:1", stop_grace_period: 0s, command: sleep 1000}
services:
  db:
    <<: *base
    volumes: [data:/data, /scratch]
    healthcheck: {test: "true", interval: 200ms}
    networks: {back: {aliases: [store], priority: 5}}
  web:
    <<: *base
    depends_on: {db: {condition: service_healthy}}
    deploy: {replicas: 2, resources: {limits: {memory: 64m}}}
    configs: [{source: page, target: /page, mode: 0444}]
    secrets: [key]
    ports: ["127.0.0.1::80"]
    networks: [back, default]
    profiles: [all]
    init: true
  beside: {<<: *base, network_mode: "service:db"}
networks: {back: {internal: true}}
volumes: {data: {labels: {a: b}}}
configs: {page: {file: ./note}}
secrets: {key: {file: ./note}}
"#;
    let Some(pair) = Pair::start(file) else { return };
    pair.stack.write("note", "note\n");
    let up: &[&str] = &["--profile", "all", "up", "-d"];
    pair.ok(up);
    let made = pair.stack.ids();
    assert_eq!(pair.stack.names(), "shop-beside-1 shop-db-1 shop-web-1 shop-web-2");
    let again = pair.stack.ok(up).err;
    assert_eq!(pair.stack.ids(), made, "what docker compose has made is left alone: {again}");
    assert_eq!(pair.stack.ok(&["port", "web", "80"]).out, pair.ok(&["port", "web", "80"]).out);
    pair.stack.ok(&["--profile", "all", "stop", "web"]);
    assert_eq!(pair.ok(&["ps", "--services"]).out.replace("web\n", ""), "beside\ndb\n");
    let down = pair.stack.ok(&["--profile", "all", "down", "-v"]).err;
    for line in [" Network shop_back  Removed", " Volume shop_data  Removed"] {
        assert!(down.lines().any(|shown| shown == line), "{line} in {down}");
    }
    assert_eq!(pair.ok(&["ps", "-aq"]).text(), "");
    // the other way round, with a file that every version hashes alike
    let plain = file.replace("    depends_on: {db: {condition: service_healthy}}\n", "");
    let plain = plain.replace(", priority: 5", "").replace("    profiles: [all]\n", "").replace(", mode: 0444", "");
    let plain = plain.replace("  beside: {<<: *base, network_mode: \"service:db\"}\n", "");
    pair.stack.write("compose.yaml", &plain);
    pair.stack.ok(&["up", "-d"]);
    let made = pair.stack.ids();
    let again = pair.ok(&["up", "-d"]).err;
    assert_eq!(pair.stack.ids(), made, "what insula has made is left alone: {again}");
    assert_eq!(pair.ok(&["ps", "-q"]).out.lines().count(), 3);
    pair.ok(&["down", "-v"]);
    assert_eq!(pair.stack.names(), "");
    pair.stack.finish();
}

#[test]
fn the_plugin_builds_and_watches() {
    let file = r#"
services:
  app:
    build: {context: ., args: {WORD: "${WORD:-one}"}}
    network_mode: none
    stop_grace_period: 0s
    command: sleep 1000
    develop: {watch: [{path: ./src, action: sync, target: /src}]}
"#;
    let Some(pair) = Pair::start(file) else { return };
    pair.stack.write("Dockerfile", "FROM test:1\nARG WORD\nRUN echo $WORD > /word\nCOPY src /src\n");
    let _ = pair.stack.subject.island.file("shop/src/a", "old\n");
    pair.ok(&["build"]);
    pair.ok(&["up", "-d"]);
    assert_eq!(pair.ok(&["exec", "-T", "app", "cat", "/word", "/src/a"]).out, "one\nold\n");
    let watch = pair.beside(&["watch", "--no-up"], "watch");
    watch.await_text("Watch enabled");
    let _ = pair.stack.subject.island.file("shop/src/a", "new\n");
    let synced = wait_for(SOON, || (pair.run(&["exec", "-T", "app", "cat", "/src/a"]).out == "new\n").then_some(()));
    assert!(synced.is_some(), "the change does not arrive");
    drop(watch);
    pair.stack.write(".env", "WORD=two\n");
    pair.ok(&["up", "-d", "--build"]);
    assert_eq!(pair.ok(&["exec", "-T", "app", "cat", "/word"]).out, "two\n");
    pair.ok(&["down", "--rmi", "local"]);
    pair.stack.finish();
}

/// What a service is built upon, and what it takes files from, may be other services: the plugin has buildx `bake` them together.
#[test]
fn services_build_on_services() {
    let file = r#"
services:
  base: {image: "base:1", build: {context: ., dockerfile_inline: "FROM test:1\nRUN echo base > /b\n"}, deploy: {replicas: 0}}
  files: {image: "files:1", build: {dockerfile_inline: "FROM scratch\nCOPY note /note\n"}, deploy: {replicas: 0}}
  app:
    image: app:1
    build:
      dockerfile_inline: "FROM below\nCOPY --from=beside /note /note\nCMD sleep 1000\n"
      additional_contexts: {below: "service:base", beside: "service:files"}
    network_mode: none
    stop_grace_period: 0s
"#;
    let Some(buildx) = buildx::plugin("docker-buildx") else { return };
    let Some(pair) = Pair::start_with(file, &[buildx]) else { return };
    let version = pair.ok(&["version", "--short"]);
    let mut numbers =
        version.text().trim_start_matches('v').split(['.', '+', '-']).map(|word| word.parse().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(2), Some(36)) {
        println!("skipped: the compose plugin is {}, and 2.36 is the first to build by bake", version.text());
        pair.stack.finish();
        return;
    }
    pair.stack.write("note", "note\n");
    let run = |words: &[&str]| {
        let mut command = pair.command(words);
        finish(command.env_remove("DOCKER_BUILDKIT"), b"").expect(0)
    };
    run(&["build", "app"]);
    run(&["up", "-d", "--build"]);
    assert_eq!(pair.ok(&["exec", "-T", "app", "cat", "/b", "/note"]).out, "base\nnote\n");
    pair.ok(&["down"]);
    pair.stack.finish();
}
