//! A private apt: its own state, cache and sources, the machine's keys and ways to the network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::sources::{self, Source};
use super::{BootstrapError, Request};

/// What the private configuration says in any case, whatever the machine's says.
const STRICT: &str = r#"
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages { "none"; };
Acquire::PDiffs "false";
Acquire::Retries "3";
APT::Get::AllowUnauthenticated "false";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
APT::Color "0";
Dpkg::Use-Pty "0";
"#;

/// Everything below one folder.
#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
    pub(super) architecture: String,
}

impl Apt {
    /// Writes the private configuration below `folder`.
    pub(super) fn new(folder: &Path) -> Result<Self, BootstrapError> {
        for part in [
            "etc/sources.list.d",
            "etc/apt.conf.d",
            "etc/preferences.d",
            "state/lists/partial",
            "cache/archives/partial",
            "log",
        ] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(file_error("create", &path))?;
        }
        let dpkg = tool("dpkg", "dpkg").arg("--print-architecture").output();
        let architecture = text_of(dpkg.map_err(missing("dpkg", "dpkg"))?, "dpkg --print-architecture")?;
        let apt = Self { folder: folder.to_owned(), architecture: architecture.trim().to_owned() };
        write(&folder.join("status"), "")?;
        write(&folder.join("apt.conf"), &apt.configuration()?)?;
        Ok(apt)
    }

    fn configuration(&self) -> Result<String, BootstrapError> {
        let dump = tool("apt-config", "apt").arg("dump").output().map_err(missing("apt-config", "apt"))?;
        let dump = text_of(dump, "apt-config dump")?;
        // How the machine reaches its mirrors: proxies, methods, timeouts. Nothing that weakens checks of signatures.
        let kept = dump
            .lines()
            .filter(|line| line.starts_with("Acquire::") && !line.contains("::Allow") && !line.contains("IndexTargets"))
            .filter(|line| !line.starts_with("Acquire::Languages"));
        let folder = self.folder.display();
        let architecture = &self.architecture;
        let mut text = kept.collect::<Vec<_>>().join("\n");
        text.push_str(STRICT);
        text.push_str(&format!(
            "APT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\n\
             Dir::State \"{folder}/state\";\nDir::State::lists \"{folder}/state/lists\";\n\
             Dir::State::status \"{folder}/status\";\n\
             Dir::State::extended_states \"{folder}/state/extended_states\";\n\
             Dir::Cache \"{folder}/cache\";\nDir::Cache::archives \"{folder}/cache/archives\";\n\
             Dir::Log \"{folder}/log\";\nDir::Etc::main \"{folder}/etc/none\";\n\
             Dir::Etc::parts \"{folder}/etc/apt.conf.d\";\nDir::Etc::sourcelist \"{folder}/etc/none\";\n\
             Dir::Etc::sourceparts \"{folder}/etc/sources.list.d\";\nDir::Etc::preferences \"{folder}/etc/none\";\n\
             Dir::Etc::preferencesparts \"{folder}/etc/preferences.d\";\n\
             Dir::Etc::trusted \"/etc/apt/trusted.gpg\";\nDir::Etc::trustedparts \"/etc/apt/trusted.gpg.d\";\n\
             Dir::Etc::netrc \"/etc/apt/auth.conf\";\nDir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n"
        ));
        Ok(text)
    }

    /// Reads the lists of the wanted suite and gives up sources that turn out to be somebody else's.
    pub(super) fn update(&self, request: &Request) -> Result<(), BootstrapError> {
        let found = sources::of_suite(Path::new("/etc/apt"), &request.suite)?;
        let none =
            || BootstrapError::NoSource { distribution: request.distribution.clone(), suite: request.suite.clone() };
        if found.is_empty() {
            return Err(none());
        }
        for (number, source) in found.iter().enumerate() {
            write(&self.source_path(number), &source.to_deb822())?;
        }
        let output = self.run("apt-get", &["update"])?;
        if !output.status.success() {
            return Err(BootstrapError::Update { reason: complaints(&output) });
        }
        let ours = self.sources_of(request)?;
        let mut kept: Vec<&Source> = Vec::new();
        for (number, source) in found.iter().enumerate() {
            let path = self.source_path(number);
            if ours.iter().any(|entry| entry.starts_with(&path.display().to_string())) {
                kept.push(source);
            } else {
                fs::remove_file(&path).map_err(file_error("remove", &path))?;
            }
        }
        if kept.iter().any(|source| source.suite == request.suite) { Ok(()) } else { Err(none()) }
    }

    /// The source files whose `Release` says that it is the distribution's own.
    fn sources_of(&self, request: &Request) -> Result<Vec<String>, BootstrapError> {
        let format = "$(SOURCESENTRY)|$(ORIGIN)|$(CODENAME)|$(SUITE)";
        let output = self.run("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])?;
        let text = text_of(output, "apt-get indextargets")?;
        let own = |line: &&str| {
            let mut fields = line.rsplitn(4, '|');
            let (suite, codename, origin) = (fields.next(), fields.next(), fields.next());
            let wanted = request.suite.as_str();
            origin.is_some_and(|origin| origin.eq_ignore_ascii_case(&request.distribution))
                && [suite, codename].into_iter().flatten().any(|name| name.split(['-', '/']).next() == Some(wanted))
        };
        Ok(text.lines().filter(own).map(str::to_owned).collect())
    }

    /// Downloads packages with all that they need and returns their files, sorted.
    pub(super) fn download(&self, include: &[String]) -> Result<Vec<PathBuf>, BootstrapError> {
        for package in include {
            let known = self.run("apt-cache", &["show", "--no-all-versions", "--", package])?.status.success();
            let plain = package.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:".contains(c));
            if !known || !plain || package.starts_with('-') {
                return Err(BootstrapError::UnknownPackage { package: package.clone() });
            }
        }
        let merged = self.run("apt-cache", &["show", "--no-all-versions", "usr-is-merged"])?.status.success();
        let mut arguments = vec!["--yes", "--download-only", "--no-remove", "install", "?essential", "apt"];
        // Without it the resolver takes the package that merges an old tree, and with it half of Perl.
        arguments.extend(merged.then_some("usr-is-merged"));
        arguments.extend(include.iter().map(String::as_str));
        let output = self.run("apt-get", &arguments)?;
        if !output.status.success() {
            return Err(BootstrapError::Download { reason: complaints(&output) });
        }
        let archives = self.folder.join("cache/archives");
        let entries = fs::read_dir(&archives).map_err(file_error("read", &archives))?;
        let mut packages: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        packages.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        packages.sort();
        Ok(packages)
    }

    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<Output, BootstrapError> {
        tool(program, "apt")
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .args(arguments)
            .output()
            .map_err(missing(program, "apt"))
    }

    fn source_path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("etc/sources.list.d/{number:03}.sources"))
    }
}

