//! The few words of rtnetlink that are needed here.
//!
//! # Source
//! netlink(7), rtnetlink(7), Linux `include/uapi/linux/{netlink,rtnetlink,if}.h`.

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use sys::SysError;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFF_UP: u32 = 1;
const AF_UNSPEC: u8 = 0;
/// The loopback link is the first of every namespace.
const LOOPBACK: i32 = 1;
/// `struct nlmsghdr` and `struct ifinfomsg`.
const HEADER: usize = 16;
const LINK: usize = 16;

/// Sets the loopback link of the calling thread's network namespace up.
///
/// # Errors
/// What the kernel answered, or `EBADMSG` for an answer that is none.
pub(crate) fn loopback_up() -> sys::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(SysError::of("socket"))?;
    let request = set_up_request(LOOPBACK);
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &kernel).map_err(SysError::of("sendto"))?;
    let mut answer = [0_u8; 512];
    let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()))
        .map_err(SysError::of("recv"))?;
    match acknowledged(answer.get(..length).unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(errno) => Err(SysError::new("rtnetlink RTM_NEWLINK", Errno::from_raw_os_error(errno))),
        None => Err(SysError::new("rtnetlink RTM_NEWLINK", Errno::BADMSG)),
    }
}

/// The message that sets a link up and asks for an answer.
fn set_up_request(index: i32) -> [u8; HEADER + LINK] {
    let mut message = [0; HEADER + LINK];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        message[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&32_u32.to_ne_bytes());
    put(&RTM_NEWLINK.to_ne_bytes());
    put(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Sequence number and sender; one request on a fresh socket needs neither.
    put(&1_u32.to_ne_bytes());
    put(&0_u32.to_ne_bytes());
    put(&[AF_UNSPEC, 0, 0, 0]);
    put(&index.to_ne_bytes());
    // The flags, and which of them to change.
    put(&IFF_UP.to_ne_bytes());
    put(&IFF_UP.to_ne_bytes());
    message
}

/// The errno in an acknowledgement, 0 for success; `None` for anything else.
fn acknowledged(message: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(message.get(HEADER..HEADER + 4)?.try_into().ok()?);
    (kind == NLMSG_ERROR && code <= 0).then(|| code.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood_or_refused() {
        let answer = |kind: u16, code: i32| {
            let mut message = vec![0; 36];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message[16..20].copy_from_slice(&code.to_ne_bytes());
            message
        };
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, 0)), Some(0));
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, -1)), Some(1));
        assert_eq!(acknowledged(&answer(RTM_NEWLINK, 0)), None);
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, 0)[..18]), None);
        assert_eq!(acknowledged(&[]), None);
    }

    #[test]
    fn the_request_has_the_kernels_layout() {
        let request = set_up_request(LOOPBACK);
        assert_eq!(request[..4], 32_u32.to_ne_bytes());
        assert_eq!(request[4..6], RTM_NEWLINK.to_ne_bytes());
        assert_eq!(request[20..24], 1_i32.to_ne_bytes());
        assert_eq!(request[24..], [IFF_UP.to_ne_bytes(), IFF_UP.to_ne_bytes()].concat());
    }
}
