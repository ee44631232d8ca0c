//! Attached clients: framing, input, terminals, detaching, rotation of the log.

mod kernel {
    use crate::harness::{Shim, frames, privileged, read_all};
    use control::{ExecAttach, Framing, ProcessId, Reply, Request, Stdio, Streams};
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn output_comes_framed_and_is_logged() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("echo one; echo two >&2; echo three"));
        shim.create(create, &[]);
        let client = shim.attach(ProcessId::Init, false, &[]);
        shim.start();
        let all = frames(&read_all(&client));
        let of = |wanted: u8| {
            all.iter().filter(|(stream, _)| *stream == wanted).map(|(_, text)| text.as_str()).collect::<String>()
        };
        assert_eq!((of(1).as_str(), of(2).as_str()), ("one\nthree\n", "two\n"));
        shim.exited(&ProcessId::Init);
        assert_eq!(shim.log().len(), all.iter().map(|(_, text)| text.len()).sum::<usize>());
        shim.quit();
    }

    #[test]
    fn input_ends_with_its_first_client() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut create = shim.request(shim.spec("wc -c"));
        create.stdio = Stdio { open_stdin: true, stdin_once: true };
        shim.create(create, &[]);
        let mut client = shim.attach(ProcessId::Init, true, &[]);
        shim.start();
        // more than a pipe holds
        client.write_all(&vec![b'x'; 300_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(frames(&read_all(&client)), [(1, "300000\n".to_owned())]);
        shim.exited(&ProcessId::Init);
        shim.quit();
    }

    #[test]
    fn a_slow_client_gets_everything_and_a_gone_one_stops_nothing() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut create = shim.request(shim.spec("head -c 6000000 /dev/zero"));
        create.log = control::Log::default();
        shim.create(create, &[]);
        let slow = shim.attach(ProcessId::Init, false, &[]);
        let gone = shim.attach(ProcessId::Init, false, &[]);
        drop(gone);
        shim.start();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let bytes: usize = frames(&read_all(&slow)).iter().map(|(_, text)| text.len()).sum();
        assert_eq!(bytes, 6_000_000);
        shim.exited(&ProcessId::Init);
        shim.quit();
    }

    #[test]
    fn a_terminal_works_as_one() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut spec =
            shim.spec("test -t 0 && test -c /dev/console && stty size; read line; stty size; echo got $line; exit 9");
        spec["process"]["terminal"] = true.into();
        spec["process"]["consoleSize"] = serde_json::json!({"height": 10, "width": 20});
        let mut create = shim.request(spec);
        create.stdio = Stdio { open_stdin: true, stdin_once: true };
        shim.create(create, &[]);
        let mut client = shim.attach(ProcessId::Init, true, &[16, 17]);
        shim.start();
        let mut seen = read_until(&mut client, "10 20\r\n");
        shim.done(Request::Resize { process: ProcessId::Init, rows: 30, cols: 40 });
        // detaching ends this client only
        client.write_all(&[16, 17]).unwrap();
        seen.push_str(&String::from_utf8(read_all(&client)).unwrap());
        let mut client = shim.attach(ProcessId::Init, true, &[16, 17]);
        client.write_all(b"word\r").unwrap();
        let seen = String::from_utf8(read_all(&client)).unwrap();
        assert!(seen.contains("30 40\r\n") && seen.contains("got word\r\n"), "{seen}");
        assert_eq!(shim.exited(&ProcessId::Init).code, 9);
        shim.quit();
    }

    #[test]
    fn an_exec_has_its_own_streams() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let create = shim.request(shim.spec("sleep 100"));
        shim.create(create, &[]);
        shim.start();
        for tty in [false, true] {
            let id = format!("tty {tty}");
            let mut exec = shim.exec(&id, "read line; echo [$line]; exit 4");
            exec.process.set_terminal(Some(tty));
            exec.open_stdin = true;
            let streams = Streams { stdin: true, stdout: true, stderr: true };
            // the client says how it reads, whatever the process has
            let framing = if tty { Framing::Multiplexed } else { Framing::Raw };
            exec.attach = Some(ExecAttach { streams, ahead: b"early\n".to_vec(), detach_keys: Vec::new(), framing });
            let (ours, theirs) = UnixStream::pair().unwrap();
            let request = shim.send(Request::Exec(Box::new(exec)), &[theirs.as_fd()]);
            drop(theirs);
            let reply = shim.reply(request);
            assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
            let seen = String::from_utf8(read_all(&ours)).unwrap();
            assert!(seen.contains("[early]"), "{seen:?}");
            assert_eq!(shim.exited(&ProcessId::Exec(id)).code, 4);
        }
        assert_eq!(shim.log(), "");
        shim.done(Request::Signal { signal: 9, all: false });
        shim.exited(&ProcessId::Init);
        shim.quit();
    }

    #[test]
    fn logs_rotate() {
        if !privileged() {
            return;
        }
        let mut shim = Shim::spawn();
        let mut create = shim.request(shim.spec("for i in $(seq 200); do echo line $i; sleep 0.001; done"));
        create.log =
            control::LogFile { max_bytes: 2000, max_files: 2, ..control::LogFile::unbounded(shim.path("log")) }.into();
        shim.create(create, &[]);
        shim.start();
        assert_eq!(shim.exited(&ProcessId::Init).code, 0);
        assert!(shim.log().ends_with("line 200\n"));
        assert!(shim.path("log.1").exists() && !shim.path("log.2").exists());
        shim.quit();
    }

    fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            let mut buffer = [0_u8; 256];
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{seen:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        seen
    }
}
