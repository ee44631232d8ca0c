//! What `run` and `create` have in common: the flags, and the request made of them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use docker_wire::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig,
};
use serde_json::Value;

use crate::client::{Client, Query};
use crate::container::{limits, networks};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Order, Parsed};
use crate::value::{device, mount, number, pair, time};
use crate::{output, table, terminal};

pub(crate) static COMMAND: Command = Command {
    name: "create",
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Make a container without starting it",
    flags: &[FLAGS, limits::FLAGS],
    order: Order::FlagsFirst,
    arguments: (1, Command::MANY),
    action: Action::Run(create),
    ..Command::BLANK
};

/// The flags that say what a container is.
pub(crate) static FLAGS: &[Flag] = &[
    Flag::list("add-host", "NAME:ADDRESS", "Add a line to the hosts file"),
    Flag::list("annotation", "NAME=VALUE", "Add an annotation to the OCI configuration"),
    Flag::list("attach", "STREAM", "Attach to stdin, stdout or stderr").short('a'),
    Flag::list("cap-add", "CAP", "Add a capability"),
    Flag::list("cap-drop", "CAP", "Drop a capability"),
    Flag::value("cgroup-parent", "PATH", "Put the container below this control group"),
    Flag::value("cgroupns", "MODE", "Control group namespace: private or host"),
    Flag::value("cidfile", "FILE", "Write the container's id to a file"),
    Flag::list("device", "HOST[:CONTAINER[:rwm]]", "Give a device of the host, or a CDI one: VENDOR/CLASS=NAME"),
    Flag::list("device-cgroup-rule", "RULE", "Allow a device to the control group, as in 'c 10:229 rwm'"),
    Flag::list("device-read-bps", "DEVICE:RATE", "Limit bytes read from a device a second"),
    Flag::list("device-read-iops", "DEVICE:RATE", "Limit reads from a device a second"),
    Flag::list("device-write-bps", "DEVICE:RATE", "Limit bytes written to a device a second"),
    Flag::list("device-write-iops", "DEVICE:RATE", "Limit writes to a device a second"),
    Flag::list("dns", "ADDRESS", "Use a name server"),
    Flag::list("dns-option", "OPTION", "Set an option of the resolver"),
    Flag::list("dns-search", "DOMAIN", "Search names in a domain"),
    Flag::value("domainname", "NAME", "The container's NIS domain name"),
    Flag::value("entrypoint", "PROGRAM", "Replace the image's entry point"),
    Flag::list("env", "NAME[=VALUE]", "Set a variable, or hand on the user's own").short('e'),
    Flag::list("env-file", "FILE", "Set variables from a file"),
    Flag::list("expose", "PORT[/PROTOCOL]", "Say that the container listens at a port or range of ports"),
    Flag::value("gpus", "REQUEST", "Give graphics processors: all, a number, or device=0"),
    Flag::list("group-add", "GROUP", "Join a further group"),
    Flag::value("health-cmd", "COMMAND", "Run this now and then to see whether it is well"),
    Flag::value("health-interval", "SPAN", "Between two health checks, as in 30s"),
    Flag::value("health-retries", "TIMES", "Failed health checks in a row that make it unhealthy"),
    Flag::value("health-start-interval", "SPAN", "Between two health checks while it starts"),
    Flag::value("health-start-period", "SPAN", "How long failed health checks do not count"),
    Flag::value("health-timeout", "SPAN", "How long one health check may take"),
    Flag::value("hostname", "NAME", "The container's host name").short('h'),
    Flag::switch("init", "Run a small init that reaps and forwards signals"),
    Flag::switch("interactive", "Keep standard input open").short('i'),
    Flag::value("ip", "ADDRESS", "IPv4 address in the network"),
    Flag::value("ip6", "ADDRESS", "IPv6 address in the network"),
    Flag::value("ipc", "MODE", "IPC namespace: none, private, shareable, host or container:NAME"),
    Flag::value("isolation", "KIND", "Kind of isolation: container"),
    Flag::list("label", "NAME[=VALUE]", "Set a label").short('l'),
    Flag::list("label-file", "FILE", "Set labels from a file"),
    Flag::list("link", "CONTAINER[:ALIAS]", "Know another container by a name"),
    Flag::list("link-local-ip", "ADDRESS", "A further address of the link"),
    Flag::value("log-driver", "DRIVER", "Where logs go: json-file, local, journald, syslog or none"),
    Flag::list("log-opt", "NAME=VALUE", "Set an option of the log, as in max-size=10m"),
    Flag::value("mac-address", "ADDRESS", "Link-layer address, as in 02:42:ac:11:00:09"),
    Flag::value("memory-swappiness", "PERCENT", "How readily memory is swapped, 0 to 100"),
    Flag::list("mount", "FIELDS", "Mount, as in type=bind,source=/a,target=/b,readonly"),
    Flag::value("name", "NAME", "The container's name"),
    Flag::list("net", "NETWORK", "The same as --network"),
    Flag::list("net-alias", "NAME", "The same as --network-alias"),
    Flag::list("network", "NETWORK", "Join a network (bridge), none, host or container:NAME; or name=…,alias=…,ip=…"),
    Flag::list("network-alias", "NAME", "A name of the container in its network"),
    Flag::switch("no-healthcheck", "Leave the image's health check out"),
    Flag::switch("oom-kill-disable", "Let the container wait in place of being killed at its memory limit"),
    Flag::value("oom-score-adj", "NUMBER", "Make the kernel more or less ready to kill it, -1000 to 1000"),
    Flag::value("pid", "MODE", "Process namespace: host or container:NAME"),
    Flag::value("platform", "OS/ARCH", "The platform of the image"),
    Flag::switch("privileged", "Give every capability and device, and mask nothing"),
    Flag::list("publish", "[[ADDRESS:]PORT:]PORT[/PROTOCOL]", "Reach a port or range of ports through the host")
        .short('p'),
    Flag::switch("publish-all", "Reach every exposed port through some port of the host").short('P'),
    Flag::value("pull", "WHEN", "Get the image: missing or never"),
    Flag::switch("quiet", "Say nothing while getting the image").short('q'),
    Flag::switch("read-only", "Mount the root file system read-only"),
    Flag::switch("rm", "Remove the container when it has ended"),
    Flag::value("runtime", "NAME", "The OCI runtime"),
    Flag::list("security-opt", "OPTION", "seccomp=FILE, seccomp=unconfined, no-new-privileges or apparmor=PROFILE"),
    Flag::value("shm-size", "BYTES", "Size of /dev/shm (64m)"),
    Flag::value("stop-signal", "SIGNAL", "The signal that stops the container"),
    Flag::value("stop-timeout", "SECONDS", "How long stop waits before it kills"),
    Flag::list("sysctl", "NAME=VALUE", "Set a kernel parameter of the container's namespaces"),
    Flag::list("tmpfs", "PATH[:OPTIONS]", "Mount a tmpfs"),
    Flag::switch("tty", "Give a terminal").short('t'),
    Flag::list("ulimit", "NAME=SOFT[:HARD]", "Set a resource limit, as in nofile=1024:2048"),
    Flag::value("user", "USER[:GROUP]", "Run as this user").short('u'),
    Flag::value("userns", "MODE", "User namespace: host, or the daemon's default"),
    Flag::value("uts", "MODE", "Host name namespace: host"),
    Flag::list("volume", "SOURCE:TARGET[:OPTIONS]", "Mount a file or folder of the host").short('v'),
    Flag::list("volumes-from", "CONTAINER", "Mount what another container mounts"),
    Flag::value("workdir", "PATH", "Work in this folder").short('w'),
];

