//! A DHCP server with one address to give, RFC 2131.

use super::Plan;

pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;

const FIXED_BYTES: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const MESSAGE_TYPE: u8 = 53;
const REQUESTED_ADDRESS: u8 = 50;
const END: u8 = 255;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACKNOWLEDGE: u8 = 5;
const REFUSE: u8 = 6;
const INFORM: u8 = 8;
const LEASE_SECONDS: u32 = 86_400;

/// The value of an option, RFC 2132.
fn option(options: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = options;
    loop {
        let (&code, behind) = rest.split_first()?;
        rest = behind;
        match code {
            0 => continue,
            END => return None,
            _ => {}
        }
        let (&length, behind) = rest.split_first()?;
        let (value, behind) = behind.split_at_checked(length.into())?;
        if code == wanted {
            return Some(value);
        }
        rest = behind;
    }
}

/// Answers a client's message; none if there is nothing to say.
pub(super) fn answer(plan: &Plan, message: &[u8]) -> Option<Vec<u8>> {
    let (fixed, options) = message.split_at_checked(FIXED_BYTES)?;
    if fixed[0] != 1 || fixed[236..] != COOKIE {
        return None;
    }
    let guest = plan.guest().octets();
    let kind = match option(options, MESSAGE_TYPE)? {
        [DISCOVER] => OFFER,
        [REQUEST] => {
            let held = Some(&fixed[12..16]).filter(|held| **held != [0; 4]);
            let asked = option(options, REQUESTED_ADDRESS).or(held);
            if asked.is_none_or(|asked| asked == guest) { ACKNOWLEDGE } else { REFUSE }
        }
        [INFORM] => ACKNOWLEDGE,
        _ => return None,
    };
    let mut answer = fixed.to_vec();
    answer[0] = 2;
    // Hops, and the fields that are the server's to fill.
    answer[3] = 0;
    answer[12..28].fill(0);
    answer[44..236].fill(0);
    let gateway = plan.gateway().octets();
    answer.extend([MESSAGE_TYPE, 1, kind, 54, 4]);
    answer.extend(gateway);
    if kind != REFUSE {
        answer[16..20].copy_from_slice(&guest);
        answer.extend([1, 4, 255, 255, 255, 0, 3, 4]);
        answer.extend(gateway);
        if plan.name_server.is_some() {
            answer.extend([6, 4]);
            answer.extend(plan.names().octets());
        }
        answer.extend([51, 4]);
        answer.extend(LEASE_SECONDS.to_be_bytes());
    }
    answer.push(END);
    // Old clients want a message of that length at least.
    answer.resize(answer.len().max(300), 0);
    Some(answer)
}
