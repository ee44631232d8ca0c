//! Being a plugin: bridges, addresses and published ports for engines that are not ours.
//!
//! ```json
//! {"cniVersion": "1.0.0", "name": "web", "type": "insula", "bridge": "cni-web", "ipMasq": true, "mtu": 1500,
//!  "internal": false, "dataDir": "/var/lib/insula/cni", "capabilities": {"portMappings": true, "mac": true, "ips": true},
//!  "ipam": {"subnets": [{"subnet": "10.22.0.0/16", "range": "10.22.1.0/24", "gateway": "10.22.0.1"}]}}
//! ```
//! Addresses are allocated here; without `ipam` they come from Docker's pools. The rules are in a table of their own,
//! made from the plugin's memory at each call, so that neither daemon nor helper has to run.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::state::{Attachment, Store};
use super::{Failure, VERSIONS};
use crate::conntrack::Conntrack;
use crate::firewall::{Firewall, NetworkRules, Protocol, Publication, Published};
use crate::forwarding::{self, Before, Version};
use crate::ipam::{self, SubnetRequest};
use crate::{Attachment as On, BridgeSpec, EndpointSpec, Links, Mac, NetError, Rate, Route, Subnet};

const TABLE: &str = "insula_cni";

/// What a program that is a plugin prints, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// For standard output.
    pub stdout: String,
    /// The exit code.
    pub code: u8,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    cni_version: String,
    name: String,
    bridge: Option<String>,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    internal: bool,
    mtu: Option<u32>,
    #[serde(default = "data_dir")]
    data_dir: PathBuf,
    #[serde(default)]
    ipam: Ipam,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(default)]
    dns: Value,
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid: Vec<Valid>,
}

fn data_dir() -> PathBuf {
    PathBuf::from("/var/lib/insula/cni")
}

#[derive(Debug, Default, Deserialize)]
struct Ipam {
    #[serde(default)]
    subnets: Vec<AskedSubnet>,
}