fn create(context: &Context, given: &Parsed) -> Outcome {
    let request = Request::read(given)?;
    let mut client = Client::new(context);
    let id = request.send(&mut client)?;
    output::line(&id);
    Ok(0)
}

/// A container that is to be made.
pub(crate) struct Request {
    pub(crate) body: ContainerCreateBody,
    query: Query,
    cid_file: Option<String>,
}

impl Request {
    /// Reads the flags; what Docker's client refuses is refused here.
    ///
    /// # Errors
    /// Which flag is wrong, and why.
    pub(crate) fn read(given: &Parsed) -> Result<Self, Failure> {
        check_choices(given)?;
        let (image, command) = match given.arguments.as_slice() {
            [image, command @ ..] => (image.clone(), command.to_vec()),
            [] => return Err(Failure::new("no image is named")),
        };
        if image.is_empty() {
            return Err(Failure::new("bad image \"\": invalid reference format; give a name as in debian:bookworm"));
        }
        let (binds, volumes) = volumes(given)?;
        let mut attached: Vec<String> = given.values("attach").map(str::to_ascii_lowercase).collect();
        if let Some(bad) = attached.iter().find(|s| !["stdin", "stdout", "stderr"].contains(&s.as_str())) {
            return Err(Failure::new(format!("bad value {bad:?} for --attach: give stdin, stdout or stderr")));
        }
        if attached.is_empty() {
            attached = vec!["stdout".to_owned(), "stderr".to_owned()];
            if given.on("interactive") {
                attached.push("stdin".to_owned());
            }
        }
        let attach = |stream: &str| Some(attached.iter().any(|name| name == stream));
        let body = ContainerCreateBody {
            hostname: given.value("hostname").map(str::to_owned),
            domainname: given.value("domainname").map(str::to_owned),
            user: given.value("user").map(str::to_owned),
            attach_stdin: attach("stdin"),
            attach_stdout: attach("stdout"),
            attach_stderr: attach("stderr"),
            tty: Some(given.on("tty")),
            open_stdin: Some(given.on("interactive")),
            stdin_once: Some(given.on("interactive") && attach("stdin") == Some(true)),
            env: environment(given)?,
            cmd: (!command.is_empty()).then_some(command),
            image: Some(image),
            volumes,
            working_dir: given.value("workdir").map(str::to_owned),
            // An empty text takes the image's entry point away.
            entrypoint: given.value("entrypoint").map(|program| vec![program.to_owned()]),
            labels: labels(given)?,
            stop_signal: given.value("stop-signal").map(str::to_owned),
            stop_timeout: given.read("stop-timeout", number::integer)?,
            healthcheck: health_check(given)?,
            host_config: Some(host_config(given, binds)?),
            ..ContainerCreateBody::default()
        };
        let query =
            Query::default().with_some("name", given.value("name")).with_some("platform", given.value("platform"));
        let networks = networks::read(given)?;
        let body = ContainerCreateBody {
            exposed_ports: networks.exposed,
            networking_config: networks.endpoints,
            host_config: body.host_config.map(|host| HostConfig {
                network_mode: Some(networks.mode),
                port_bindings: networks.bindings,
                publish_all_ports: Some(given.on("publish-all")),
                links: networks.links,
                ..host
            }),
            ..body
        };
        let cid_file = given.value("cidfile").map(str::to_owned);
        if let Some(path) = &cid_file
            && Path::new(path).exists()
        {
            let text = format!(
                "the file {path:?} of --cidfile exists already; remove it, or make sure that no container uses it"
            );
            return Err(Failure::new(text));
        }
        Ok(Self { body, query, cid_file })
    }

