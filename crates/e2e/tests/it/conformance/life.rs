//! A container's life as docker's client drives it: restart policies, changes, listings, waits.

use crate::subject::{IMAGE, Kind, Subject};

fn start() -> Option<Subject> {
    let subject = Subject::start()?;
    subject.docker_command(&[]).map(|_| subject)
}

#[test]
fn policies_start_again_and_can_be_changed() {
    let Some(subject) = start() else { return };
    let run = |words: &[&str]| subject.docker(words).expect(0).text().to_owned();
    run(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "never",
        "--restart",
        "on-failure:2",
        IMAGE,
        "sh",
        "-c",
        "exit 3",
    ]);
    assert_eq!(run(&["wait", "never"]), "3");
    subject.await_docker("never", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "2 exited 3");
    run(&["run", "-d", "--network", "none", "--name", "again", "--restart", "always", IMAGE, "false"]);
    let seen = testkit::wait_for(crate::subject::SOON, || {
        let shown =
            subject.docker(&["ps", "-f", "status=restarting", "--format", "{{.Names}} {{.Status}}"]).expect(0).out;
        shown.contains("again Restarting (1)").then_some(())
    });
    assert!(seen.is_some(), "{}", subject.docker(&["ps", "-a"]).out);
    // dockerd cannot change one that it is just about to start
    let changed = || (subject.docker(&["update", "--restart", "no", "again"]).code == 0).then_some(());
    assert!(testkit::wait_for(crate::subject::SOON, changed).is_some(), "a policy cannot be changed");
    subject.await_docker("again", "{{.HostConfig.RestartPolicy.Name}} {{.State.Status}}", "no exited");
    run(&["update", "--restart", "always", "again"]);
    run(&["start", "again"]);
    let refused = subject.docker(&["rm", "again"]);
    assert!(refused.code != 0 && refused.err.contains("top the container before"), "{}", refused.err);
    run(&["stop", "again"]);
    subject.await_docker("again", "{{.State.Restarting}} {{.State.Status}}", "false exited");
    run(&["run", "-d", "--rm", "--network", "none", "--name", "gone", IMAGE, "sleep", "100"]);
    let refused = subject.docker(&["update", "--restart", "always", "gone"]);
    assert!(refused.err.contains("AutoRemove is enabled"), "{}", refused.err);
    run(&["update", "-m", "64m", "--memory-swap", "64m", "--cpu-shares", "512", "--pids-limit", "50", "gone"]);
    let template = "{{.HostConfig.Memory}} {{.HostConfig.CpuShares}} {{.HostConfig.PidsLimit}}";
    assert_eq!(run(&["inspect", "-f", template, "gone"]), "67108864 512 50");
    subject.finish();
}

