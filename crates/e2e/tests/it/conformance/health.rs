//! Health checks, as docker's client asks for and shows them.

use crate::subject::{IMAGE, Kind, Subject};

#[test]
fn a_container_becomes_ill_and_well_again() {
    let Some(mut subject) = Subject::start() else { return };
    if subject.docker_command(&[]).is_none() {
        return;
    }
    let words = |line: &str| {
        let fixed = ["run", "-d", "--network", "none", "--name", "web"];
        let flags: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mut all: Vec<String> = fixed.iter().map(ToString::to_string).collect();
        all.extend(flags);
        all
    };
    let mut run = words("--health-interval 100ms --health-retries 2 --health-timeout 500ms");
    run.extend(["--health-cmd", "echo looking; test -e /well", IMAGE, "sleep", "100"].map(str::to_owned));
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    subject.docker(&run).expect(0);
    subject.await_docker("web", "{{.State.Health.Status}}", "unhealthy");
    let shown = subject.docker(&["inspect", "-f", "{{json .State.Health}}", "web"]).expect(0);
    let health: serde_json::Value = serde_json::from_str(shown.text()).unwrap();
    let first = &health["Log"][0];
    assert_eq!((&first["ExitCode"], &first["Output"]), (&1.into(), &"looking\n".into()), "{health}");
    assert!(health["FailingStreak"].as_i64() >= Some(2) && health["Log"].as_array().unwrap().len() <= 5, "{health}");
    assert!(subject.docker(&["ps"]).expect(0).out.contains("(unhealthy)"));
    let listed = |health: &str| subject.docker(&["ps", "-q", "-f", &format!("health={health}")]).expect(0).out;
    assert_eq!((listed("unhealthy").lines().count(), listed("healthy").lines().count()), (1, 0));
    subject.docker(&["exec", "web", "touch", "/well"]).expect(0);
    subject.await_docker("web", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "healthy 0");
    if subject.kind == Kind::Insula {
        // its word is kept, and the probes go on
        subject.end_daemon(rustix::process::Signal::KILL);
        subject.start_daemon();
        assert_eq!(subject.docker(&["inspect", "-f", "{{.State.Health.Status}}", "web"]).expect(0).text(), "healthy");
        subject.docker(&["exec", "web", "rm", "/well"]).expect(0);
        subject.await_docker("web", "{{.State.Health.Status}}", "unhealthy");
    }
    let filter =
        ["events", "--since", "1m", "--until", "0s", "--filter", "event=health_status", "--format", "{{.Action}}"];
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let told = subject.docker(&filter).expect(0).out;
    let told: Vec<&str> = told.lines().take(2).collect();
    assert_eq!(told, ["health_status: unhealthy", "health_status: healthy"]);
    subject.docker(&["stop", "-t", "0", "web"]).expect(0);
    assert_eq!(subject.docker(&["inspect", "-f", "{{.State.Health.Status}}", "web"]).expect(0).text(), "unhealthy");
    subject.finish();
}

#[test]
fn health_checks_come_from_the_image_too() {
    let Some(subject) = Subject::start() else { return };
    if subject.docker_command(&[]).is_none() {
        return;
    }
    let folder = subject.island.dir("context");
    let text = format!(
        "FROM {IMAGE}\nSHELL [\"/bin/sh\", \"-ec\"]\nHEALTHCHECK --interval=100ms --timeout=300ms --retries=1 CMD sleep 50\nCMD [\"sleep\", \"100\"]\n"
    );
    std::fs::write(folder.join("Dockerfile"), text).unwrap();
    let mut build = subject.docker_command(&["build", "-q", "-t", "well:1", folder.to_str().unwrap()]).unwrap();
    crate::subject::finish(build.env("DOCKER_BUILDKIT", "0"), b"").expect(0);
    let run = |name: &str, flags: &[&str]| {
        let words = [&["run", "-d", "--network", "none", "--name", name][..], flags, &["well:1"]].concat();
        subject.docker(&words).expect(0);
    };
    run("slow", &[]);
    run("none", &["--no-healthcheck"]);
    // dockerd of Debian has no such interval yet
    let often = if subject.kind == Kind::Insula { "--health-start-interval" } else { "--health-interval" };
    run("fine", &["--health-cmd", "true", "--health-start-period", "60s", often, "100ms"]);
    let inspect =
        |name: &str, template: &str| subject.docker(&["inspect", "-f", template, name]).expect(0).text().to_owned();
    assert_eq!(inspect("slow", "{{json .Config.Healthcheck.Test}}"), r#"["CMD-SHELL","sleep 50"]"#);
    subject.await_docker("slow", "{{.State.Health.Status}}", "unhealthy");
    let last = inspect("slow", "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}\n{{end}}");
    assert!(last.starts_with("-1 Health check exceeded timeout (300ms)"), "{last}");
    assert_eq!(inspect("none", "{{json .Config.Healthcheck.Test}} {{.State.Health}}"), r#"["NONE"] <nil>"#);
    subject.await_docker("fine", "{{.State.Health.Status}}", "healthy");
    let bad = subject.docker(&["create", "--health-interval", "10us", "--health-cmd", "true", IMAGE]);
    assert!(bad.code != 0 && bad.err.contains("cannot be less than 1ms"), "{}", bad.err);
    subject.finish();
}
