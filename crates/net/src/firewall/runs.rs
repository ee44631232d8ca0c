//! Published ports written down as runs: a range of a thousand ports is one entry in a record or a message, not a thousand.
//!
//! ```text
//! {"host":null,"protocol":"tcp","port":8000,"to":"10.0.0.2","to_port":80,"count":1000}
//! ```
//! For serde's `with`. Order is not kept: ports come back sorted.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Publication;

#[derive(Serialize, Deserialize)]
struct Run {
    #[serde(flatten)]
    first: Publication,
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

impl Run {
    /// The publication number `index` of the run; none where a port would be none.
    fn nth(&self, index: u16) -> Option<Publication> {
        let port = if self.first.is_direct() { Some(0) } else { self.first.port.checked_add(index) };
        Some(Publication { port: port?, to_port: self.first.to_port.checked_add(index)?, ..self.first })
    }

    /// Takes one more, if it is the next.
    fn take(&mut self, next: Publication) -> bool {
        let fits = self.nth(self.count) == Some(next) && self.count < u16::MAX;
        self.count += u16::from(fits);
        fits
    }
}

/// Writes published ports.
///
/// # Errors
/// What the serializer says.
pub fn serialize<'a, C, S>(published: &'a C, serializer: S) -> Result<S::Ok, S::Error>
where
    &'a C: IntoIterator<Item = &'a Publication>,
    S: Serializer,
{
    let mut sorted: Vec<Publication> = published.into_iter().copied().collect();
    // addresses first: the ports of one follow each other
    sorted.sort_unstable_by_key(|one| (one.host, one.to, one.protocol, one.port, one.to_port));
    let mut runs: Vec<Run> = Vec::new();
    for one in sorted {
        if !runs.last_mut().is_some_and(|run| run.take(one)) {
            runs.push(Run { first: one, count: 1 });
        }
    }
    runs.serialize(serializer)
}

/// Reads published ports.
///
/// # Errors
/// What the deserializer says.
pub fn deserialize<'de, C, D>(deserializer: D) -> Result<C, D::Error>
where
    C: FromIterator<Publication>,
    D: Deserializer<'de>,
{
    let runs = Vec::<Run>::deserialize(deserializer)?;
    Ok(runs.iter().flat_map(|run| (0..run.count).map_while(|index| run.nth(index))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::Protocol;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Serialize, Deserialize)]
    struct Record(#[serde(with = "super")] BTreeSet<Publication>);

    fn any_publication() -> impl Strategy<Value = Publication> {
        let port = prop_oneof![Just(0_u16), 1..8_u16, 65_530..=65_535_u16];
        (any::<bool>(), any::<bool>(), any::<bool>(), port, 1..8_u16).prop_map(|(host, udp, v6, port, to_port)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let to = if v6 { "fd00::2" } else { "10.0.0.2" }.parse().unwrap();
            Publication { host: host.then(|| "127.0.0.1".parse().unwrap()), protocol, port, to, to_port }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(published in proptest::collection::btree_set(any_publication(), 0..60)) {
            let json = serde_json::to_string(&Record(published.clone())).unwrap();
            let read: Record = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.0, published);
        }
    }

    #[test]
    fn a_range_is_one_entry() {
        let to = "10.0.0.2".parse().unwrap();
        let one = |port: u16| Publication { host: None, protocol: Protocol::Tcp, port, to, to_port: port };
        let json = serde_json::to_string(&Record((20_000..20_500).map(one).collect())).unwrap();
        assert!(json.contains("\"count\":500") && json.len() < 120, "{json}");
        let plain = r#"[{"host":null,"protocol":"tcp","port":1,"to":"10.0.0.2","to_port":2}]"#;
        assert_eq!(serde_json::from_str::<Record>(plain).unwrap().0.len(), 1, "as it was written before");
        let long = plain.replace("}]", ",\"count\":65535}]");
        assert_eq!(serde_json::from_str::<Record>(&long).unwrap().0.len(), 65_534, "ports end");
    }
}
