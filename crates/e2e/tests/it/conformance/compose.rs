//! `insula compose` against whichever subject is chosen: what it makes is what docker compose makes.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use testkit::wait_for;

use crate::subject::{Run, SOON, Subject, finish};

pub(super) struct Stack {
    pub(super) subject: Subject,
}

impl Stack {
    /// A daemon with the image, and a project `shop` of one file.
    pub(super) fn start(file: &str) -> Option<Self> {
        let subject = Subject::start()?;
        let _ = subject.island.dir("shop");
        let stack = Self { subject };
        stack.write("compose.yaml", file);
        Some(stack)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.subject.island.path("shop").join(name), text).unwrap();
    }

    pub(super) fn run(&self, words: &[&str]) -> Run {
        let words = [&["compose"][..], words].concat();
        let mut command = self.subject.command(&words);
        for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "COMPOSE_ENV_FILES"] {
            command.env_remove(name);
        }
        command.current_dir(self.subject.island.path("shop")).env("FROM_USER", "user's");
        finish(&mut command, b"")
    }

    #[track_caller]
    pub(super) fn ok(&self, words: &[&str]) -> Run {
        self.run(words).expect(0)
    }

    /// Containers' names and ids.
    #[track_caller]
    pub(super) fn ids(&self) -> Vec<(String, String)> {
        let listed = self.ok(&["ps", "-a", "--no-trunc", "--format", "{{.Name}} {{.ID}}"]);
        let pair = |line: &str| line.split_once(' ').map(|(name, id)| (name.to_owned(), id.to_owned()));
        listed.out.lines().filter_map(pair).collect()
    }

    #[track_caller]
    pub(super) fn names(&self) -> String {
        self.ids().into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    pub(super) fn inspect(&self, name: &str) -> Value {
        let text = self.subject.insula(&["inspect", name]).expect(0).out;
        serde_json::from_str::<Value>(&text).unwrap()[0].clone()
    }

    pub(super) fn finish(self) {
        let volumes = self.subject.insula(&["volume", "ls", "-q"]).expect(0);
        assert_eq!(volumes.text(), "", "volumes are left");
        self.subject.finish();
    }
}

pub(super) const SHOP: &str = r#"
x-base: &base {image: "test:1", network_mode: none, stop_grace_period: 0s}
services:
  db:
    <<: *base
    command: sh -c "touch /data/here; sleep 0.3; touch /ready; echo serving; exec sleep 1000"
    volumes: [data:/data, /scratch]
    healthcheck: {test: test -e /ready, interval: 200ms, retries: 100}
    environment: {COLOUR: "${COLOUR:-red}", FROM_USER: }
    env_file: [{path: db.env}]
  setup:
    <<: *base
    command: sh -c "echo set up"
    depends_on: {db: {condition: service_healthy}}
  web:
    <<: *base
    command: sh -c "echo hello; echo trouble >&2; exec sleep 1000"
    depends_on: {setup: {condition: service_completed_successfully}}
    deploy: {replicas: 2, resources: {limits: {memory: 64m, pids: 50}}}
    configs: [{source: page, target: /etc/page, mode: 0444}]
    secrets: [key]
    labels: {own: "yes"}
    post_start: [{command: [sh, -c, "echo $$WHO > /hooked"], environment: {WHO: me}}]
  tool: {<<: *base, command: echo tool, profiles: [tools]}
volumes: {data: }
configs: {page: {content: "to ${FROM_USER}"}}
secrets: {key: {environment: FROM_USER}}
"#;