    /// Makes the container; its id is returned.
    ///
    /// # Errors
    /// What the daemon refuses.
    pub(crate) fn send(&self, client: &mut Client) -> Result<String, Failure> {
        let image = self.body.image.as_deref().unwrap_or_default();
        let answer = client
            .post_json(&self.query.behind("/containers/create"), &self.body)
            .map_err(|failure| missing_image(failure, image))?;
        for warning in table::elements(&answer, "/Warnings").iter().filter_map(Value::as_str) {
            output::note(&format!("warning: {warning}"));
        }
        let id = table::text(&answer, "/Id").to_owned();
        if let Some(path) = &self.cid_file {
            fs::write(path, &id).during(|| format!("cannot write the id to {path:?}"))?;
        }
        Ok(id)
    }
}

/// Says what to do about an image that is not there.
fn missing_image(failure: Failure, image: &str) -> Failure {
    if failure.status() != Some(404) || !failure.text().to_ascii_lowercase().contains("no such image") {
        return failure;
    }
    let text = format!(
        "no image {image:?} here; make one with: insula image bootstrap debian:bookworm -t {image}, or: insula image import TAR -t {image}"
    );
    Failure::daemon(404, text)
}

/// Checks the flags that name one of few things.
fn check_choices(given: &Parsed) -> Result<(), Failure> {
    let choice = |flag: &'static str, words: &'static [&'static str]| {
        given.read(flag, |text| pair::namespace(text, words)).map(drop)
    };
    choice("ipc", &["", "none", "private", "shareable", "host", "container:"])?;
    choice("pid", &["", "host", "private", "container:"])?;
    choice("uts", &["", "host", "private"])?;
    choice("userns", &["", "host", "private", "auto", "auto:", "keep-id", "remap", "remap:"])?;
    choice("cgroupns", &["", "private", "host"])?;
    choice("isolation", &["", "container", "default"])?;
    choice("pull", &["missing", "never", "always"])?;
    if given.value("pull") == Some("always") {
        return Err(Failure::new(
            "bad value \"always\" for --pull: there is no registry client in this version; make the image with: insula image bootstrap, or: insula image import",
        ));
    }
    if given.value("cpus").is_some() && (given.value("cpu-quota").is_some() || given.value("cpu-period").is_some()) {
        return Err(Failure::new("--cpus does not go with --cpu-quota and --cpu-period; give one or the other"));
    }
    if given.on("rm") && given.value("restart").is_some_and(|policy| !policy.is_empty() && policy != "no") {
        return Err(Failure::new("--rm does not go with --restart; give one or the other"));
    }
    Ok(())
}

