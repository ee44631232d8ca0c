//! Small things that programs rely on, of whichever subject is chosen.

use serde_json::{Value, json};

use crate::kernel::compat::{answer, ask};
use crate::subject::{IMAGE, Run, Subject};

/// A container in the default network that sleeps.
fn sleeping(subject: &Subject, name: &str, options: &[&str]) -> String {
    let words = [&["run", "-d", "--name", name][..], options, &[IMAGE, "sleep", "1000"]].concat();
    subject.docker(&words).expect(0).text().to_owned()
}

/// A field as JSON.
fn field(subject: &Subject, name: &str, template: &str) -> Value {
    let shown = subject.docker(&["inspect", "-f", &format!("{{{{json {template}}}}}"), name]).expect(0);
    serde_json::from_str(shown.text()).unwrap()
}

fn words(run: &Run) -> Vec<&str> {
    run.out.split_whitespace().collect()
}

#[test]
fn containers_are_shown_as_they_are_known() {
    let Some(subject) = Subject::start() else { return };
    if subject.docker_command(&[]).is_none() {
        return;
    }
    linked(&subject);
    executed(&subject);
    made_of(&subject);
    ended(&subject);
    created(&subject);
    let all = subject.docker(&["ps", "-aq"]).expect(0);
    subject.docker(&[&["rm", "-fv"][..], &words(&all)].concat()).expect(0);
    subject.finish();
}

fn linked(subject: &Subject) {
    let db = sleeping(subject, "db", &["--hostname", "fred"]);
    sleeping(subject, "web", &["--link", "db:store", "--ulimit", "nofile=511:511"]);
    let names = subject.docker(&["ps", "--no-trunc", "--format", "{{.Names}}", "--filter", &format!("id={db}")]);
    let mut names: Vec<&str> = names.text().split(',').collect();
    names.sort_unstable();
    assert_eq!(names, ["db", "web/store"]);
    let shown = answer(subject, "GET", "/containers/web/store/json", None).unwrap();
    assert_eq!(shown["Id"], *db);
    let hosts = subject.docker(&["exec", "web", "cat", "/etc/hosts"]).expect(0);
    assert!(hosts.out.contains("\tstore fred db\n"), "{}", hosts.out);
    let env = subject.docker(&["exec", "web", "env"]).expect(0);
    assert!(env.out.contains("STORE_NAME=/web/store\n"), "{}", env.out);
    subject.docker(&["network", "create", "own"]).expect(0);
    let id = sleeping(subject, "named", &["--network", "own", "--network-alias", "x"]);
    let shown = answer(subject, "GET", "/v1.41/containers/named/json", None).unwrap();
    let aliases = &shown["NetworkSettings"]["Networks"]["own"]["Aliases"];
    assert!(aliases.as_array().unwrap().contains(&json!(id[..12])), "{aliases}");
    subject.docker(&["rm", "-f", "named"]).expect(0);
    subject.docker(&["network", "rm", "own"]).expect(0);
    let (status, said) = ask(subject, "POST", "/containers/web/attach?stream=1&stdout=1&detachKeys=ctrl-A", None);
    assert!(status == 400 && said.contains("Invalid detach keys (ctrl-A) provided"), "{status} {said}");
    let refused = subject.docker(&["create", "--link", "nobody:x", IMAGE, "true"]).expect(1);
    assert!(refused.err.contains("could not get container for nobody"), "{}", refused.err);
    let same = subject.docker(&["rename", "db", "db"]).expect(1);
    assert!(same.err.contains("Renaming a container with the same name"), "{}", same.err);
}

fn executed(subject: &Subject) {
    assert_eq!(subject.docker(&["exec", "web", "sh", "-c", "ulimit -n"]).expect(0).text(), "511");
    // those that have ended are no longer the container's
    assert_eq!(field(subject, "web", ".ExecIDs"), Value::Null);
    subject.docker(&["exec", "-d", "web", "sleep", "900"]).expect(0);
    assert_eq!(field(subject, "web", ".ExecIDs").as_array().map(Vec::len), Some(1));
}

fn made_of(subject: &Subject) {
    let change = ["--change", "ENV PATH=/bin", "--change", "ENV PATH=/opt:$PATH"];
    subject.docker(&[&["commit"][..], &change, &["web", "child:1"]].concat()).expect(0);
    let env = field(subject, "child:1", ".Config.Env");
    assert!(env.as_array().unwrap().contains(&json!("PATH=/opt:/bin")), "{env}");
    subject.docker(&["top", "web"]).expect(0);
    subject.docker(&["cp", "web:/etc/hostname", "-"]).expect(0);
    let told = past(subject, "container=web");
    for action in ["commit", "top", "archive-path"] {
        assert!(words(&told).contains(&action), "{action}: {}", told.out);
    }
    let shown = answer(subject, "GET", "/v1.41/images/child:1/json", None).unwrap();
    assert_eq!(shown["Container"], field(subject, "web", ".Id"));
    subject.docker(&["create", "--name", "young", "child:1", "true"]).expect(0);
    let of = format!("ancestor={IMAGE}");
    let shown = subject.docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &of]).expect(0);
    assert!(words(&shown).contains(&"young"), "{}", shown.out);
    let shown = subject.docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", "ancestor=child:1"]).expect(0);
    assert_eq!(words(&shown), ["young"]);
    // the name goes to another image
    subject.docker(&["tag", IMAGE, "child:1"]).expect(0);
    let image =
        subject.docker(&["ps", "-a", "--no-trunc", "--filter", "name=young", "--format", "{{.Image}}"]).expect(0);
    assert!(image.text().starts_with("sha256:"), "{}", image.out);
}

