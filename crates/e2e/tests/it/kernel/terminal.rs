//! A container's terminal at the user's terminal.

use std::time::Duration;

use crate::subject::{IMAGE, SOON, Subject};

const SHELL: &[&str] = &["run", "-it", "--network", "none", "--name", "shell", IMAGE, "sh"];

#[test]
fn size_interrupt_and_exit_code() {
    let Some(subject) = Subject::start() else { return };
    let mut terminal = subject.terminal(SHELL);
    // Written so that the echo of what is typed is not taken for the answer.
    terminal.send("echo rea''dy; stty size\r");
    terminal.expect("ready\r\n", SOON);
    terminal.expect("24 80", SOON);
    terminal.resize(33, 99);
    let resized = testkit::wait_for(SOON, || {
        terminal.send("echo s''ize $(stty size)\r");
        std::thread::sleep(Duration::from_millis(50));
        terminal.shown().contains("size 33 99").then_some(())
    });
    assert!(resized.is_some(), "{}", terminal.shown());
    terminal.send("echo beg''un; sleep 100\r");
    terminal.expect("begun\r\n", SOON);
    // The shell may be between the two commands, where an interrupt is lost; one at its prompt takes what was typed.
    let alive = testkit::wait_for(SOON, || {
        terminal.send("\x03");
        std::thread::sleep(Duration::from_millis(200));
        terminal.send("echo ali''ve\r");
        std::thread::sleep(Duration::from_millis(200));
        terminal.shown().contains("alive\r\n").then_some(())
    });
    assert!(alive.is_some(), "{}", terminal.shown());
    terminal.send("test -t 0 && test -t 1 && echo termi''nal; tty\r");
    terminal.expect("terminal\r\n", SOON);
    terminal.send("exit 6\r");
    assert_eq!(terminal.wait(SOON).code(), Some(6));
    assert_eq!(subject.field("shell", "{{.State.ExitCode}} {{.Config.Tty}}"), "6 true");
    subject.finish();
}

#[test]
fn detach_and_attach() {
    let Some(subject) = Subject::start() else { return };
    let mut terminal = subject.terminal(SHELL);
    terminal.send("echo rea''dy\r");
    terminal.expect("ready\r\n", SOON);
    terminal.send("\x10\x11");
    assert_eq!(terminal.wait(SOON).code(), Some(0), "{}", terminal.shown());
    assert_eq!(subject.field("shell", "{{.State.Running}}"), "true");
    let mut terminal = subject.terminal(&["attach", "shell"]);
    terminal.send("echo aga''in\r");
    terminal.expect("again\r\n", SOON);
    terminal.send("exit 7\r");
    assert_eq!(terminal.wait(SOON).code(), Some(7), "{}", terminal.shown());
    subject.finish();
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let Some(subject) = Subject::start() else { return };
    subject.background("host", &[], &["sleep", "100"]);
    let mut terminal = subject.terminal(&["exec", "-it", "host", "sh"]);
    terminal.send("stty size; tty && echo rea''dy\r");
    terminal.expect("24 80", SOON);
    terminal.expect("ready\r\n", SOON);
    terminal.send("exit 8\r");
    assert_eq!(terminal.wait(SOON).code(), Some(8), "{}", terminal.shown());
    assert_eq!(subject.field("host", "{{.State.Running}}"), "true");
    subject.finish();
}

#[test]
fn without_a_terminal_none_can_be_given() {
    let Some(subject) = Subject::start() else { return };
    let run = subject.insula(&["run", "-it", "--rm", IMAGE, "true"]).expect(1);
    assert!(run.err.contains("not a TTY"), "{}", run.err);
    let run = subject.once(&["-t"], &["sh", "-c", "test -t 1 && echo yes"]).expect(0);
    assert_eq!(run.out, "yes\r\n");
    subject.assert_empty();
    subject.finish();
}