type Mounted = (Option<Vec<String>>, Option<Vec<String>>);

fn volumes(given: &Parsed) -> Result<Mounted, Failure> {
    let folder = std::env::current_dir().during(|| "cannot find the present folder".to_owned())?;
    let (mut binds, mut anonymous) = (Vec::new(), Vec::new());
    for volume in given.read_list("volume", |text| mount::volume(text, &folder))?.unwrap_or_default() {
        match volume {
            mount::Volume::Bind(bind) => binds.push(bind),
            mount::Volume::Anonymous(path) => anonymous.push(path),
        }
    }
    Ok(((!binds.is_empty()).then_some(binds), (!anonymous.is_empty()).then_some(anonymous)))
}

fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The variables of `--env-file` and `-e`, in this order.
pub(crate) fn environment(given: &Parsed) -> Result<Option<Vec<String>>, Failure> {
    let mut variables = Vec::new();
    for path in given.values("env-file") {
        let text = fs::read_to_string(path).during(|| format!("cannot read the file {path:?} of --env-file"))?;
        let read = pair::variables(&text, &lookup);
        variables.extend(read.map_err(|why| Failure::new(format!("bad file {path:?} of --env-file: {why}")))?);
    }
    let direct = given.read_list("env", |text| pair::variable(text, &lookup))?;
    variables.extend(direct.unwrap_or_default().into_iter().flatten());
    Ok((!variables.is_empty()).then_some(variables))
}

fn labels(given: &Parsed) -> Result<Option<HashMap<String, String>>, Failure> {
    let mut labels = HashMap::new();
    for path in given.values("label-file") {
        let text = fs::read_to_string(path).during(|| format!("cannot read the file {path:?} of --label-file"))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let read = pair::label(line).map_err(|why| format!("bad label {line:?} in {path:?}: {why}"));
            labels.extend([read.map_err(Failure::new)?]);
        }
    }
    labels.extend(given.read_list("label", pair::label)?.unwrap_or_default());
    Ok((!labels.is_empty()).then_some(labels))
}

