//! An SSH agent as a step sees it: a socket of its own, with the mode and owner that the Dockerfile says, behind which the
//! user's agent answers. The user's own socket stays where it is, as it is.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// See the module; connections end when this is dropped.
#[derive(Debug)]
pub(super) struct Agent(JoinHandle<()>);

impl Agent {
    /// Serves at a path, which must not be there.
    ///
    /// # Errors
    /// When there can be no socket.
    pub(super) fn serve(at: &Path, agent: PathBuf) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (at.parent(), at.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // the name of a socket has a length that paths to a state folder may exceed
        let folder = File::open(folder)?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        let listener = StdListener::bind(short)?;
        listener.set_nonblocking(true)?;
        Ok(Self(tokio::spawn(accept(UnixListener::from_std(listener)?, agent))))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: UnixListener, agent: PathBuf) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let agent = agent.clone();
        connections.spawn(async move {
            match UnixStream::connect(&agent).await {
                // either may go away at any time
                Ok(mut agent) => drop(tokio::io::copy_bidirectional(&mut client, &mut agent).await),
                Err(error) => tracing::warn!(agent = %agent.display(), %error, "the user's SSH agent does not answer"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_said_goes_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        // longer than the name of a socket may be
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let agent = folder.path().join("agent");
        let listener = UnixListener::bind(&agent).unwrap();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 3];
            stream.read_exact(&mut asked).await.unwrap();
            stream.write_all(b"yes").await.unwrap();
            asked
        });
        let shown = deep.join("shown");
        let served = Agent::serve(&shown, agent).unwrap();
        assert!(std::fs::symlink_metadata(&shown).unwrap().file_type().is_socket());
        let opened = File::open(&deep).unwrap();
        let mut client = UnixStream::connect(format!("/proc/self/fd/{}/shown", opened.as_raw_fd())).await.unwrap();
        client.write_all(b"who").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((answer.as_str(), answering.await.unwrap()), ("yes", *b"who"));
        drop(served);
    }
}
