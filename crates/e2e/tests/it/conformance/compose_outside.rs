//! What a Compose file asks of programs outside: providers of services, the runner of models, and the daemon's own socket. The same
//! is asked of docker's plugin where there is one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::compose::Stack;
use super::compose_plugin::Pair;
use crate::subject::Run;

/// Writes what it is told into a file beside it.
const CLOUD: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/told"
case "$*" in
*metadata*) echo '{"description": "d", "up": {"parameters": [{"name": "size", "required": true}]}, "down": {}}' ;;
*up*broken*) echo '{"type": "error", "message": "no such cloud"}' ;;
*up*) echo '{"type": "info", "message": "half of it"}'; echo '{"type": "setenv", "message": "URL=cloud://here"}' ;;
esac
"#;
const MODEL: &str = r#"#!/bin/sh
echo "$@" >> FOLDER/told
case "$1" in
docker-cli-plugin-metadata) echo '{"SchemaVersion": "0.1.0", "Vendor": "test", "Version": "1"}' ;;
ls) echo '[{"id": "1", "tags": ["ai/there"]}]' ;;
status) echo '{"endpoint": "http://models/"}' ;;
esac
"#;

fn program(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn variables(stack: &Stack, container: &str) -> Vec<String> {
    let found = stack.inspect(container)["Config"]["Env"].clone();
    found.as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn outside(stack: &Stack, run: &dyn Fn(&[&str]) -> Run) {
    let shop = stack.subject.island.path("shop");
    let (cloud, told) = (shop.join("cloud"), shop.join("told"));
    program(&cloud, CLOUD);
    let file = |kind: &str, more: &str| {
        format!(
            "x-base: &base {{image: 'test:1', network_mode: none, stop_grace_period: 0s, command: sleep 1000}}\nservices:\n  \
             cloud: {{provider: {{type: {kind}, options: {{size: 7, other: x}}}}}}\n  broken: {{provider: {{type: {kind}, options: \
             {{size: 1}}}}, profiles: [odd]}}\n  web: {{<<: *base, depends_on: [cloud], {more}}}\nmodels: {{llm-a: {{model: ai/there, \
             context_size: 9}}, llm-b: {{model: ai/far, runtime_flags: [--x]}}}}\n"
        )
    };
    stack.write("compose.yaml", &file(&cloud.display().to_string(), ""));
    run(&["up", "-d"]).expect(0);
    assert!(variables(stack, "shop-web-1").contains(&"CLOUD_URL=cloud://here".to_owned()));
    let id = stack.ids();
    run(&["up", "-d"]).expect(0);
    assert_eq!(stack.ids(), id, "what the provider says is the same");
    assert!(run(&["up", "-d", "broken"]).expect(1).err.contains("no such cloud"));
    run(&["down"]).expect(0);
    let lines = fs::read_to_string(&told).unwrap();
    for line in
        ["compose metadata", "compose --project-name=shop up --size=7 cloud", "compose --project-name=shop down cloud"]
    {
        assert!(lines.lines().any(|one| one == line), "{line} in {lines}");
    }
    stack.write("compose.yaml", &file("no-such-cloud", ""));
    assert!(run(&["up", "-d"]).expect(1).err.contains("no-such-cloud"));

    let models = "models: {llm-a: {endpoint_var: AT}, llm-b: }";
    stack.write("compose.yaml", &file(&cloud.display().to_string(), models));
    assert!(run(&["up", "-d"]).expect(1).err.contains("'models' support requires Docker Model plugin"));
    let plugins = stack.subject.island.dir("docker-config/cli-plugins");
    program(&plugins.join("docker-model"), &MODEL.replace("FOLDER", &shop.display().to_string()));
    run(&["up", "-d"]).expect(0);
    let has = variables(stack, "shop-web-1");
    for variable in ["AT=http://models/", "LLM_A_MODEL=ai/there", "LLM_B_MODEL=ai/far", "LLM_B_URL=http://models/"] {
        assert!(has.contains(&variable.to_owned()), "{variable} in {has:?}");
    }
    let lines = fs::read_to_string(&told).unwrap();
    for line in ["pull ai/far", "configure --context-size 9 ai/there", "configure ai/far -- --x"] {
        assert!(lines.lines().any(|one| one == line), "{line} in {lines}");
    }
    assert!(!lines.contains("pull ai/there"), "{lines}");
    run(&["down"]).expect(0);
}

#[test]
fn providers_and_models() {
    let Some(stack) = Stack::start("services: {}") else { return };
    outside(&stack, &|words| stack.run(words));
    stack.finish();
}

#[test]
fn providers_and_models_of_the_plugin() {
    let Some(pair) = Pair::start("services: {}") else { return };
    outside(&pair.stack, &|words| pair.run(words));
    pair.stack.finish();
}

#[test]
fn the_daemons_socket() {
    let file = "services: {a: {image: 'test:1', network_mode: none, stop_grace_period: 0s, command: sleep 1000, use_api_socket: true}}";
    let Some(stack) = Stack::start(file) else { return };
    let config = stack.subject.island.dir("docker-config").join("config.json");
    fs::write(&config, r#"{"auths": {"far:5000": {"auth": "eDp5"}}, "currentContext": "default"}"#).unwrap();
    stack.ok(&["up", "-d"]);
    stack.ok(&["exec", "-T", "a", "test", "-S", "/var/run/docker.sock"]);
    let text = stack.ok(&["exec", "-T", "a", "sh", "-c", "cat $DOCKER_CONFIG/config.json"]).out;
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        serde_json::json!({"auths": {"far:5000": {"auth": "eDp5"}}})
    );
    let id = stack.ids();
    stack.ok(&["up", "-d"]);
    assert_eq!(stack.ids(), id);
    stack.ok(&["down"]);
    stack.finish();
}
