//! Further processes in running containers.

use super::{Engine, Inner};
use crate::actor::Ask;
use crate::error::{EngineError, Result};
use crate::model::{Container, EventKind, Exec, ExecId, ExecSpec, ExecState, Phase};
use crate::plan::{capabilities, process, user};
use control::{ExecAttach, Framing, ProcessId, Streams};
use oci_spec::runtime::{Process as OciProcess, ProcessBuilder};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The exit code of an exec that was lost with its container: 128 + SIGKILL.
const LOST: i32 = 137;
/// Execs that ended are remembered until there are so many.
const KEPT: usize = 1024;

/// A client that an exec serves.
#[derive(Debug)]
pub struct ExecClient {
    /// Its connection.
    pub connection: OwnedFd,
    /// The bytes that were read from it already.
    pub ahead: Vec<u8>,
    /// How it reads output; the exec's terminal does not tell.
    pub framing: Framing,
}

impl Engine {
    /// Makes an exec; it does not run yet.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Conflict`] if the container does not run, [`crate::ErrorClass::Invalid`] for wrong values.
    pub async fn exec_create(&self, who: &str, spec: ExecSpec) -> Result<ExecId> {
        let container = self.running(who)?;
        if spec.args.first().is_none_or(String::is_empty) {
            return Err(EngineError::invalid("No exec command specified"));
        }
        if let Some(folder) =
            spec.working_dir.as_deref().filter(|folder| !folder.is_empty() && !folder.starts_with('/'))
        {
            return Err(EngineError::invalid(format!(
                "the working directory '{folder}' is invalid, it needs to be an absolute path"
            )));
        }
        crate::keys::parse(spec.detach_keys.as_deref())?;
        let id = ExecId::random().map_err(|error| EngineError::internal("cannot make an id", &error))?;
        let told = format!("exec_create: {}", spec.args.join(" "));
        let mut execs = self.inner.execs();
        if execs.len() >= KEPT {
            execs.retain(|_, exec| !matches!(exec.state, ExecState::Exited { .. }));
        }
        execs.insert(
            id.clone(),
            Exec { id: id.clone(), container: container.id.clone(), spec, state: ExecState::Created },
        );
        drop(execs);
        let mut attributes = container.spec.labels.clone();
        attributes.insert("image".into(), container.spec.image.clone());
        attributes.insert("name".into(), container.name.clone());
        attributes.insert("execID".into(), id.to_string());
        self.inner.store_event(self.inner.events.event(EventKind::Container, &told, container.id.as_str(), attributes));
        Ok(id)
    }

    /// An exec and how it is.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`].
    pub fn exec(&self, id: &str) -> Result<Exec> {
        let missing = || EngineError::not_found(format!("No such exec instance: {id}"));
        self.inner.execs().get(&ExecId::known(id)).cloned().ok_or_else(missing)
    }

    /// Runs it; without a client it runs detached. Done when its program runs.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Invalid`] if its program cannot be run, [`crate::ErrorClass::Conflict`] if it ran already.
    pub async fn exec_start(&self, id: &str, client: Option<ExecClient>) -> Result<()> {
        let exec = self.exec(id)?;
        if exec.state != ExecState::Created {
            return Err(EngineError::conflict(format!("exec {id} has run already; make a new one")));
        }
        let container = self.running(exec.container.as_str())?;
        let seccomp = if exec.spec.privileged { None } else { self.inner.seccomp(&container)? };
        let (connection, attach) = match client {
            Some(client) => (
                Some(client.connection),
                Some(ExecAttach {
                    streams: Streams {
                        stdin: exec.spec.attach_stdin,
                        stdout: exec.spec.attach_stdout,
                        // without frames there is but one stream
                        stderr: exec.spec.attach_stderr && client.framing == Framing::Multiplexed,
                    },
                    ahead: client.ahead,
                    detach_keys: crate::keys::parse(exec.spec.detach_keys.as_deref())?,
                    framing: client.framing,
                }),
            ),
            None => (None, None),
        };
        let request = control::Exec {
            id: id.to_owned(),
            process: self.inner.exec_process(&container, &exec.spec)?,
            seccomp,
            open_stdin: exec.spec.attach_stdin && connection.is_some(),
            attach,
        };
        let exec_id = exec.id.clone();
        self.inner.set_exec(id, ExecState::Starting);
        let asked = self
            .ask(container.id.as_str(), |answer| Ask::Exec { id: exec_id, exec: Box::new(request), connection, answer })
            .await;
        // a failure that the helper did not tell of: the container has ended meanwhile
        if asked.is_err() && self.exec(id).is_ok_and(|exec| exec.state == ExecState::Starting) {
            self.inner.set_exec(id, ExecState::Exited { code: LOST });
        }
        asked
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`].
    pub async fn exec_resize(&self, id: &str, rows: u16, cols: u16) -> Result<()> {
        let exec = self.exec(id)?;
        let process = ProcessId::Exec(id.to_owned());
        self.ask(exec.container.as_str(), |answer| Ask::Resize { process, rows, cols, answer }).await
    }

    fn running(&self, who: &str) -> Result<std::sync::Arc<Container>> {
        let container = self.container(who)?;
        match container.phase {
            Phase::Running => Ok(container),
            Phase::Paused => {
                Err(EngineError::conflict(format!("Container {who} is paused, unpause the container before exec")))
            }
            _ => Err(EngineError::conflict(format!("container {} is not running", container.id))),
        }
    }
}

impl Inner {
    /// The process of an exec as the helper takes it.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Invalid`] for a user that is not there.
    pub(crate) fn exec_process(&self, container: &Container, spec: &ExecSpec) -> Result<OciProcess> {
        let asked = spec.user.as_deref().filter(|user| !user.is_empty()).unwrap_or(&container.process.user);
        let user = user::resolve(asked, &container.spec.group_add, &running_accounts(container.pid()))?;
        let names = if spec.privileged {
            self.host.capabilities.clone()
        } else {
            capabilities::effective(&container.spec, &self.host)?
        };
        let cwd =
            spec.working_dir.clone().filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| container.process.cwd.clone());
        let mut process = ProcessBuilder::default()
            .terminal(spec.tty)
            .args(spec.args.clone())
            .env(process::environment(
                container,
                &user.home,
                spec.tty,
                &[self.link_variables(container), spec.env.clone()].concat(),
            ))
            .cwd(PathBuf::from(cwd))
            .capabilities(capabilities::sets(&names))
            .no_new_privileges(container.spec.security.no_new_privileges)
            .build()
            .map_err(|error| EngineError::internal("cannot plan the process", &error))?;
        process::set_user(&mut process, &user);
        if let Some((rows, cols)) = spec.console_size {
            process.set_console_size(process::console(rows, cols));
        }
        process.set_rlimits(process::rlimits(&container.spec)?);
        process.set_apparmor_profile(crate::plan::security::apparmor(&container.spec, &self.host));
        process.set_selinux_label(crate::plan::security::selinux(&container.spec));
        Ok(process)
    }
}

/// The accounts as the running container has them now.
fn running_accounts(pid: i32) -> user::Accounts {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty());
    root.map(|root| user::Accounts::read(&[root])).unwrap_or_default()
}
