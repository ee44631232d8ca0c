//! The host's end of a virtio console: two pipes, and a thread that hands on what the guest writes.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use virtio::device::console::{Console, Port, Resizer, Size};

use super::devices::failed;
use super::{ConsoleOutput, MachineError};

/// The way to the console for what is typed, and for its terminal's size.
pub(super) struct Terminal {
    input: Arc<File>,
    resizer: Resizer,
}

impl Terminal {
    /// A console whose words go to `output`.
    pub(super) fn start(output: ConsoleOutput) -> Result<(Console, Self), MachineError> {
        let failed = failed("console");
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((from_host, input), (said, to_host)) = (pipe().map_err(&failed)?, pipe().map_err(&failed)?);
        // A guest that does not read must not hold up whoever types.
        let flags = rustix::fs::fcntl_getfl(&input).map_err(&failed)?;
        rustix::fs::fcntl_setfl(&input, flags | OFlags::NONBLOCK).map_err(&failed)?;
        let port = Port::new("console", Some(from_host), Some(to_host)).map_err(&failed)?;
        let (console, resizer) = Console::new(vec![port]).map_err(super::devices::failed("console"))?;
        let mut said = File::from(said);
        // It ends with the device, which has the other end.
        let _ends = std::thread::Builder::new()
            .name("port".to_owned())
            .spawn(move || {
                hv::thread::begin();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = said.read(&mut buffer) {
                    output(&buffer[..count]);
                }
            })
            .map_err(MachineError::Thread)?;
        Ok((console, Self { input: Arc::new(File::from(input)), resizer }))
    }

    /// Takes what is typed; what a guest that does not read has no room for is lost.
    pub(super) fn input_line(&self) -> ConsoleOutput {
        let input = Arc::clone(&self.input);
        Arc::new(move |bytes: &[u8]| {
            let _lost = (&*input).write(bytes);
        })
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) {
        self.resizer.resize(Size { columns, rows });
    }
}