#[test]
fn a_project_becomes_what_its_file_says() {
    let Some(stack) = Stack::start(SHOP) else { return };
    stack.write("db.env", "FILE_VALUE=\"a b\" # why\n");
    let up = stack.ok(&["up", "-d"]);
    for line in [" Volume shop_data  Created", " Container shop-db-1  Healthy", " Container shop-setup-1  Exited"] {
        assert!(up.err.lines().any(|shown| shown == line), "{line} in {}", up.err);
    }
    let order = |name: &str| up.err.find(&format!("Container shop-{name}-1  Started")).unwrap();
    assert!(order("db") < order("setup") && order("setup") < order("web"), "{}", up.err);
    assert_eq!(stack.names(), "shop-db-1 shop-setup-1 shop-web-1 shop-web-2");
    labels_are_those_of_docker_compose(&stack);
    assert_eq!(
        stack.ok(&["exec", "-T", "web", "cat", "/etc/page", "/run/secrets/key", "/hooked"]).out,
        "to user'suser'sme\n"
    );
    let env = stack.ok(&["exec", "-T", "db", "sh", "-c", "echo $COLOUR $FROM_USER $FILE_VALUE"]);
    assert_eq!(env.text(), "red user's a b");
    let logs = stack.ok(&["logs", "web", "--no-color"]);
    assert_eq!(
        (logs.out.as_str(), logs.err.as_str()),
        ("web-1  | hello\nweb-2  | hello\n", "web-1  | trouble\nweb-2  | trouble\n")
    );
    assert_eq!(stack.ok(&["ps", "--services"]).out, "db\nweb\n");
    assert_eq!(stack.ok(&["ls", "-q"]).text(), "shop");
    assert!(stack.ok(&["top", "db"]).out.contains("sleep 1000"));
    assert!(stack.ok(&["images"]).out.contains("test"));
    it_converges(&stack);
    single_programs_and_profiles(&stack);
    let down = stack.ok(&["down", "-v"]);
    assert!(down.err.contains(" Volume shop_data  Removed"), "{}", down.err);
    assert_eq!(stack.names(), "");
    stack.finish();
}