/// What has happened: an end alone asks for the past.
fn past(subject: &Subject, filter: &str) -> Run {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    subject.docker(&["events", "--until", &now.to_string(), "--filter", filter, "--format", "{{.Action}}"]).expect(0)
}

fn ended(subject: &Subject) {
    let options = ["run", "-d", "--name", "kept", "--restart", "always", "--stop-signal", "TERM", "--network", "none"];
    let program = [IMAGE, "sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"];
    subject.docker(&[&options[..], &program].concat()).expect(0);
    subject.await_logs("kept", "up\n");
    // what a stop would send is one
    subject.docker(&["kill", "-s", "TERM", "kept"]).expect(0);
    subject.await_docker("kept", "{{.State.Status}}", "exited");
    assert_eq!(subject.docker(&["logs", "--tail", "some", "kept"]).expect(0).out, "up\n");
    let shown = past(subject, "container=kept");
    for action in ["create", "start", "kill", "die"] {
        assert!(words(&shown).contains(&action), "{action}: {}", shown.out);
    }
    assert!(!words(&shown).contains(&"stop"), "{}", shown.out);
    // a stop and a restart are told by their names, behind what they do
    subject.docker(&["restart", "kept"]).expect(0);
    subject.docker(&["restart", "kept"]).expect(0);
    subject.docker(&["stop", "kept"]).expect(0);
    let shown = past(subject, "container=kept");
    let told: Vec<&str> = words(&shown).into_iter().filter(|action| *action != "kill").collect();
    assert!(told.ends_with(&["start", "restart", "die", "stop", "start", "restart", "die", "stop"]), "{}", shown.out);
}

fn created(subject: &Subject) {
    let text = json!({ "Image": IMAGE, "Entrypoint": "echo", "Cmd": "one word" });
    answer(subject, "POST", "/containers/create?name=word", Some(&text)).unwrap();
    assert_eq!(field(subject, "word", ".Config.Cmd"), json!(["one word"]));
    assert_eq!(field(subject, "word", ".Path"), json!("echo"));
    let there = json!({ "Image": IMAGE, "Cmd": ["true"], "WorkingDir": "/srv/./a/../" });
    answer(subject, "POST", "/containers/create?name=there", Some(&there)).unwrap();
    assert_eq!(field(subject, "there", ".Config.WorkingDir"), json!("/srv"));
    let masked = field(subject, "word", ".HostConfig.MaskedPaths");
    assert!(masked.as_array().unwrap().contains(&json!("/proc/kcore")), "{masked}");
    let sets = json!({ "Image": IMAGE, "Cmd": ["true"], "HostConfig": { "MaskedPaths": [], "Privileged": true, "Tmpfs": { "/t": "" } } });
    answer(subject, "POST", "/containers/create?name=bare", Some(&sets)).unwrap();
    assert_eq!(field(subject, "bare", ".HostConfig.MaskedPaths"), json!([]));
    assert_eq!(field(subject, "bare", ".HostConfig.ReadonlyPaths"), Value::Null);
    assert_eq!(field(subject, "bare", ".Mounts"), json!([]));
    for name in ["first", "second"] {
        subject.docker(&["create", "--name", name, "-v", "/data", IMAGE, "true"]).expect(0);
    }
    let from = ["--volumes-from", "first", "--volumes-from", "second"];
    subject.docker(&[&["create", "--name", "both"][..], &from, &[IMAGE, "true"]].concat()).expect(0);
    let volume = "(index .Mounts 0).Name";
    assert_eq!(field(subject, "both", volume), field(subject, "second", volume));
    // what has to be some volume gives way to one of somebody else's
    subject.docker(&["create", "--name", "same", "--volumes-from", "first", "-v", "/data", IMAGE, "true"]).expect(0);
    assert_eq!(field(subject, "same", volume), field(subject, "first", volume));
    let hosts = ["run", "--rm", "--network", "host", "--add-host", "extra:1.2.3.4", IMAGE, "cat", "/etc/hosts"];
    assert!(subject.docker(&hosts).expect(0).out.ends_with("1.2.3.4\textra\n"));
    let wrong = [
        ("/containers/create", json!({}), 400, "Config cannot be empty"),
        (
            "/containers/create?platform=linux/s390x",
            json!({ "Image": IMAGE, "Cmd": ["a"] }),
            404,
            "does not match the specified platform",
        ),
        (
            "/containers/create",
            json!({ "Image": IMAGE, "Cmd": ["a"], "HostConfig": { "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": -1 } } }),
            400,
            "maximum retry count cannot be negative",
        ),
        ("/session", json!(null), 400, "no upgrade"),
    ];
    for (path, body, status, part) in wrong {
        let (got, said) = ask(subject, "POST", path, Some(&body));
        assert!(got == status && said.contains(part), "{path} {body}: {got} {said}");
    }
    assert_eq!(ask(subject, "OPTIONS", "/", None).0, 200);
    assert_eq!(ask(subject, "GET", "/networks/", None).0, 200);
}
