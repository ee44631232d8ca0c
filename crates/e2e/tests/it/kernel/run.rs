//! `run`: output, exit codes, input, environment, the program itself.

use crate::subject::{IMAGE, Subject};

#[test]
fn output_exit_code_and_input() {
    let Some(subject) = Subject::start() else { return };
    let run = subject.once(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("out\n", "err\n"));
    let words = ["run", "-i", "--rm", "--network", "none", IMAGE, "cat"];
    assert_eq!(subject.insula_with(&words, b"hello\n").expect(0).out, "hello\n");
    // More than any pipe holds, in both directions at once.
    let much: Vec<u8> = (0..4_000_000_u32).map(|i| b"abcdefghij\n"[i as usize % 11]).collect();
    let run = subject.insula_with(&words, &much).expect(0);
    assert!(run.out.as_bytes() == much, "{} of {} bytes came back", run.out.len(), much.len());
    subject.assert_empty();
    subject.finish();
}

#[test]
fn programs_that_cannot_run_have_the_codes_of_shells() {
    let Some(subject) = Subject::start() else { return };
    for (program, code) in [("nope", 127), ("/nope", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let run = subject.once(&[], &[program]).expect(code);
        assert!(run.err.contains(program), "{}", run.err);
    }
    let run = subject.insula(&["run", "--network", "none", "--name", "kept", IMAGE, "nope"]).expect(127);
    assert!(run.err.starts_with("insula: "), "{}", run.err);
    assert_eq!(subject.field("kept", "{{.State.ExitCode}}"), "127");
    subject.insula(&["rm", "kept"]).expect(0);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn the_program_gets_what_was_asked_for() {
    let Some(subject) = Subject::start() else { return };
    let check = |options: &[&str], program: &str, expect: &str| {
        let run = subject.once(options, &["sh", "-c", program]).expect(0);
        assert_eq!(run.text(), expect, "{options:?} {program}");
    };
    check(&["-e", "A=1", "-e", "B=two words"], "echo $A $B", "1 two words");
    check(&["-w", "/tmp"], "pwd", "/tmp");
    check(&["-w", "/made/for/it"], "pwd", "/made/for/it");
    check(&["-u", "1000"], "id -u; id -g", "1000\n1000");
    check(&["-u", "user:extra"], "id -u; id -g", "1000\n1001");
    check(&["-u", "user", "--group-add", "4242"], "id -G | tr ' ' '\\n' | grep 4242", "4242");
    check(&["--hostname", "box"], "hostname; cat /etc/hostname", "box\nbox");
    check(&["--entrypoint", "echo"], "x", "sh -c x");
    check(&["--add-host", "db:10.1.2.3"], "grep -w db /etc/hosts | tr '\\t' ' '", "10.1.2.3 db");
    check(&["--shm-size", "8m"], "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2", "8192");
    check(&["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn", "100\n200");
    check(
        &["--sysctl", "net.ipv4.ip_unprivileged_port_start=77"],
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        "77",
    );
    check(&["--init"], "test $$ != 1 && echo child", "child");
    check(&[], "echo $$", "1");
    check(&[], "echo $HOSTNAME | wc -c", "13");
    check(&["--env-file", subject.island.file("vars", "# note\nC=3\n").to_str().unwrap()], "echo $C", "3");
    subject.assert_empty();
    subject.finish();
}

#[test]
fn files_of_the_host_are_mounted() {
    let Some(subject) = Subject::start() else { return };
    let folder = subject.island.dir("shared");
    let _ = subject.island.file("shared/file", "content\n");
    let source = folder.to_str().unwrap();
    let volume = format!("{source}:/data");
    let read_only = format!("{source}:/data:ro");
    assert_eq!(subject.once(&["-v", &volume], &["cat", "/data/file"]).expect(0).out, "content\n");
    subject.once(&["-v", &volume], &["touch", "/data/new"]).expect(0);
    assert!(folder.join("new").exists());
    subject.once(&["-v", &read_only], &["touch", "/data/other"]).expect(1);
    let mount = format!("type=bind,source={source},target=/mnt/deep,readonly");
    assert_eq!(subject.once(&["--mount", &mount], &["cat", "/mnt/deep/file"]).expect(0).out, "content\n");
    subject.once(&["--mount", &mount], &["touch", "/mnt/deep/other"]).expect(1);
    assert!(!folder.join("other").exists());
    let run = subject.once(&["--tmpfs", "/scratch:size=1m"], &["sh", "-c", "stat -f -c %T /scratch; touch /scratch/x"]);
    assert_eq!(run.expect(0).text(), "tmpfs");
    subject
        .once(&["--tmpfs", "/scratch:size=1m"], &["dd", "if=/dev/zero", "of=/scratch/x", "bs=1M", "count=2"])
        .expect(1);
    subject.once(&["--read-only"], &["touch", "/x"]).expect(1);
    subject.once(&["--read-only", "--tmpfs", "/tmp"], &["touch", "/tmp/x"]).expect(0);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn a_container_in_the_background_is_waited_for() {
    let Some(subject) = Subject::start() else { return };
    let id = subject.background("job", &[], &["sh", "-c", "echo one; sleep 0.2; echo two >&2; exit 5"]);
    assert_eq!(id.len(), 64, "{id}");
    assert_eq!(subject.insula(&["wait", "job"]).expect(0).text(), "5");
    let logs = subject.insula(&["logs", "job"]).expect(0);
    assert_eq!((logs.out.as_str(), logs.err.as_str()), ("one\n", "two\n"));
    assert_eq!(subject.field("job", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}"), "exited 5 false");
    assert_eq!(subject.insula(&["logs", "--tail", "1", &id]).expect(0).err, "two\n");
    let run = subject.insula(&["start", "-a", "job"]).expect(5);
    assert_eq!(run.out, "one\n");
    subject.insula(&["rm", "job"]).expect(0);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn signals_are_handed_on() {
    let Some(subject) = Subject::start() else { return };
    let program = "trap 'echo got; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut command = subject.command(&["run", "--rm", "--network", "none", IMAGE, "sh", "-c", program]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut reader, &mut rest).unwrap();
    assert_eq!(rest, "got\n");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    subject.assert_empty();
    subject.finish();
}

#[test]
fn a_client_that_is_gone_ends_the_input() {
    let Some(subject) = Subject::start() else { return };
    let start = |name: &str| {
        let mut command = subject.command(&["run", "-i", "--rm", "--network", "none", "--name", name, IMAGE, "cat"]);
        let mut child =
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"up\n").unwrap();
        let mut line = String::new();
        let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        assert_eq!(line, "up\n");
        (child, reader)
    };
    let removed = |name: &str| {
        let gone =
            testkit::wait_for(crate::subject::SOON, || (subject.insula(&["inspect", name]).code == 1).then_some(()));
        assert!(gone.is_some(), "{name} still waits for input: {}", subject.field(name, "{{.State.Status}}"));
    };
    let (mut child, _reader) = start("killed");
    child.kill().unwrap();
    child.wait().unwrap();
    removed("killed");
    // The same with output on its way that nobody reads any more.
    let (mut child, reader) = start("flooded");
    let mut stdin = child.stdin.take().unwrap();
    // The client ends in the middle of it.
    let flood = std::thread::spawn(move || drop(std::io::Write::write_all(&mut stdin, &vec![b'x'; 4_000_000])));
    drop(reader);
    flood.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
    removed("flooded");
    subject.assert_empty();
    subject.finish();
}
