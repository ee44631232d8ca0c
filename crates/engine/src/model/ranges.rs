//! Ports that a user asked for, written down as ranges: a record is kept in memory, and once more for each change that a
//! watcher may ask for. For serde's `with`; order is kept.
//!
//! ```text
//! "publish": [{"port":8000,"protocol":"tcp","host":null,"host_ports":[8000,8000],"count":500}]
//! "exposed_ports": [["8000/tcp",500],"x"]
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::PublishRequest;

/// Something of which there can be one for the port above.
trait Successive: Clone + PartialEq {
    /// The same `count` ports above; none where there is none.
    fn above(&self, count: u16) -> Option<Self>;
}

impl Successive for PublishRequest {
    fn above(&self, count: u16) -> Option<Self> {
        let host_ports = match self.host_ports {
            // a range to choose from is not one that goes on
            Some((first, last)) if first == last => Some(first.checked_add(count).map(|port| (port, port))?),
            Some(_) => return None,
            None => None,
        };
        Some(Self { port: self.port.checked_add(count)?, host_ports, ..self.clone() })
    }
}

impl Successive for String {
    fn above(&self, count: u16) -> Option<Self> {
        let (port, protocol) = self.split_once('/')?;
        let number: u16 = port.parse().ok()?;
        // "+80" and "080" are numbers too, but come back as another text
        (number.to_string() == port).then_some(())?;
        Some(format!("{}/{protocol}", number.checked_add(count)?))
    }
}

/// The first of those that follow each other, and how many they are.
fn runs<T: Successive>(all: &[T]) -> Vec<(&T, u16)> {
    let mut runs: Vec<(&T, u16)> = Vec::new();
    for one in all {
        match runs.last_mut() {
            Some((first, count)) if *count < u16::MAX && first.above(*count).as_ref() == Some(one) => *count += 1,
            _ => runs.push((one, 1)),
        }
    }
    runs
}

fn expand<T: Successive>(first: T, count: u16) -> Vec<T> {
    match count {
        1 => vec![first],
        _ => (0..count).map_while(|index| first.above(index)).collect(),
    }
}

/// Of requests to publish ports.
pub(super) mod publish {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Entry<T> {
        #[serde(flatten)]
        first: T,
        #[serde(default = "one", skip_serializing_if = "is_one")]
        count: u16,
    }

    fn one() -> u16 {
        1
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_one(count: &u16) -> bool {
        *count == 1
    }

    pub(in super::super) fn serialize<S: Serializer>(all: &[PublishRequest], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(runs(all).into_iter().map(|(first, count)| Entry { first, count }))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PublishRequest>, D::Error> {
        let entries = Vec::<Entry<PublishRequest>>::deserialize(from)?;
        Ok(entries.into_iter().flat_map(|entry| expand(entry.first, entry.count)).collect())
    }
}

/// Of exposed ports.
pub(super) mod exposed {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Entry<T> {
        One(T),
        Some(T, u16),
    }

    pub(in super::super) fn serialize<S: Serializer>(all: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        let entry = |(first, count)| if count == 1 { Entry::One(first) } else { Entry::Some(first, count) };
        serializer.collect_seq(runs(all).into_iter().map(entry))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        let all = |entry| match entry {
            Entry::One(one) => vec![one],
            Entry::Some(first, count) => expand(first, count),
        };
        Ok(Vec::<Entry<String>>::deserialize(from)?.into_iter().flat_map(all).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ContainerSpec;
    use super::*;
    use net::firewall::Protocol;
    use proptest::prelude::*;

    fn any_request() -> impl Strategy<Value = PublishRequest> {
        let ports = || prop_oneof![1..5_u16, 65_533..=65_535_u16];
        (ports(), proptest::option::of((ports(), 0..2_u16)), any::<bool>()).prop_map(|(port, host_ports, local)| {
            let host_ports = host_ports.map(|(first, more)| (first, first.saturating_add(more)));
            let host = local.then(|| "127.0.0.1".parse().unwrap());
            PublishRequest { port, protocol: Protocol::Tcp, host, host_ports }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(
            publish in proptest::collection::vec(any_request(), 0..30),
            exposed_ports in proptest::collection::vec("\\+?0?[1-4](/(tcp|udp))?|6553[3-6]/tcp|7-9/tcp", 0..30),
        ) {
            let spec = ContainerSpec { publish, exposed_ports, ..ContainerSpec::default() };
            let json = serde_json::to_string(&spec).unwrap();
            prop_assert_eq!(serde_json::from_str::<ContainerSpec>(&json).unwrap(), spec);
        }
    }

    #[test]
    fn a_range_is_one_entry() {
        let request = |port: u16| PublishRequest {
            port,
            protocol: Protocol::Tcp,
            host: None,
            host_ports: Some((port + 1000, port + 1000)),
        };
        let spec = ContainerSpec {
            publish: (8000..8500).map(request).collect(),
            exposed_ports: (8000..8500).map(|port| format!("{port}/tcp")).collect(),
            ..ContainerSpec::default()
        };
        let json = serde_json::to_string(&spec).unwrap();
        let plain = serde_json::to_string(&ContainerSpec::default()).unwrap();
        assert!(json.contains(r#"[["8000/tcp",500]]"#) && json.len() < plain.len() + 150, "{json}");
        assert_eq!(serde_json::from_str::<ContainerSpec>(&json).unwrap(), spec);
        // as it was written before there were ranges
        let before = json.replace(r#"[["8000/tcp",500]]"#, r#"["8000/tcp","8001/tcp"]"#).replace(",\"count\":500", "");
        let read: ContainerSpec = serde_json::from_str(&before).unwrap();
        assert_eq!((read.exposed_ports.len(), read.publish), (2, vec![request(8000)]));
    }
}