fn host_config(given: &Parsed, binds: Option<Vec<String>>) -> Result<HostConfig, Failure> {
    let folder = std::env::current_dir().during(|| "cannot find the present folder".to_owned())?;
    let string = |flag: &str| given.value(flag).filter(|value| !value.is_empty()).map(str::to_owned);
    let cgroupns = match given.value("cgroupns") {
        Some("private") => Some(HostConfigCgroupnsModeEnum::PRIVATE),
        Some("host") => Some(HostConfigCgroupnsModeEnum::HOST),
        _ => None,
    };
    let log_options = pair::map(given.read_list("log-opt", pair::option)?);
    let log_config = (given.value("log-driver").is_some() || log_options.is_some())
        .then(|| HostConfigLogConfig { typ: Some(string("log-driver").unwrap_or_default()), config: log_options });
    let host = HostConfig {
        binds,
        container_id_file: string("cidfile"),
        log_config,
        auto_remove: Some(given.on("rm")),
        volumes_from: given.list("volumes-from"),
        mounts: given.read_list("mount", |text| mount::mount(text, &folder))?,
        console_size: terminal::size()
            .filter(|_| given.on("tty"))
            .map(|(rows, columns)| vec![rows.into(), columns.into()]),
        annotations: pair::map(given.read_list("annotation", pair::option)?),
        cap_add: given.list("cap-add"),
        cap_drop: given.list("cap-drop"),
        cgroupns_mode: cgroupns,
        dns: given.read_list("dns", pair::address)?,
        dns_options: given.list("dns-option"),
        dns_search: given.list("dns-search"),
        extra_hosts: given.read_list("add-host", pair::host)?,
        group_add: given.list("group-add"),
        ipc_mode: string("ipc"),
        oom_score_adj: given.read("oom-score-adj", number::oom_score)?,
        pid_mode: string("pid"),
        privileged: Some(given.on("privileged")),
        readonly_rootfs: Some(given.on("read-only")),
        security_opt: given.read_list("security-opt", security_option)?,
        tmpfs: pair::map(given.read_list("tmpfs", pair::tmpfs)?),
        uts_mode: string("uts"),
        userns_mode: string("userns"),
        shm_size: given.read("shm-size", number::bytes)?,
        sysctls: pair::map(given.read_list("sysctl", pair::option)?),
        runtime: string("runtime"),
        ..limits::read(given)?
    };
    resources(given, host)
}

fn resources(given: &Parsed, host: HostConfig) -> Result<HostConfig, Failure> {
    let string = |flag: &str| given.value(flag).filter(|value| !value.is_empty()).map(str::to_owned);
    Ok(HostConfig {
        cgroup_parent: string("cgroup-parent"),
        blkio_device_read_bps: given.read_list("device-read-bps", device::byte_rate)?,
        blkio_device_write_bps: given.read_list("device-write-bps", device::byte_rate)?,
        blkio_device_read_iops: given.read_list("device-read-iops", device::operation_rate)?,
        blkio_device_write_iops: given.read_list("device-write-iops", device::operation_rate)?,
        devices: plain_devices(given)?,
        device_requests: device_requests(given)?,
        device_cgroup_rules: given.list("device-cgroup-rule"),
        memory_swappiness: given.read("memory-swappiness", number::integer)?,
        oom_kill_disable: given.value("oom-kill-disable").map(|value| value == "true"),
        init: given.value("init").map(|value| value == "true"),
        ulimits: given.read_list("ulimit", device::ulimit)?,
        ..host
    })
}

/// Devices by path.
fn plain_devices(given: &Parsed) -> Result<Option<Vec<DeviceMapping>>, Failure> {
    let all = given.read_list("device", |text| {
        if device::is_qualified(text) { Ok(None) } else { device::mapping(text).map(Some) }
    })?;
    Ok(all.map(|all| all.into_iter().flatten().collect::<Vec<_>>()).filter(|list| !list.is_empty()))
}

/// Devices by driver: those of the Container Device Interface, and graphics processors.
fn device_requests(given: &Parsed) -> Result<Option<Vec<DeviceRequest>>, Failure> {
    let qualified: Vec<String> =
        given.values("device").filter(|text| device::is_qualified(text)).map(str::to_owned).collect();
    let cdi = (!qualified.is_empty()).then(|| DeviceRequest {
        driver: Some("cdi".to_owned()),
        device_ids: Some(qualified),
        ..DeviceRequest::default()
    });
    let gpus = given.read("gpus", device::gpus)?;
    let all: Vec<DeviceRequest> = gpus.into_iter().chain(cdi).collect();
    Ok((!all.is_empty()).then_some(all))
}

