//! Devices, their limits, and resource limits of processes.

use docker_wire::models::{DeviceMapping, DeviceRequest, ResourcesUlimits, ThrottleDevice};

use super::number;

const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Whether a device is named by the Container Device Interface: `VENDOR/CLASS=NAME`.
pub(crate) fn is_qualified(text: &str) -> bool {
    !text.starts_with('/') && text.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
}

/// Reads `all`, a number, or fields: `count=2`, `device=0`, `driver=nvidia`, `capabilities=utility`. Quotes around commas are as in
/// comma-separated values.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn gpus(text: &str) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest { count: Some(0), ..DeviceRequest::default() };
    let mut capabilities = vec!["gpu".to_owned()];
    let count = |text: &str| match text {
        "all" => Ok(-1),
        _ => text.parse::<i64>().map_err(|_| format!("{text:?} is no number of devices")),
    };
    for field in fields(text) {
        match field.split_once('=') {
            None => request.count = Some(count(&field)?),
            Some(("count", value)) => request.count = Some(count(value)?),
            Some(("device", value)) => request.device_ids = Some(value.split(',').map(str::to_owned).collect()),
            Some(("driver", value)) => request.driver = Some(value.to_owned()),
            Some(("capabilities", value)) => capabilities.extend(value.split(',').map(str::to_owned)),
            Some(("options", value)) => {
                let pair = |pair: &str| {
                    pair.split_once('=').map_or((pair.to_owned(), String::new()), |(a, b)| (a.to_owned(), b.to_owned()))
                };
                request.options = Some(value.split(',').map(pair).collect());
            }
            Some((other, _)) => {
                return Err(format!(
                    "unknown field {other:?}; there are count, device, driver, capabilities and options"
                ));
            }
        }
    }
    request.capabilities = Some(vec![capabilities]);
    Ok(request)
}

/// Cuts at commas that are not between quotes.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.iter_mut().next_back().into_iter().for_each(|field| field.push(other)),
        }
    }
    fields
}

/// Reads `HOST[:CONTAINER[:rwm]]`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn mapping(text: &str) -> Result<DeviceMapping, String> {
    let permissions_valid = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c)) && text.len() <= 3;
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, second] if permissions_valid(second) => (*host, *host, *second),
        [host, container] => (*host, *container, "rwm"),
        [host, container, permissions] if permissions_valid(permissions) => (*host, *container, *permissions),
        [_, _, permissions] => return Err(format!("permissions {permissions:?} are not of r, w and m")),
        _ => return Err("give HOST[:CONTAINER[:rwm]]".to_owned()),
    };
    if !host.starts_with('/') || !container.starts_with('/') {
        return Err("device paths begin with /".to_owned());
    }
    Ok(DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(container.to_owned()),
        cgroup_permissions: Some(permissions.to_owned()),
    })
}

/// Reads `DEVICE:BYTES` a second.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn byte_rate(text: &str) -> Result<ThrottleDevice, String> {
    throttle(text, number::bytes)
}

/// Reads `DEVICE:COUNT` of operations a second.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn operation_rate(text: &str) -> Result<ThrottleDevice, String> {
    throttle(text, |rate| match number::integer(rate) {
        Ok(rate) if rate >= 0 => Ok(rate),
        _ => Err("give a whole number of operations".to_owned()),
    })
}

fn throttle(text: &str, rate: impl Fn(&str) -> Result<i64, String>) -> Result<ThrottleDevice, String> {
    let (path, value) = text.rsplit_once(':').ok_or("give DEVICE:RATE, as in /dev/sda:1m")?;
    if !path.starts_with("/dev/") {
        return Err(format!("{path:?} is not a path below /dev"));
    }
    Ok(ThrottleDevice { path: Some(path.to_owned()), rate: Some(rate(value)?) })
}

/// Reads `NAME=SOFT[:HARD]`; -1 is no limit.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn ulimit(text: &str) -> Result<ResourcesUlimits, String> {
    let (name, limits) = text.split_once('=').ok_or("give NAME=SOFT[:HARD], as in nofile=1024:2048")?;
    if !ULIMITS.contains(&name) {
        return Err(format!("there is no limit {name:?}; there are {}", ULIMITS.join(", ")));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number::integer(soft)?, number::integer(hard)?);
    if soft < -1 || hard < -1 {
        return Err("limits are not negative, but for -1, which is none".to_owned());
    }
    if hard >= 0 && (soft > hard || soft == -1) {
        return Err(format!("the soft limit {soft} is above the hard limit {hard}"));
    }
    Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(soft), hard: Some(hard) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings() {
        let check = |text: &str, host: &str, container: &str, permissions: &str| {
            let got = mapping(text).unwrap();
            let fields = [got.path_on_host, got.path_in_container, got.cgroup_permissions].map(Option::unwrap);
            assert_eq!(fields, [host, container, permissions], "{text}");
        };
        check("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm");
        check("/dev/fuse:r", "/dev/fuse", "/dev/fuse", "r");
        check("/dev/a:/dev/b", "/dev/a", "/dev/b", "rwm");
        check("/dev/a:/dev/b:rw", "/dev/a", "/dev/b", "rw");
        for bad in ["", "fuse", "/dev/a:/dev/b:x", "/dev/a:/dev/b:r:w", "/dev/a:/dev/b:"] {
            assert!(mapping(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(byte_rate("/dev/sda:1m").unwrap().rate, Some(1 << 20));
        assert_eq!(operation_rate("/dev/sda:100").unwrap().rate, Some(100));
        assert!(
            byte_rate("sda:1m").is_err() && byte_rate("/dev/sda").is_err() && operation_rate("/dev/sda:1m").is_err()
        );
    }

    #[test]
    fn ulimits() {
        let got = ulimit("nofile=1024:2048").unwrap();
        assert_eq!((got.soft, got.hard), (Some(1024), Some(2048)));
        let got = ulimit("core=-1").unwrap();
        assert_eq!((got.soft, got.hard), (Some(-1), Some(-1)));
        for bad in ["nofile", "nofiles=1", "nofile=x", "nofile=2:1", "nofile=-2"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }
}
