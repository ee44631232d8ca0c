//! `run`: makes a container, starts it, waits for its end and takes it away.

use super::create::{Asked, BUNDLE, undo};
use super::flags::{Command, Flag, Order, Parsed};
use super::foreground::{self, Stay};
use super::notify::Notify;
use super::{Context, Failure, Outcome};
use crate::runtime::life::{self, Start};
use std::os::fd::AsFd as _;

static FLAGS: [Flag; 3] = [
    Flag::switch("detach", "leave it running").letter('d'),
    Flag::switch("keep", "do not take it away at its end"),
    Flag::switch("no-subreaper", "do not become the parent of processes that lose theirs"),
];

pub(super) static COMMAND: Command = Command {
    name: "run",
    usage: "[FLAGS] ID",
    about: "make a container and start it",
    flags: &[&BUNDLE, &FLAGS],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    run_container(context, parsed).map_err(|failure| failure.doing("insula-oci run failed"))
}

fn run_container(context: &Context, parsed: &Parsed) -> Outcome {
    let mut asked = Asked::of(parsed)?;
    let mut spec = asked.load(context)?;
    let stay = if parsed.on("detach") { Stay::Detached } else { Stay::Foreground };
    let socket = foreground::console_socket(parsed, &spec, stay)?;
    if let Some(process) = spec.process_mut().as_mut().filter(|process| process.terminal() == Some(true))
        && (stay, process.console_size()) == (Stay::Foreground, None)
    {
        // so that a program that looks at once sees it
        process.set_console_size(foreground::own_size());
    }
    let watcher = foreground::watcher(parsed)?;
    let mut made = asked.make(context, &spec, Start::Here)?;
    let terminal = made.container.streams.terminal.take();
    let started = || -> Result<(), Failure> {
        foreground::tell(watcher.as_ref(), &made.container.pidfd)?;
        if let (Some(master), Some(socket)) = (&terminal, &socket) {
            foreground::send_terminal(socket, master)?;
        }
        asked.write_pid(made.container.pid)
    };
    if let Err(failure) = started() {
        undo(context, &made);
        return Err(failure);
    }
    let notify = match Notify::open(&made.folder) {
        Ok(notify) => notify,
        Err(failure) => {
            undo(context, &made);
            return Err(failure);
        }
    };
    if stay == Stay::Foreground {
        sys::process::block_signals();
    }
    let warn = |text: &str| context.log.warn(text);
    let begun = made.container.start();
    if let Err(error) = begun {
        made.end(&warn)?;
        return Err(Failure::from(error).doing("unable to start container process"));
    }
    if let Err(error) = life::poststart(&made.record, Some(made.birth.pid), made.container.pidfd.as_fd()) {
        made.end(&warn)?;
        return Err(error.into());
    }
    if stay == Stay::Detached {
        if let Some(notify) = notify {
            notify.wait(made.container.pidfd.as_fd(), made.container.pid)?;
        }
        return Ok(0);
    }
    let code = foreground::attend(
        (&made.container.pidfd, made.container.pid),
        terminal.filter(|_| socket.is_none()),
        notify.as_ref(),
    )?;
    if !parsed.on("keep") {
        made.clear(&warn)?;
    }
    // the process ends here: the kernel takes in whatever it holds in one go
    std::mem::forget(made);
    std::mem::forget(spec);
    Ok(code)
}