/// The health check of the flags; `None` leaves the image's.
fn health_check(given: &Parsed) -> Result<Option<HealthConfig>, Failure> {
    let span = |flag: &str| {
        given.read(flag, |text| {
            let span = time::span(text).and_then(|span| i64::try_from(span).ok());
            match span {
                Some(nanos) if nanos < 0 => Err("it cannot be negative".to_owned()),
                Some(nanos @ 1..1_000_000) => Err(format!("{nanos} ns are less than a millisecond")),
                Some(nanos) => Ok(nanos),
                None => Err("give a span, as in 30s or 1m30s".to_owned()),
            }
        })
    };
    let check = HealthConfig {
        test: given
            .value("health-cmd")
            .filter(|line| !line.is_empty())
            .map(|line| vec!["CMD-SHELL".to_owned(), line.to_owned()]),
        interval: span("health-interval")?,
        timeout: span("health-timeout")?,
        retries: given.read("health-retries", |text| match text.parse() {
            Ok(times @ 0..) => Ok(times),
            _ => Err("give a number of times".to_owned()),
        })?,
        start_period: span("health-start-period")?,
        start_interval: span("health-start-interval")?,
    };
    if !given.on("no-healthcheck") {
        return Ok((check != HealthConfig::default()).then_some(check));
    }
    if check != HealthConfig::default() {
        return Err(Failure::new("--no-healthcheck does not go with the --health flags; give one or the other"));
    }
    Ok(Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..check }))
}