#[derive(Debug, Deserialize)]
struct AskedSubnet {
    subnet: Subnet,
    range: Option<Subnet>,
    gateway: Option<IpAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    mac: Option<Mac>,
    ips: Vec<String>,
    port_mappings: Vec<PortMapping>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    host_port: u16,
    container_port: u16,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default, rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// Codes of the specification, section "Error".
mod code {
    pub(super) const VERSION: u32 = 1;
    pub(super) const ENVIRONMENT: u32 = 4;
    pub(super) const IO: u32 = 5;
    pub(super) const DECODE: u32 = 6;
    pub(super) const NETWORK: u32 = 7;
    pub(super) const KERNEL: u32 = 100;
    pub(super) const CHECK: u32 = 101;
}

fn fail(code: u32, msg: impl Into<String>) -> Failure {
    Failure { code, msg: msg.into(), ..Failure::default() }
}

fn io(error: std::io::Error) -> Failure {
    fail(code::IO, error.to_string())
}

fn kernel(error: NetError) -> Failure {
    let mut details = String::new();
    let mut next = std::error::Error::source(&error);
    while let Some(source) = next {
        details = format!("{details}{}{source}", if details.is_empty() { "" } else { ": " });
        next = source.source();
    }
    Failure { details, ..fail(code::KERNEL, error.to_string()) }
}

/// One call of the plugin: `variable` gives the environment, `stdin` is the configuration.
#[must_use]
pub fn main(variable: &dyn Fn(&str) -> Option<String>, stdin: &[u8]) -> Output {
    match call(variable, stdin) {
        Ok(stdout) => Output { stdout, code: 0 },
        Err(mut failure) => {
            if failure.cni_version.is_empty() {
                let asked = serde_json::from_slice::<Value>(stdin).ok();
                let asked = asked.and_then(|value| Some(value.get("cniVersion")?.as_str()?.to_owned()));
                failure.cni_version = asked.unwrap_or_else(|| "1.0.0".to_owned());
            }
            Output { stdout: json!(failure).to_string(), code: 1 }
        }
    }
}

fn call(variable: &dyn Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<String, Failure> {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        let newest = VERSIONS.last().copied().unwrap_or_default();
        return Ok(json!({"cniVersion": newest, "supportedVersions": VERSIONS}).to_string());
    }
    let configuration: Configuration =
        serde_json::from_slice(stdin).map_err(|error| fail(code::DECODE, error.to_string()))?;
    if !VERSIONS.contains(&configuration.cni_version.as_str()) {
        let msg = format!("version {} is none of {}", configuration.cni_version, VERSIONS.join(", "));
        return Err(fail(code::VERSION, msg));
    }
    let need = |name: &str| {
        let missing = || fail(code::ENVIRONMENT, format!("{name} is not set"));
        variable(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    };
    let store = Store::open(&configuration.data_dir).map_err(io)?;
    let mut call = Call { configuration, store };
    match command.as_str() {
        "ADD" => call.add(&need("CNI_CONTAINERID")?, &need("CNI_IFNAME")?, &need("CNI_NETNS")?),
        "DEL" => {
            let key = call.key(&need("CNI_CONTAINERID")?, &need("CNI_IFNAME")?);
            call.delete(&key, variable("CNI_NETNS").filter(|path| !path.is_empty()).as_deref())?;
            Ok(String::new())
        }
        "CHECK" => {
            let key = call.key(&need("CNI_CONTAINERID")?, &need("CNI_IFNAME")?);
            call.check(&key, &need("CNI_NETNS")?).map(|()| String::new())
        }
        "GC" => call.collect().map(|()| String::new()),
        "STATUS" => Ok(String::new()),
        other => Err(fail(code::ENVIRONMENT, format!("CNI_COMMAND \"{other}\" is none that there is"))),
    }
}

struct Call {
    configuration: Configuration,
    store: Store,
}

impl Call {
    fn key(&self, container: &str, link: &str) -> String {
        format!("{}/{container}/{link}", self.configuration.name)
    }

    fn bridge(&self) -> String {
        self.configuration.bridge.clone().unwrap_or_else(|| "insula-cni0".to_owned())
    }

    fn add(&mut self, container: &str, link: &str, netns: &str) -> Result<String, Failure> {
        let key = self.key(container, link);
        if self.store.memory.attachments.contains_key(&key) {
            let msg = format!("container {container} has link {link} in network {} already", self.configuration.name);
            return Err(fail(code::NETWORK, msg));
        }
        let namespace = File::open(netns).map_err(|error| fail(code::ENVIRONMENT, format!("{netns}: {error}")))?;
        let links = Links::open().map_err(kernel)?;
        let leases = self.allocate(&links, &key)?;
        let gateways: Vec<Subnet> =
            leases.iter().filter_map(|lease| Subnet::new(lease.gateway, lease.address.prefix())).collect();
        let bridge = self.bridge();
        let bridge_spec = BridgeSpec {
            name: bridge.clone(),
            addresses: gateways,
            mtu: self.configuration.mtu,
            mac: None,
            localhost: true,
            owner: None,
        };
        links.create_bridge(&bridge_spec).map_err(kernel)?;
        let near = near_name(&key);
        let internal = self.configuration.internal;
        let spec = EndpointSpec {
            attachment: On::Bridge { bridge: bridge.clone(), near: near.clone(), isolated: false, hairpin: true },
            name: link.to_owned(),
            mac: self.configuration.runtime_config.mac,
            addresses: leases.iter().map(|lease| lease.address).collect(),
            routes: leases.iter().filter(|_| !internal).map(|lease| Route::default_via(lease.gateway)).collect(),
            mtu: self.configuration.mtu,
            rate: Rate::default(),
            switches: Vec::new(),
        };
        let addresses: Vec<IpAddr> = leases.iter().map(|lease| lease.address.address()).collect();
        let published = self.publications(&addresses)?;
        let attachment =
            Attachment { network: self.configuration.name.clone(), container: container.to_owned(), spec, published };
        // Remembered before it is made: what fails half way is taken away by DEL or GC.
        self.store.memory.attachments.insert(key.clone(), attachment.clone());
        let network = NetworkRules {
            subnets: leases.iter().map(|lease| lease.address.network()).collect(),
            masquerade: self.configuration.ip_masq,
            internal,
            ..NetworkRules::default()
        };
        self.store.memory.rules.networks.insert(bridge, network);
        self.store.memory.rules.published.extend(attachment.published.iter());
        self.store.save().map_err(io)?;
        let make = || {
            links.connect(namespace.as_fd(), &attachment.spec)?;
            let mut before = Before::default();
            for version in [Version::V4, Version::V6] {
                if addresses.iter().any(|address| address.is_ipv6() == (version == Version::V6)) {
                    forwarding::enable(version, &mut before)?;
                }
            }
            self.firewall()
        };
        if let Err(error) = make() {
            // The first failure is the one to tell.
            let _ = self.delete(&key, Some(netns));
            return Err(kernel(error));
        }
        self.result(&links, &attachment, &leases, netns)
    }

    /// The network's subnets, when this is its first container, and the container's addresses.
    fn allocate(&mut self, links: &Links, key: &str) -> Result<Vec<ipam::Lease>, Failure> {
        let (name, bridge) = (self.configuration.name.clone(), self.bridge());
        let refuse = |error: ipam::IpamError| fail(code::NETWORK, error.to_string());
        let mut state = self.store.memory.ipam.clone();
        if !state.networks.contains_key(&name) {
            let asked = |asked: &AskedSubnet| SubnetRequest {
                subnet: Some(asked.subnet),
                range: asked.range,
                gateway: asked.gateway,
                v6: asked.subnet.is_v6(),
                ..SubnetRequest::default()
            };
            let mut requests: Vec<SubnetRequest> = self.configuration.ipam.subnets.iter().map(asked).collect();
            if requests.is_empty() {
                requests.push(SubnetRequest::default());
            }
            let used = links.used_subnets(&[&bridge]).map_err(kernel)?;
            state = ipam::add_network(state, &name, &requests, &ipam::default_pools([0; 5]), &used).map_err(refuse)?;
        }
        let wanted = |text: &String| text.split('/').next().unwrap_or_default().parse().ok();
        let wanted: Vec<IpAddr> = self.configuration.runtime_config.ips.iter().filter_map(wanted).collect();
        let (state, leases) = ipam::allocate(state, &name, key, &wanted).map_err(refuse)?;
        self.store.memory.ipam = state;
        Ok(leases)
    }

    fn publications(&self, addresses: &[IpAddr]) -> Result<Published, Failure> {
        let mut published = Published::new();
        for mapping in &self.configuration.runtime_config.port_mappings {
            let protocol = mapping.protocol.as_deref().filter(|text| !text.is_empty()).unwrap_or("tcp");
            let protocol: Protocol = protocol.parse().map_err(|error: String| fail(code::NETWORK, error))?;
            let host = match mapping.host_ip.as_deref().filter(|text| !text.is_empty()) {
                Some(text) => {
                    Some(text.parse().map_err(|_| fail(code::NETWORK, format!("hostIP \"{text}\" is none")))?)
                }
                None => None,
            };
            let these = Publication::for_each(host, protocol, mapping.host_port, addresses, mapping.container_port);
            published.extend(these);
        }
        let taken = |one: &Publication| self.store.memory.rules.published.iter().any(|other| other.conflicts_with(one));
        let refused = published.iter().find(taken);
        match refused {
            Some(one) => Err(fail(code::NETWORK, format!("port {}/{} is published already", one.port, one.protocol))),
            None => Ok(published),
        }
    }

    fn firewall(&self) -> Result<(), NetError> {
        let mut firewall = Firewall::open_table(TABLE)?;
        if self.store.memory.rules.networks.is_empty() {
            return firewall.remove();
        }
        firewall.apply(&self.store.memory.rules)
    }

    /// Takes away what is remembered under `key`; what was never there or is gone is no error.
    fn delete(&mut self, key: &str, netns: Option<&str>) -> Result<(), Failure> {
        let Some(attachment) = self.store.memory.attachments.get(key).cloned() else { return Ok(()) };
        let links = Links::open().map_err(kernel)?;
        if let Some(namespace) = netns.and_then(|path| File::open(path).ok()) {
            links.disconnect(namespace.as_fd(), &attachment.spec).map_err(kernel)?;
        } else if let On::Bridge { near, .. } = &attachment.spec.attachment {
            // The namespace has taken its end along, and this one with it, sooner or later.
            links.delete(&[near]).map_err(kernel)?;
        }
        let memory = &mut self.store.memory;
        memory.attachments.remove(key);
        memory.rules.published = memory.rules.published.without(&attachment.published);
        memory.ipam = ipam::release(std::mem::take(&mut memory.ipam), &attachment.network, key);
        let last = !memory.attachments.values().any(|other| other.network == attachment.network);
        if let (true, On::Bridge { bridge, .. }) = (last, &attachment.spec.attachment) {
            memory.ipam = ipam::remove_network(std::mem::take(&mut memory.ipam), &attachment.network);
            memory.rules.networks.remove(bridge);
            links.delete(&[bridge]).map_err(kernel)?;
        }
        self.firewall().map_err(kernel)?;
        Conntrack::open().and_then(|table| table.forget_addresses(&attachment.addresses())).map_err(kernel)?;
        self.store.save().map_err(io)
    }

    fn check(&self, key: &str, netns: &str) -> Result<(), Failure> {
        let missing = |what: &str| fail(code::CHECK, format!("{what} of {key} is not there"));
        let attachment = self.store.memory.attachments.get(key).ok_or_else(|| missing("the record"))?;
        if self.configuration.prev_result.is_none() {
            return Err(fail(code::NETWORK, "CHECK needs prevResult"));
        }
        let namespace = File::open(netns).map_err(io)?;
        let inside = Links::open_in(namespace.as_fd()).map_err(kernel)?;
        let link = inside.inspect(&attachment.spec.name).map_err(kernel)?.ok_or_else(|| missing("the link"))?;
        let addresses = inside.addresses().map_err(kernel)?;
        for address in &attachment.spec.addresses {
            if !addresses.contains(&(link.index, *address)) {
                return Err(missing(&format!("address {address}")));
            }
        }
        if !link.up {
            return Err(fail(code::CHECK, format!("the link of {key} is down")));
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<(), Failure> {
        let network = self.configuration.name.clone();
        let valid: Vec<String> =
            self.configuration.valid.iter().map(|one| self.key(&one.container, &one.ifname)).collect();
        let stale = |(key, attachment): &(&String, &Attachment)| attachment.network == network && !valid.contains(*key);
        let stale: Vec<String> =
            self.store.memory.attachments.iter().filter(stale).map(|(key, _)| key.clone()).collect();
        stale.iter().try_for_each(|key| self.delete(key, None))
    }

    fn result(
        &self,
        links: &Links,
        attachment: &Attachment,
        leases: &[ipam::Lease],
        netns: &str,
    ) -> Result<String, Failure> {
        let On::Bridge { bridge, near, .. } = &attachment.spec.attachment else {
            return Err(fail(code::NETWORK, "only bridges are made here"));
        };
        let mac = |name: &str| -> Result<String, Failure> {
            let link = links.inspect(name).map_err(kernel)?;
            Ok(link.and_then(|link| link.mac).map(|mac| mac.to_string()).unwrap_or_default())
        };
        let own = attachment.spec.mac.or_else(|| leases.first().map(|lease| Mac::of(lease.address.address())));
        let old = self.configuration.cni_version.starts_with("0.");
        let ip = |lease: &ipam::Lease| {
            let mut ip = json!({"address": lease.address, "gateway": lease.gateway, "interface": 2});
            if old {
                ip["version"] = json!(if lease.address.is_v6() { "6" } else { "4" });
            }
            ip
        };
        let route = |route: &Route| json!({"dst": route.to, "gw": route.via});
        let result = json!({
            "cniVersion": self.configuration.cni_version,
            "interfaces": [
                {"name": bridge, "mac": mac(bridge)?},
                {"name": near, "mac": mac(near)?},
                {"name": attachment.spec.name, "mac": own.map(|mac| mac.to_string()), "sandbox": netns},
            ],
            "ips": leases.iter().map(ip).collect::<Vec<_>>(),
            "routes": attachment.spec.routes.iter().map(route).collect::<Vec<_>>(),
            "dns": if self.configuration.dns.is_null() { json!({}) } else { self.configuration.dns.clone() },
        });
        Ok(result.to_string())
    }
}

/// A name for the pair's near end that follows from what it is for.
fn near_name(key: &str) -> String {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, mix);
    format!("ic{:012x}", hash & 0xffff_ffff_ffff)
}
