//! Limits on what a container receives and sends.
//!
//! ```text
//! to the container:    token bucket on the pair's near end
//! from the container:  near end, everything that comes in ──> a link of kind ifb, with a token bucket on it
//! ```
//! Both are on the host's side, where the container can't change them.
//!
//! # Source
//! tc-tbf(8), tc-u32(8), tc-mirred(8), Linux `include/uapi/linux/{pkt_sched,pkt_cls}.h`.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::rtnl::{self, IFF_UP, IFLA_IFNAME};
use super::{LINK_NAME_MAX, Links, failed};
use crate::Result;
use sys::netlink::{Batch, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// The longest that a packet may wait, as `tc` has it where nothing is said.
const LATENCY_MS: u64 = 400;
/// A bucket holds this at least: one large packet that the kernel has not cut yet.
const BURST_MIN: u64 = 64 * 1024;

/// Bytes a second, each way; none is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rate {
    /// What the container may receive, in bytes a second.
    pub receive: Option<u64>,
    /// What the container may send, in bytes a second.
    pub send: Option<u64>,
}

impl Links {
    /// Sets the limits of the container behind the near end called `near`, in place of those it had.
    ///
    /// # Errors
    /// [`crate::NetError::NoLink`], or what the kernel answered, such as for want of the queue it takes.
    pub fn limit(&self, near: &str, rate: Rate) -> Result<()> {
        self.unlimit(near)?;
        if let Some(rate) = rate.receive {
            let mut batch = Batch::new();
            token_bucket(&mut batch, self.index(near)?, rate);
            self.run(near, &batch)?;
        }
        let Some(rate) = rate.send else { return Ok(()) };
        let mirror = mirror_name(near);
        let mut batch = Batch::new();
        rtnl::create(
            &mut batch,
            "ifb",
            IFF_UP,
            |message| {
                message.put_text(IFLA_IFNAME, &mirror);
            },
            |_| {},
        );
        self.run(&mirror, &batch)?;
        let to = self.index(&mirror)?;
        let mut batch = Batch::new();
        token_bucket(&mut batch, to, rate);
        redirect(&mut batch, self.index(near)?, to);
        self.run(near, &batch)
    }

    /// Takes the limits of a near end away.
    ///
    /// # Errors
    /// What the kernel answered, unless it is that there are none.
    pub fn unlimit(&self, near: &str) -> Result<()> {
        let Some(link) = self.inspect(near)? else { return Ok(()) };
        let mirror = mirror_name(near);
        let mirrored = self.inspect(&mirror)?.is_some();
        let mut batch = Batch::new();
        queue_message(&mut batch, RTM_DELQDISC, 0, (link.index, 0, TC_H_ROOT));
        if mirrored {
            queue_message(&mut batch, RTM_DELQDISC, 0, (link.index, INGRESS_HANDLE, TC_H_INGRESS));
        }
        match self.socket.run(&batch) {
            // No queue but the kernel's own.
            Err(refusal) if ![Errno::NOENT, Errno::INVAL].contains(&refusal.errno()) => {
                return Err(failed(near)(refusal));
            }
            _ => {}
        }
        if mirrored { self.delete(&[&mirror]) } else { Ok(()) }
    }
}

impl Links {
    /// Takes away what is left of a near end's limits when that end itself has gone with its container.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn clear_limits(&self, near: &str) -> Result<()> {
        self.delete(&[&mirror_name(near)])
    }
}

/// The name of the link through which goes what comes from near end `near`: different for different names.
fn mirror_name(near: &str) -> String {
    let tail: String = near.chars().rev().take(LINK_NAME_MAX - 2).collect::<Vec<_>>().into_iter().rev().collect();
    format!("ib{tail}")
}

/// A message about a queue: `struct tcmsg` of link, handle and parent.
fn queue_message(batch: &mut Batch, kind: u16, flags: u16, (index, handle, parent): (i32, u32, u32)) -> Message<'_> {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    let name = if kind == RTM_DELQDISC { "delete queue" } else { "set queue" };
    batch.message(name, kind, flags | NLM_F_ACK, &header)
}

fn token_bucket(batch: &mut Batch, index: i32, rate: u64) {
    const PARMS: u16 = 1;
    const RATE64: u16 = 4;
    const BURST: u16 = 6;
    const ETHERNET: u8 = 1;
    let cut = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let rate = rate.max(1);
    // Ten milliseconds' worth.
    let burst = (rate / 100).max(BURST_MIN);
    let limit = (rate / 1000).saturating_mul(LATENCY_MS).saturating_add(burst);
    let mut parameters = [0; 36];
    parameters[1] = ETHERNET;
    parameters[8..12].copy_from_slice(&cut(rate).to_ne_bytes());
    parameters[24..28].copy_from_slice(&cut(limit).to_ne_bytes());
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = queue_message(batch, RTM_NEWQDISC, flags, (index, 0x0001_0000, TC_H_ROOT));
    message.put_text(TCA_KIND, "tbf").nest_as(TCA_OPTIONS, |options| {
        options.put(PARMS, &parameters).put_u32(BURST, cut(burst));
        if rate > u64::from(u32::MAX) {
            options.put(RATE64, &rate.to_ne_bytes());
        }
    });
}

/// Sends everything that comes in by link `from` through link `to`.
fn redirect(batch: &mut Batch, from: i32, to: i32) {
    const U32_SEL: u16 = 5;
    const U32_ACT: u16 = 7;
    const ACT_KIND: u16 = 1;
    const ACT_OPTIONS: u16 = 2;
    const MIRRED_PARMS: u16 = 2;
    const STOLEN: i32 = 4;
    const EGRESS_REDIRECT: i32 = 1;
    queue_message(batch, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, (from, INGRESS_HANDLE, TC_H_INGRESS))
        .put_text(TCA_KIND, "ingress");
    // One key with an empty mask: it fits every packet; and nothing after it is asked.
    let mut select = [0; 32];
    select[0] = 1;
    select[2] = 1;
    let mut mirror = Vec::new();
    for number in [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to] {
        mirror.extend_from_slice(&number.to_ne_bytes());
    }
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&from.to_ne_bytes());
    header[12..16].copy_from_slice(&INGRESS_HANDLE.to_ne_bytes());
    // Priority 1, every protocol (3, in network order).
    let info = (1_u32 << 16) | u32::from(3_u16.to_be());
    header[16..20].copy_from_slice(&info.to_ne_bytes());
    let mut message =
        batch.message("set packet redirection", RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &header);
    message.put_text(TCA_KIND, "u32").nest_as(TCA_OPTIONS, |options| {
        options.put(U32_SEL, &select).nest_as(U32_ACT, |actions| {
            actions.nest_as(1, |action| {
                action.put_text(ACT_KIND, "mirred").nest_as(ACT_OPTIONS, |options| {
                    options.put(MIRRED_PARMS, &mirror);
                });
            });
        });
    });
}
