//! Docker's own client as ours, so that what passes here is compatible.

use crate::subject::{IMAGE, Run, Subject, finish};

fn docker(subject: &Subject, words: &[&str]) -> Option<Run> {
    Some(finish(&mut subject.docker_command(words)?, b""))
}

#[test]
fn the_stock_client_is_at_home() {
    let Some(subject) = Subject::start() else { return };
    let Some(version) = docker(&subject, &["version", "--format", "{{.Server.Version}}"]) else { return };
    version.expect(0);
    let run = |words: &[&str], code: i32| docker(&subject, words).unwrap().expect(code);
    let got = run(&["run", "--rm", "--network", "none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 4"], 4);
    assert_eq!((got.out.as_str(), got.err.as_str()), ("out\n", "err\n"));
    run(&["run", "--rm", "--network", "none", IMAGE, "nope"], 127);
    let words =
        ["run", "-d", "--network", "none", "--name", "web", "-m", "64m", IMAGE, "sh", "-c", "echo up; sleep 100"];
    let id = run(&words, 0).text().to_owned();
    assert!(run(&["ps"], 0).out.contains("web"));
    assert_eq!(
        run(&["inspect", "-f", "{{.HostConfig.Memory}} {{.State.Status}}", "web"], 0).text(),
        "67108864 running"
    );
    assert_eq!(run(&["logs", "web"], 0).out, "up\n");
    assert_eq!(run(&["exec", "web", "echo", "in"], 0).text(), "in");
    run(&["exec", "web", "sh", "-c", "exit 9"], 9);
    assert!(run(&["top", "web"], 0).out.contains("sleep 100"));
    run(&["pause", "web"], 0);
    run(&["unpause", "web"], 0);
    assert!(run(&["stats", "--no-stream"], 0).out.contains("64MiB"));
    run(&["kill", "web"], 0);
    assert_eq!(run(&["wait", "web"], 0).text(), "137");
    run(&["start", "web"], 0);
    run(&["stop", "-t", "0", "web"], 0);
    // The stock client asks for whole seconds only.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let events =
        run(&["events", "--since", "1m", "--until", "0s", "--filter", "container=web", "--format", "{{.Action}}"], 0);
    for action in ["create", "start", "die"] {
        assert!(events.out.lines().any(|line| line == action), "{action} in {}", events.out);
    }
    assert_eq!(run(&["rm", &id], 0).text(), id);
    assert!(run(&["images"], 0).out.contains("test"));
    run(&["tag", IMAGE, "other:2"], 0);
    run(&["rmi", "other:2"], 0);
    assert!(run(&["info"], 0).out.contains("Images: 1"));
    let missing = run(&["run", "--rm", "--pull", "never", "nothing:here", "true"], 125);
    assert!(missing.err.contains("nothing:here"), "{}", missing.err);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn the_stock_client_imports_and_feeds() {
    let Some(subject) = Subject::bare() else { return };
    let tar = crate::subject::image_tar();
    let words = ["import", "-c", "CMD [\"echo\",\"from the image\"]", "-c", "ENV A=1", tar.to_str().unwrap(), "made:1"];
    let Some(imported) = docker(&subject, &words) else { return };
    assert!(imported.expect(0).out.starts_with("sha256:"));
    let run = docker(&subject, &["run", "--rm", "--network", "none", "made:1"]).unwrap().expect(0);
    assert_eq!(run.text(), "from the image");
    let mut command = subject
        .docker_command(&["run", "-i", "--rm", "--network", "none", "made:1", "sh", "-c", "cat; echo $A"])
        .unwrap();
    assert_eq!(finish(&mut command, b"fed\n").expect(0).out, "fed\n1\n");
    subject.finish();
}

#[test]
fn the_stock_clients_terminal() {
    let Some(subject) = Subject::start() else { return };
    let words = ["run", "-it", "--name", "shell", "--network", "none", IMAGE, "sh"];
    let Some(command) = subject.docker_command(&words) else { return };
    let soon = crate::subject::SOON;
    let mut terminal = testkit::Terminal::spawn(&command);
    // the client tells the size once the program runs
    terminal.send("echo rea''dy; until stty size | grep -v '^0 0$'; do sleep 0.1; done\r");
    terminal.expect("ready\r\n", soon);
    terminal.expect("24 80", soon);
    terminal.send("\x10\x11");
    assert_eq!(terminal.wait(soon).code(), Some(0), "{}", terminal.shown());
    assert_eq!(subject.field("shell", "{{.State.Running}}"), "true");
    subject.finish();
}