fn labels_are_those_of_docker_compose(stack: &Stack) {
    let web = stack.inspect("shop-web-2");
    let label = |name: &str| {
        web["Config"]["Labels"][format!("com.docker.compose.{name}")].as_str().unwrap_or_default().to_owned()
    };
    let folder = fs::canonicalize(stack.subject.island.path("shop")).unwrap();
    assert_eq!(label("project"), "shop");
    assert_eq!(label("service"), "web");
    assert_eq!(label("container-number"), "2");
    assert_eq!(label("oneoff"), "False");
    assert_eq!(label("project.working_dir"), folder.to_str().unwrap());
    assert_eq!(label("project.config_files"), folder.join("compose.yaml").to_str().unwrap());
    assert_eq!(label("depends_on"), "setup:service_completed_successfully:false");
    assert_eq!(label("image"), web["Image"].as_str().unwrap());
    let hash = stack.ok(&["config", "--hash", "web"]);
    assert_eq!(format!("web {}", label("config-hash")), hash.text());
    assert_eq!(web["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(web["Config"]["Labels"]["own"], "yes");
    let volume = stack.subject.insula(&[
        "volume",
        "inspect",
        "-f",
        "{{index .Labels \"com.docker.compose.volume\"}}",
        "shop_data",
    ]);
    assert_eq!(volume.expect(0).text(), "data");
}

/// Only what is not what the file says is made anew.
fn it_converges(stack: &Stack) {
    let before = stack.ids();
    stack.ok(&["exec", "-T", "db", "sh", "-c", "echo kept > /scratch/kept"]);
    stack.ok(&["up", "-d"]);
    assert_eq!(stack.ids(), before, "nothing has changed");
    stack.write(".env", "COLOUR=blue\n");
    let up = stack.ok(&["up", "-d"]);
    assert!(up.err.contains("Container shop-db-1  Recreated"), "{}", up.err);
    let after = stack.ids();
    let changed: Vec<&str> =
        before.iter().zip(&after).filter(|(a, b)| a != b).map(|((name, _), _)| name.as_str()).collect();
    assert_eq!(changed, ["shop-db-1"]);
    let seen = stack.ok(&["exec", "-T", "db", "sh", "-c", "echo $COLOUR; cat /scratch/kept; ls /data"]);
    assert_eq!(seen.out, "blue\nkept\nhere\n", "a volume without a name goes on");
    stack.ok(&["up", "-d", "--force-recreate", "--no-deps", "-V", "db"]);
    assert_eq!(stack.ok(&["exec", "-T", "db", "ls", "/scratch"]).out, "", "-V gives a new one");
    stack.ok(&["up", "-d", "--scale", "web=3", "--no-recreate"]);
    assert_eq!(stack.names(), "shop-db-1 shop-setup-1 shop-web-1 shop-web-2 shop-web-3");
    stack.ok(&["scale", "web=1"]);
    assert_eq!(stack.names(), "shop-db-1 shop-setup-1 shop-web-1");
    stack.ok(&["pause", "web"]);
    assert_eq!(stack.ok(&["ps", "--status", "paused", "--format", "{{.Name}}"]).text(), "shop-web-1");
    stack.ok(&["unpause", "web"]);
    stack.ok(&["stop", "web"]);
    assert_eq!(stack.ok(&["ps", "--services"]).text(), "db");
    stack.ok(&["start", "web"]);
    stack.ok(&["restart", "web"]);
    stack.ok(&["kill", "-s", "KILL", "web"]);
    let ended = wait_for(SOON, || (stack.ok(&["ps", "--services"]).text() == "db").then_some(()));
    assert!(ended.is_some(), "web goes on");
    stack.ok(&["rm", "-f", "web"]);
    assert_eq!(stack.names(), "shop-db-1 shop-setup-1");
    let dry = stack.ok(&["--dry-run", "up", "-d"]);
    assert!(dry.err.contains("Container shop-web-1  Created"), "{}", dry.err);
    assert_eq!(stack.names(), "shop-db-1 shop-setup-1", "a dry run does nothing");
}

fn single_programs_and_profiles(stack: &Stack) {
    let once = stack.ok(&[
        "run",
        "--rm",
        "-T",
        "--no-deps",
        "-e",
        "X=1",
        "-l",
        "a=b",
        "web",
        "sh",
        "-c",
        "echo $X; cat /etc/page",
    ]);
    assert_eq!(once.out, "1\nto user's");
    assert_eq!(stack.run(&["run", "--rm", "-T", "--no-deps", "web", "sh", "-c", "exit 7"]).code, 7);
    let name = stack.ok(&["run", "-d", "--no-deps", "web", "sleep", "1000"]).text().to_owned();
    assert!(name.starts_with("shop-web-run-"), "{name}");
    assert_eq!(stack.inspect(&name)["Config"]["Labels"]["com.docker.compose.oneoff"], "True");
    stack.ok(&["--profile", "tools", "up", "-d", "tool"]);
    let printed = || stack.ok(&["--profile", "tools", "logs", "tool"]).out.contains("tool-1  | tool").then_some(());
    assert!(wait_for(SOON, printed).is_some(), "the program that starts has printed nothing");
    let wrong = stack.run(&["up", "-d", "nothing"]);
    assert_eq!((wrong.code, wrong.err.trim()), (1, "insula: no such service: nothing"));
    stack.write("compose.yaml", "services:\n  web:\n    image: test:1\n    port: [1]\n");
    let wrong = stack.run(&["up", "-d"]);
    assert!(
        wrong.err.contains("compose.yaml:4: services.web: unknown name \"port\"; did you mean \"ports\"?"),
        "{}",
        wrong.err
    );
    stack.write("compose.yaml", &format!("{SHOP}\n"));
    let less = SHOP.replace("  tool: {<<: *base, command: echo tool, profiles: [tools]}\n", "");
    stack.write("compose.yaml", &less);
    let up = stack.ok(&["up", "-d"]);
    assert!(up.err.contains("orphan containers (shop-tool-1)"), "{}", up.err);
    let up = stack.ok(&["up", "-d", "--remove-orphans"]);
    assert!(up.err.contains("Container shop-tool-1  Removed"), "{}", up.err);
}

#[test]
fn containers_in_the_foreground() {
    let file = r#"
services:
  job: {image: "test:1", network_mode: none, command: sh -c "echo one; sleep 0.5; exit 5", depends_on: [side]}
  side: {image: "test:1", network_mode: none, stop_grace_period: 0s, command: sh -c "echo two; exec sleep 1000"}
"#;
    let Some(stack) = Stack::start(file) else { return };
    let run = stack.run(&["up", "--exit-code-from", "job", "--no-color"]).expect(5);
    for line in ["job-1   | one", "side-1  | two", "job-1 exited with code 5"] {
        assert!(run.out.lines().any(|shown| shown == line), "{line} in {}", run.out);
    }
    assert!(run.err.contains("Aborting on container exit...\n"), "{}", run.err);
    assert_eq!(stack.ok(&["ps", "--services"]).text(), "");
    stack.ok(&["up", "-d", "job"]);
    assert_eq!(stack.run(&["wait", "job"]).code, 5);
    // a person at a terminal, who leaves
    let mut command = stack.subject.command(&["compose", "up"]);
    command.current_dir(stack.subject.island.path("shop"));
    let mut terminal = testkit::Terminal::spawn(&command);
    terminal.expect("side-1", Duration::from_secs(10));
    terminal.expect("one", Duration::from_secs(10));
    terminal.send("\x03");
    assert_eq!(terminal.wait(SOON).code(), Some(130), "{}", terminal.shown());
    assert_eq!(stack.ok(&["ps", "--services"]).text(), "");
    stack.ok(&["down"]);
    stack.finish();
}

#[test]
fn services_find_each_other() {
    let file = r#"
x-base: &base {image: "test:1", stop_grace_period: 0s, volumes: ["/bin/busybox:/busybox:ro"]}
services:
  web:
    <<: *base
    command: [sh, -c, "mkdir /srv; echo served > /srv/page; exec /busybox httpd -f -p 80 -h /srv"]
    networks: {default: {aliases: [www]}, back: }
    ports: ["127.0.0.1:18089:80"]
  ask: {<<: *base, command: sleep 1000, networks: [back]}
  beside: {<<: *base, command: sleep 1000, network_mode: "service:web"}
networks: {back: {internal: true}}
"#;
    let Some(stack) = Stack::start(file) else { return };
    let probe = stack.subject.docker(&["network", "create", "probe"]);
    if probe.code != 0 {
        println!("skipped: this daemon makes no networks: {}", probe.err.trim());
        return stack.subject.finish();
    }
    stack.subject.docker(&["network", "rm", "probe"]).expect(0);
    stack.ok(&["up", "-d"]);
    let answered = wait_for(SOON, || {
        let got = stack.run(&["exec", "-T", "ask", "/busybox", "wget", "-q", "-O", "-", "http://web/page"]);
        (got.out == "served\n").then_some(())
    });
    assert!(answered.is_some(), "web does not answer");
    assert_eq!(
        stack.ok(&["exec", "-T", "beside", "/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1/page"]).out,
        "served\n"
    );
    assert_eq!(
        stack.ok(&["exec", "-T", "web", "/busybox", "wget", "-q", "-O", "-", "http://www/page"]).out,
        "served\n"
    );
    assert_eq!(stack.ok(&["port", "web", "80"]).text(), "127.0.0.1:18089");
    let network = stack.subject.docker(&[
        "network",
        "inspect",
        "-f",
        "{{index .Labels \"com.docker.compose.network\"}} {{.Internal}}",
        "shop_back",
    ]);
    assert_eq!(network.expect(0).text(), "back true");
    let before = stack.ids();
    stack.ok(&["stop"]);
    stack.ok(&["up", "-d"]);
    assert_eq!(stack.ids(), before, "nothing has changed");
    // a network of which the file says something else is made anew below what is on it
    stack.write("compose.yaml", &file.replace("{internal: true}", "{internal: true, labels: {a: b}}"));
    let up = stack.ok(&["up", "-d"]);
    assert!(up.err.contains("Network shop_back  Removed"), "{}", up.err);
    assert_eq!(stack.ids(), before, "{}", up.err);
    for (who, address) in [("ask", "http://web/page"), ("beside", "http://127.0.0.1/page")] {
        let answered = wait_for(SOON, || {
            let got = stack.run(&["exec", "-T", who, "/busybox", "wget", "-q", "-O", "-", address]);
            (got.out == "served\n").then_some(())
        });
        assert!(answered.is_some(), "web does not answer {who} any more: {}", up.err);
    }
    let down = stack.ok(&["down"]);
    assert!(down.err.contains("Network shop_default  Removed"), "{}", down.err);
    stack.finish();
}

#[test]
fn images_are_built_and_files_watched() {
    if crate::subject::skip_unless_insula() {
        return;
    }
    let file = r#"
services:
  base: {build: {context: ., dockerfile_inline: "FROM test:1\nRUN echo base > /base"}, image: "shop-base:1", command: "true", network_mode: none}
  app:
    build: {context: ., args: {WORD: "${WORD:-one}"}, additional_contexts: {below: "service:base"}}
    network_mode: none
    stop_grace_period: 0s
    command: sleep 1000
    develop:
      watch:
        - {path: ./src, action: sync, target: /src, ignore: ["*.tmp"]}
        - {path: ./again, action: sync+exec, target: /again, exec: {command: touch /synced}}
"#;
    let Some(stack) = Stack::start(file) else { return };
    stack.write("Dockerfile", "ARG WORD\nFROM below\nARG WORD\nRUN echo $WORD > /word\nCOPY src /src\n");
    for (name, text) in [("src/a", "old\n"), ("again/b", "old\n")] {
        let _ = stack.subject.island.file(&format!("shop/{name}"), text);
    }
    stack.ok(&["build"]);
    stack.ok(&["up", "-d", "app"]);
    assert_eq!(stack.ok(&["exec", "-T", "app", "cat", "/base", "/word", "/src/a"]).out, "base\none\nold\n");
    stack.write(".env", "WORD=two\n");
    let up = stack.ok(&["up", "-d", "--build", "app"]);
    assert!(up.err.contains("Container shop-app-1  Recreated"), "{}", up.err);
    assert_eq!(stack.ok(&["exec", "-T", "app", "cat", "/word"]).text(), "two");
    let mut command = stack.subject.command(&["compose", "watch", "--no-up"]);
    command.current_dir(stack.subject.island.path("shop"));
    let mut terminal = testkit::Terminal::spawn(&command);
    terminal.expect("Watch enabled", SOON);
    for (name, text) in [("src/a", "new\n"), ("src/no.tmp", "no"), ("src/deep/c", "deep\n"), ("again/b", "new\n")] {
        let _ = stack.subject.island.file(&format!("shop/{name}"), text);
    }
    let seen = |line: &str| stack.run(&["exec", "-T", "app", "sh", "-c", line]).out;
    let synced = wait_for(SOON, || {
        (seen("cat /src/a /src/deep/c /again/b; ls /synced") == "new\ndeep\nnew\n/synced\n").then_some(())
    });
    assert!(synced.is_some(), "{}\n{}", seen("find /src /again /synced"), terminal.shown());
    assert_eq!(seen("ls /src/no.tmp 2>/dev/null"), "", "what is ignored stays out");
    fs::remove_file(stack.subject.island.path("shop/src/a")).unwrap();
    let gone = wait_for(SOON, || seen("ls /src").lines().all(|name| name != "a").then_some(()));
    assert!(gone.is_some(), "what was removed is still there");
    terminal.send("\x03");
    terminal.wait(SOON);
    stack.ok(&["down", "--rmi", "local"]);
    stack.finish();
}