/// A command of the distribution's, with its messages in English and no terminal.
pub(super) fn tool(program: &str, _package: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

pub(super) fn missing(program: &'static str, package: &'static str) -> impl FnOnce(std::io::Error) -> BootstrapError {
    move |source| BootstrapError::Tool { program, package, source }
}

pub(super) fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BootstrapError {
    let path = path.to_owned();
    move |source| BootstrapError::File { operation, path, source }
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), BootstrapError> {
    fs::write(path, text).map_err(file_error("write", path))
}

/// Makes a directory with those above it, all with the usual mode whatever the daemon's mask is.
pub(super) fn folder(root: &Path, below: &str) -> Result<PathBuf, BootstrapError> {
    let mut path = root.to_owned();
    for part in Path::new(below) {
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => set_mode(&path, 0o755)?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(file_error("create", &path)(error)),
        }
    }
    Ok(path)
}

/// Sets a mode whatever the daemon's mask is.
pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), BootstrapError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(file_error("change the mode of", path))
}

fn text_of(output: Output, command: &'static str) -> Result<String, BootstrapError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(BootstrapError::Command { command, reason: complaints(&output) })
}

/// What a command said was wrong, without the rest.
pub(super) fn complaints(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let marked: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    let lines = if marked.is_empty() { text.lines().rev().take(3).collect() } else { marked };
    if lines.is_empty() { format!("{}", output.status) } else { lines.join("; ") }
}