#[test]
fn listings_are_filtered_sized_and_pruned() {
    let Some(subject) = start() else { return };
    let run = |words: &[&str]| subject.docker(words).expect(0).text().to_owned();
    let listed = |filters: &[&str]| {
        let mut words = vec!["ps", "-a", "--format", "{{.Names}}"];
        filters.iter().for_each(|filter| words.extend(["-f", filter]));
        let mut names: Vec<String> = run(&words).lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    let make = |name: &str, flags: &[&str], line: &str| {
        let words = [&["run", "--network", "none", "--name", name][..], flags, &[IMAGE, "sh", "-c", line]].concat();
        subject.docker(&words);
    };
    make("one", &["--label", "tier=db", "--expose", "8000-8010/tcp", "-v", "data:/data"], "echo 123456789 > /big");
    make("two", &["--label", "tier=web"], "exit 5");
    make("three", &["-d"], "sleep 100");
    assert_eq!(listed(&["before=three"]), "one two");
    assert_eq!(listed(&["since=one"]), "three two");
    assert_eq!(listed(&["volume=data"]), "one");
    assert_eq!(listed(&["volume=/data", "label=tier=db"]), "one");
    assert_eq!(listed(&["network=none", "exited=5"]), "two");
    if subject.kind == Kind::Insula {
        // dockerd looks only at ports of containers that have a network
        assert_eq!(listed(&["expose=8005"]), "one");
    }
    assert_eq!(listed(&["expose=8005/udp"]), "");
    assert_eq!(listed(&["name=^t", "is-task=false"]), "three two");
    assert_eq!(listed(&["name=o$"]), "two");
    assert_eq!(listed(&["health=none", "status=running"]), "three");
    let image = run(&["inspect", "-f", "{{.Image}}", "one"]);
    assert_eq!(listed(&[&format!("ancestor={image}"), "label=tier"]), "one two");
    assert_eq!(listed(&[&format!("ancestor={}", &image[7..19]), "label=tier"]), "one two");
    let odd = subject.docker(&["ps", "-f", "status=odd"]).expect(1);
    assert!(odd.err.to_lowercase().contains("invalid filter"), "{}", odd.err);
    let sized = run(&["ps", "-a", "-s", "-f", "name=one", "--format", "{{.Size}}"]);
    assert!(sized.starts_with("10B (virtual"), "{sized}");
    assert!(run(&["inspect", "-s", "-f", "{{.SizeRw}}", "one"]) == "10");
    // pruned by label and age
    let pruned = run(&["container", "prune", "-f", "--filter", "label=tier=db", "--filter", "until=1h"]);
    assert!(pruned.contains("0B"), "{pruned}");
    run(&["container", "prune", "-f", "--filter", "label!=tier=web"]);
    assert_eq!(listed(&[]), "three two");
    // renamed, and found by its new name
    run(&["rename", "two", "zwei"]);
    assert_eq!(listed(&["name=zwei"]), "zwei");
    assert!(subject.docker(&["rename", "zwei", "three"]).err.contains("is already in use"));
    // ps of one's own choice
    let top = run(&["top", "three", "-o", "pid,args"]);
    assert!(top.lines().next().unwrap().starts_with("PID") && top.contains("sleep 100"), "{top}");
    assert!(subject.docker(&["top", "three", "-o", "args"]).err.contains("PID"));
    subject.docker(&["kill", "-s", "SIGUSR1", "three"]).expect(0);
    subject.finish();
}

#[test]
fn volumes_and_runtimes_come_by_name() {
    let Some(subject) = start() else { return };
    let run = |words: &[&str]| subject.docker(words).expect(0).text().to_owned();
    let words = ["run", "--network", "none", "--name", "source", "-v", "/anon", "-v", "named:/named", IMAGE];
    run(&[&words[..], &["sh", "-c", "echo a > /anon/a; echo b > /named/b"]].concat());
    let from = |flag: &str, line: &str| {
        subject.docker(&["run", "--rm", "--network", "none", "--volumes-from", flag, IMAGE, "sh", "-c", line])
    };
    assert_eq!(from("source", "cat /anon/a /named/b").expect(0).text(), "a\nb");
    assert!(from("source:ro", "echo x > /named/c").err.contains("Read-only"));
    assert!(from("nobody", "true").err.contains("No such container: nobody"));
    assert!(from("source:maybe", "true").err.contains("invalid mode"));
    run(&["run", "--rm", "--network", "none", "--runtime", "runc", IMAGE, "true"]);
    let unknown = subject.docker(&["run", "--rm", "--network", "none", "--runtime", "nope", IMAGE, "true"]);
    assert!(unknown.err.to_lowercase().contains("unknown") && unknown.err.contains("nope"), "{}", unknown.err);
    if subject.kind == Kind::Insula {
        // files of a container with ids of its own go where others' go
        let words =
            ["run", "--network", "none", "--userns", "auto", "--name", "own", IMAGE, "sh", "-c", "echo x > /made"];
        subject.insula(&words).expect(0);
        assert!(run(&["diff", "own"]).contains("A /made"));
        run(&["commit", "own", "kept:1"]);
        assert_eq!(run(&["run", "--rm", "--network", "none", "kept:1", "stat", "-c", "%u", "/made"]), "0");
    }
    run(&["rm", "-v", "source"]);
    subject.finish();
}