/// Reads one `--security-opt`; a seccomp profile's file is sent as its content.
fn security_option(text: &str) -> Result<String, String> {
    let (name, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    match (name, value) {
        ("no-new-privileges", None | Some("true" | "false")) => Ok(text.replace('=', ":")),
        ("no-new-privileges", Some(_)) => Err("no-new-privileges is true or false".to_owned()),
        ("seccomp", Some(profile @ ("unconfined" | "builtin"))) => Ok(format!("seccomp={profile}")),
        ("seccomp", Some(path)) => {
            let file = fs::read(path).map_err(|error| format!("cannot read the profile {path:?}: {error}"))?;
            let profile: Value =
                serde_json::from_slice(&file).map_err(|error| format!("the profile {path:?} is not JSON: {error}"))?;
            Ok(format!("seccomp={profile}"))
        }
        ("apparmor" | "label" | "systempaths" | "writable-cgroups", Some(_)) => Ok(text.to_owned()),
        (_, None) => Err("give NAME=VALUE, as in seccomp=unconfined".to_owned()),
        _ => Err("unknown option; there are seccomp=, no-new-privileges and apparmor=".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Value, Failure> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let parsed = crate::flags::parse(&COMMAND, &words).map_err(Failure::new)?;
        Ok(serde_json::to_value(Request::read(&parsed)?.body).unwrap())
    }

    #[test]
    fn flags_become_the_request_that_dockers_client_sends() {
        let check = |line: &str, path: &str, expect: Value| {
            let body = read(line).unwrap();
            assert_eq!(body.pointer(path), Some(&expect), "{line}");
        };
        check("web ls -l", "/Cmd", serde_json::json!(["ls", "-l"]));
        check("-m 512m web", "/HostConfig/Memory", 536_870_912.into());
        check("--memory-swap -1 web", "/HostConfig/MemorySwap", (-1).into());
        check("--cpus 1.5 web", "/HostConfig/NanoCpus", 1_500_000_000.into());
        check("--network none web", "/HostConfig/NetworkMode", "none".into());
        check("--net host web", "/HostConfig/NetworkMode", "host".into());
        check("web", "/HostConfig/NetworkMode", "default".into());
        check("-p 8080:80 web", "/HostConfig/PortBindings/80~1tcp/0/HostPort", "8080".into());
        check("-p 127.0.0.1::53/udp web", "/HostConfig/PortBindings/53~1udp/0/HostIp", "127.0.0.1".into());
        check("-p 8000-8001:80-81 web", "/HostConfig/PortBindings/81~1tcp/0/HostPort", "8001".into());
        check("-p 80 --expose 90 web", "/ExposedPorts", serde_json::json!({"80/tcp": {}, "90/tcp": {}}));
        check("--network a --network-alias x web", "/NetworkingConfig/EndpointsConfig/a/Aliases/0", "x".into());
        check(
            "--network name=a,ip=10.0.0.9 --network b web",
            "/NetworkingConfig/EndpointsConfig/a/IPAMConfig/IPv4Address",
            "10.0.0.9".into(),
        );
        check("--link db:data web", "/HostConfig/Links/0", "db:data".into());
        check("--entrypoint= web", "/Entrypoint", serde_json::json!([""]));
        check("-it web", "/AttachStdin", true.into());
        check("-it web", "/StdinOnce", true.into());
        check("-v /a:/b:ro web", "/HostConfig/Binds", serde_json::json!(["/a:/b:ro"]));
        check("-v /b web", "/Volumes", serde_json::json!({"/b": {}}));
        check("--restart on-failure:3 web", "/HostConfig/RestartPolicy/MaximumRetryCount", 3.into());
        check(
            "--security-opt no-new-privileges web",
            "/HostConfig/SecurityOpt",
            serde_json::json!(["no-new-privileges"]),
        );
        check("--ulimit nofile=5 web", "/HostConfig/Ulimits/0/Hard", 5.into());
        check("--tmpfs /t:size=1m web", "/HostConfig/Tmpfs", serde_json::json!({"/t": "size=1m"}));
        check("--device-write-iops /dev/sda:5 web", "/HostConfig/BlkioDeviceWriteIOps/0/Rate", 5.into());
        check("--cap-add ALL --cap-drop NET_RAW web", "/HostConfig/CapDrop", serde_json::json!(["NET_RAW"]));
        check("--init web", "/HostConfig/Init", true.into());
        check("--gpus all web", "/HostConfig/DeviceRequests/0/Count", (-1).into());
        check("--device a.b/c=d web", "/HostConfig/DeviceRequests/0/DeviceIDs", serde_json::json!(["a.b/c=d"]));
        check("--health-cmd true web", "/Healthcheck/Test", serde_json::json!(["CMD-SHELL", "true"]));
        check("--health-cmd true --health-interval 1.5s web", "/Healthcheck/Interval", 1_500_000_000.into());
        check("--no-healthcheck web", "/Healthcheck/Test", serde_json::json!(["NONE"]));
        check("-l a=b web", "/Labels", serde_json::json!({"a": "b"}));
    }

    #[test]
    fn wrong_values_name_their_flag() {
        let check = |line: &str, part: &str| {
            let failure = read(line).unwrap_err();
            assert!(failure.text().contains(part), "{line}: {}", failure.text());
        };
        check("-m 12q web", "bad value \"12q\" for --memory");
        check("--cpus x web", "--cpus");
        check("--cpus 1 --cpu-quota 5 web", "--cpus does not go with --cpu-quota");
        check("--ulimit nofile web", "--ulimit");
        check("--device x web", "--device");
        check("--mount type=bind,target=/x web", "needs a source");
        check("-v a web", "--volume");
        check("--ipc hots web", "--ipc");
        check("--restart sometimes web", "--restart");
        check("--rm --restart always web", "--rm does not go with --restart");
        check("--security-opt seccomp=/nonexistent.json web", "cannot read the profile");
        check("--security-opt colour=red web", "unknown option");
        check("--env-file /nonexistent web", "/nonexistent");
        check("--pull always web", "--pull");
        check("--isolation vm web", "--isolation");
        check("--health-interval 1us web", "bad value \"1us\" for --health-interval");
        check("--no-healthcheck --health-retries 1 web", "--no-healthcheck");
        check("--blkio-weight 5 web", "--blkio-weight");
        check("--attach stdfoo web", "--attach");
        check("-p 9-8:80 web", "--publish");
        check("-p 80/icmp web", "--publish");
        check("-p x web", "--publish");
        check("-p 8000-8003:80-81 web", "--publish");
        check("--network a --network host web", "host");
        check("--network name=a,colour=red web", "colour");
        check("--ip 10.0.0.999 web", "--ip");
    }

    #[test]
    fn a_missing_image_says_what_to_do() {
        let failure = missing_image(Failure::daemon(404, "No such image: web:2"), "web:2");
        assert!(failure.text().starts_with("no image \"web:2\" here; make one with: insula image bootstrap"));
        assert_eq!(missing_image(Failure::daemon(409, "x"), "web:2").text(), "x");
    }
}
