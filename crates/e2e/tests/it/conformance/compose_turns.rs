//! What scripts match on in `insula compose`, and what becomes of a project when its file changes, against whichever subject is
//! chosen. The cases are those of docker compose's own suite.

use std::fs;

use super::compose::Stack;
use crate::subject::Run;

#[track_caller]
fn says(run: &Run, lines: &[&str]) {
    for line in lines {
        assert!(run.err.contains(line), "{line} in {}", run.err);
    }
}

#[test]
fn without_a_file_labels_tell() {
    let file = r#"
x-base: &base {image: "test:1", network_mode: none, stop_grace_period: 0s, command: sleep 1000}
services:
  db: {<<: *base, healthcheck: {test: "true", interval: 100ms}}
  web: {<<: *base, depends_on: {db: {condition: service_healthy, restart: true}}}
  odd: {<<: *base, env_file: nowhere.env, profiles: [odd]}
  late: {<<: *base, healthcheck: {test: "true", start_interval: 1s}, profiles: [odd]}
"#;
    let Some(stack) = Stack::start(file) else { return };
    stack.ok(&["up", "-d"]);
    // given by a flag, the name is all that counts
    says(&stack.ok(&["-p", "shop", "stop", "web"]), &["Container shop-web-1  Stopped"]);
    says(
        &stack.ok(&["-p", "shop", "stop", "web"]),
        &["Container shop-web-1  Stopping", "Container shop-web-1  Stopped"],
    );
    let started = stack.ok(&["-p", "shop", "start", "web"]);
    says(&started, &["Container shop-db-1  Healthy", "Container shop-web-1  Started"]);
    let again = stack.ok(&["-p", "shop", "restart", "db"]);
    says(
        &again,
        &["Container shop-db-1  Restarting", "Container shop-db-1  Healthy", "Container shop-web-1  Restarting"],
    );
    says(
        &stack.run(&["exec", "--index", "7", "web", "true"]).expect(1),
        &[r#"service "web" is not running container #7"#],
    );
    // single programs are entered where there is no other container
    stack.ok(&["stop", "web"]);
    stack.ok(&["run", "-d", "--no-deps", "web", "cat"]);
    assert_eq!(stack.ok(&["exec", "-T", "web", "cat", "/proc/1/comm"]).text(), "cat");
    // orphans of single programs are told of once they have ended
    stack.ok(&["run", "--no-deps", "db", "true"]);
    says(&stack.ok(&["up", "-d", "db"]), &["found orphan containers (shop-db-run-"]);
    stack.ok(&["up", "-d", "--remove-orphans", "db"]);
    assert!(!stack.names().contains("shop-db-run-"), "{}", stack.names());
    // what takes no part may lack its files
    says(&stack.run(&["up", "-d", "odd"]), &["nowhere.env"]);
    says(
        &stack.run(&["up", "-d", "late"]).expect(1),
        &["healthcheck.start_interval requires healthcheck.start_period to be set"],
    );
    let down = stack.ok(&["-p", "shop", "down"]);
    let at = |line: &str| down.err.find(line).unwrap_or_else(|| panic!("{line} in {}", down.err));
    assert!(at("shop-web-1  Removed") < at("shop-db-1  Stopping"), "{}", down.err);
    stack.finish();
}

#[test]
fn volumes_and_networks_follow_the_file() {
    let file = |volume: &str, network: &str| {
        format!(
            "services:\n  app: {{image: 'test:1', command: sleep 1000, stop_grace_period: 0s, volumes: ['v:/v'], networks: [n]}}\nvolumes: {{v: {volume}}}\nnetworks: {{n: {network}}}\n"
        )
    };
    let Some(stack) = Stack::start(&file("{labels: {kind: one}}", "{labels: {kind: one}}")) else { return };
    stack.ok(&["up", "-d"]);
    stack.ok(&["exec", "-T", "app", "touch", "/v/kept"]);
    let id = |stack: &Stack| stack.ids()[0].1.clone();
    let first = id(&stack);
    // the network is made anew, and the container goes on in it
    stack.write("compose.yaml", &file("{labels: {kind: one}}", "{labels: {kind: two}}"));
    let up = stack.ok(&["up", "-d"]);
    says(
        &up,
        &[
            "Container shop-app-1  Stopped\n Network shop_n  Removed\n Network shop_n  Creating\n Network shop_n  Created",
        ],
    );
    assert_eq!(id(&stack), first, "{}", up.err);
    let joined = stack.inspect("shop-app-1")["NetworkSettings"]["Networks"]["shop_n"].clone();
    assert!(joined["IPAddress"].as_str().is_some_and(|address| !address.is_empty()), "{joined}");
    assert!(joined["Aliases"].to_string().contains("\"app\""), "{joined}");
    // a volume that the file says something else of stays, until the user agrees
    stack.write("compose.yaml", &file("{labels: {kind: two}}", "{labels: {kind: two}}"));
    says(&stack.ok(&["up", "-d"]), &["the volume shop_v"]);
    stack.ok(&["exec", "-T", "app", "ls", "/v/kept"]);
    says(&stack.ok(&["up", "-d", "-y"]), &["Volume shop_v  Removed", "Volume shop_v  Created"]);
    assert_ne!(stack.run(&["exec", "-T", "app", "ls", "/v/kept"]).code, 0);
    // another volume under the same name makes another container
    stack.subject.insula(&["volume", "create", "elsewhere"]).expect(0);
    stack.write("compose.yaml", &file("{external: true, name: elsewhere}", "{labels: {kind: two}}"));
    says(&stack.ok(&["up", "-d"]), &["Container shop-app-1  Recreated"]);
    assert_eq!(stack.inspect("shop-app-1")["Mounts"][0]["Name"], "elsewhere");
    stack.write("compose.yaml", &file("{external: true, name: gone}", "{external: true, name: gone}"));
    says(&stack.run(&["up", "-d"]).expect(1), &["network gone declared as external, but could not be found"]);
    stack.write("compose.yaml", &file("{labels: {kind: two}}", "{labels: {kind: two}}"));
    stack.ok(&["down", "-v"]);
    stack.subject.insula(&["volume", "rm", "elsewhere"]).expect(0);
    stack.finish();
}

#[test]
fn ends_and_hooks_in_the_foreground() {
    let file = r#"
x-base: &base {image: "test:1", network_mode: none, stop_grace_period: 0s}
services:
  job: {<<: *base, command: "true"}
  worker:
    <<: *base
    command: sleep 1000
    depends_on: {job: {condition: service_completed_successfully}}
    post_start: [{command: sh -c "echo hooked"}]
  stuck: {<<: *base, command: sleep 1000, pre_stop: [{command: sh -c "exit 7"}], profiles: [more]}
  dying: {<<: *base, command: sh -c "exit 1", profiles: [more]}
  needy: {<<: *base, command: "true", depends_on: {dying: {condition: service_healthy}}, profiles: [more]}
  easy: {<<: *base, command: "true", depends_on: {dying: {condition: service_healthy, required: false}}, profiles: [more]}
"#;
    let Some(stack) = Stack::start(file) else { return };
    // the first end counts, and it was a good one
    let run = stack.ok(&["up", "--abort-on-container-exit", "--no-color"]);
    assert!(run.out.lines().any(|line| line == "job-1 exited with code 0"), "{}", run.out);
    says(&run, &["Aborting on container exit...", "Container shop-job-1  Stopped"]);
    stack.ok(&["down"]);
    says(
        &stack.run(&["--profile", "more", "up", "-d", "needy"]).expect(1),
        &["dependency failed to start: container shop-dying-1 exited (1)"],
    );
    says(&stack.ok(&["--profile", "more", "up", "-d", "easy"]), &[r#"optional dependency "dying" failed to start"#]);
    stack.ok(&["up", "-d", "stuck"]);
    says(&stack.run(&["stop", "stuck"]).expect(1), &["stuck hook exited with status 7"]);
    stack.ok(&["kill", "stuck"]);
    stack.ok(&["--profile", "more", "down"]);
    stack.finish();
}

#[test]
fn questions_and_copies() {
    let file = r#"
services:
  web: {image: "test:${TAG:-1}", network_mode: none, stop_grace_period: 0s, command: sleep 1000, depends_on: [db]}
  db: {image: "test:1", network_mode: none, stop_grace_period: 0s, command: sleep 1000}
"#;
    let Some(stack) = Stack::start(file) else { return };
    assert_eq!(
        stack.ok(&["config", "--variables", "--format", "json"]).text(),
        "{\n    \"TAG\": {\n        \"Name\": \"TAG\",\n        \"DefaultValue\": \"1\",\n        \"PresenceValue\": \"\",\n        \"Required\": false\n    }\n}"
    );
    let yaml = stack.ok(&["config", "--variables", "--format", "yaml"]).out;
    assert_eq!(yaml, "TAG:\n    name: TAG\n    defaultvalue: \"1\"\n    presencevalue: \"\"\n    required: false\n");
    let kept = stack.ok(&["config", "--no-interpolate"]).out;
    assert!(kept.starts_with("name: shop\nservices:\n") && kept.contains("test:${TAG:-1}"), "{kept}");
    let graph = stack.ok(&["viz", "--image"]).out;
    assert!(graph.starts_with("digraph \"shop\" {\n\tlayout=dot;\n"), "{graph}");
    assert!(graph.contains("\t\"web\" -> \"db\";\n") && graph.contains("<b>Image:</b><br/>test:1"), "{graph}");
    stack.ok(&["up", "-d"]);
    stack.ok(&["exec", "-T", "db", "touch", "/made"]);
    stack.ok(&["export", "-o", "db.tar", "db"]);
    let archive = fs::read(stack.subject.island.path("shop/db.tar")).unwrap();
    assert!(archive.windows(5).any(|name| name == b"made\0"), "the archive lacks a file");
    stack.ok(&["commit", "-m", "as it is", "db", "shop-db:kept"]);
    assert_eq!(stack.subject.insula(&["run", "--rm", "shop-db:kept", "ls", "/made"]).expect(0).text(), "/made");
    stack.subject.insula(&["rmi", "shop-db:kept"]).expect(0);
    stack.ok(&["down"]);
    // two services cannot have one name
    stack.write(
        "compose.yaml",
        "services: {a: {image: 'test:1', container_name: one}, b: {image: 'test:1', container_name: one}}",
    );
    says(&stack.run(&["up", "-d"]).expect(1), &[r#"container name "one" is already in use"#]);
    stack.finish();
}

#[test]
fn images_that_services_build_for_each_other() {
    if crate::subject::skip_unless_insula() {
        return;
    }
    let file = r#"
services:
  below: {build: {context: ., dockerfile_inline: "FROM test:1\nRUN echo below > /below"}, network_mode: none, command: "true"}
  above: {build: {context: ., dockerfile_inline: "FROM base", additional_contexts: {base: "service:below"}}, network_mode: none}
  maker: {build: {context: ., dockerfile_inline: "FROM test:1"}, image: "shop-made:1", network_mode: none, command: "true"}
  user: {image: "shop-made:1", network_mode: none, command: "true", depends_on: [maker]}
"#;
    let Some(stack) = Stack::start(file) else { return };
    // what it begins with is built with it; the steps are on standard output
    let built = stack.ok(&["build", "above"]);
    assert!(built.out.contains("RUN echo below > /below"), "{}", built.out);
    says(&built, &["Image shop-below  Built", "Image shop-above  Built"]);
    assert_eq!(stack.ok(&["run", "--rm", "above", "cat", "/below"]).text(), "below");
    // no registry is asked for what another service builds
    let up = stack.ok(&["up", "-d", "user"]);
    assert!(!up.err.contains("Pulling"), "{}", up.err);
    says(&stack.ok(&["pull", "below"]), &["below Skipped - No image to be pulled"]);
    stack.ok(&["down", "--rmi", "all"]);
    stack.finish();
}
