//! What the fabric must know of an Ethernet frame: is it UDP, where does the payload lie, is the
//! checksum right. Reads only what lies within the frame; anything else is not UDP.

/// Length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;

/// A UDP datagram (or a fragment of one) within a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UdpFrame {
    /// Where the UDP header starts and the packet ends; `None` for a fragment, whose payload we leave alone.
    datagram: Option<(usize, usize)>,
}

/// The transport part of a frame that is not a fragment: protocol, start, end, and the pseudo header's sum.
struct Transport {
    protocol: u8,
    start: usize,
    end: usize,
    pseudo: u64,
}

enum Parsed {
    Whole(Transport),
    Fragment(u8),
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn parse(frame: &[u8]) -> Option<Parsed> {
    match word(frame, 12)? {
        0x0800 => parse_v4(frame),
        0x86dd => parse_v6(frame),
        _ => None,
    }
}

fn parse_v4(frame: &[u8]) -> Option<Parsed> {
    let header = usize::from(frame.get(ETHERNET)? & 0x0f) * 4;
    let protocol = *frame.get(ETHERNET + 9)?;
    if word(frame, ETHERNET + 6)? & 0x3fff != 0 {
        return Some(Parsed::Fragment(protocol));
    }
    let (start, end) = (ETHERNET + header, ETHERNET + usize::from(word(frame, ETHERNET + 2)?));
    let addresses = sum(frame.get(ETHERNET + 12..ETHERNET + 20)?);
    whole(frame, protocol, start, end, addresses)
}

fn parse_v6(frame: &[u8]) -> Option<Parsed> {
    let protocol = *frame.get(ETHERNET + 6)?;
    let start = ETHERNET + IPV6_HEADER;
    if protocol == IPV6_FRAGMENT {
        return Some(Parsed::Fragment(*frame.get(start)?));
    }
    let end = start + usize::from(word(frame, ETHERNET + 4)?);
    let addresses = sum(frame.get(ETHERNET + 8..start)?);
    whole(frame, protocol, start, end, addresses)
}

fn whole(frame: &[u8], protocol: u8, start: usize, end: usize, addresses: u64) -> Option<Parsed> {
    let length = end.checked_sub(start)?;
    frame.get(start..end)?;
    let pseudo = addresses + u64::from(protocol) + length as u64;
    Some(Parsed::Whole(Transport { protocol, start, end, pseudo }))
}

/// The sum of big-endian words, the last padded with zero.
fn sum(bytes: &[u8]) -> u64 {
    // Ones' complement sums do not care how wide the words are that are added.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut padded = [0; 4];
    padded[..rest.len()].copy_from_slice(rest);
    words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum::<u64>() + u64::from(u32::from_be_bytes(padded))
}

#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits first")]
fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether the frame goes to a group or to all, and not to one host.
pub(crate) fn is_group(frame: &[u8]) -> bool {
    frame.first().is_some_and(|byte| byte & 1 == 1)
}

/// Destination and source of a frame.
pub(crate) fn addresses(frame: &[u8]) -> Option<([u8; 6], [u8; 6])> {
    Some((*frame.first_chunk()?, *frame.get(6..)?.first_chunk()?))
}

/// The UDP datagram in a frame, if it is one.
pub(crate) fn udp(frame: &[u8]) -> Option<UdpFrame> {
    match parse(frame)? {
        Parsed::Fragment(UDP) => Some(UdpFrame { datagram: None }),
        Parsed::Whole(part) if part.protocol == UDP && part.end >= part.start + UDP_HEADER => {
            Some(UdpFrame { datagram: Some((part.start, part.end)) })
        }
        _ => None,
    }
}

/// Whether the frame carries TCP.
pub(crate) fn is_tcp(frame: &[u8]) -> bool {
    matches!(parse(frame), Some(Parsed::Fragment(TCP) | Parsed::Whole(Transport { protocol: TCP, .. })))
}

impl UdpFrame {
    /// What the datagram carries; none for a fragment.
    pub(crate) fn payload(self, frame: &[u8]) -> Option<&[u8]> {
        let (start, end) = self.datagram?;
        frame.get(start + UDP_HEADER..end)
    }

    /// Flips one bit of the payload, chosen by `random`, and repairs the checksum, so that the damage gets
    /// past the receiving kernel to the program. Answers whether there was anything to flip.
    pub(crate) fn corrupt(self, frame: &mut [u8], random: u64) -> bool {
        let Some((start, end)) = self.datagram else { return false };
        let payload = start + UDP_HEADER;
        let bits = (end - payload) as u64 * 8;
        if bits == 0 {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a bit number within a frame")]
        let bit = (random % bits) as usize;
        frame[payload + bit / 8] ^= 1 << (bit % 8);
        // Over IPv4, zero means that there is no checksum.
        if word(frame, start + 6) != Some(0) {
            finish_checksum(frame);
        }
        true
    }
}

/// Computes the checksum that a sender left to its network card, for UDP and TCP.
pub(crate) fn finish_checksum(frame: &mut [u8]) {
    let Some(Parsed::Whole(part)) = parse(frame) else { return };
    let at = match part.protocol {
        UDP => part.start + 6,
        TCP => part.start + 16,
        _ => return,
    };
    if at + 2 > part.end {
        return;
    }
    frame[at..at + 2].fill(0);
    let checksum = !folded(part.pseudo + sum(&frame[part.start..part.end]));
    // A UDP checksum of zero would say "none".
    let checksum = if checksum == 0 && part.protocol == UDP { 0xffff } else { checksum };
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether a whole UDP datagram has a right checksum.
#[cfg(test)]
pub(crate) fn checksum_holds(frame: &[u8]) -> bool {
    matches!(parse(frame), Some(Parsed::Whole(part)) if folded(part.pseudo + sum(&frame[part.start..part.end])) == 0xffff)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A UDP frame with a payload of `length` bytes and no checksum yet.
    pub(crate) fn udp_frame(v6: bool, length: usize) -> Vec<u8> {
        let udp_length = u16::try_from(length + 8).unwrap();
        let mut frame = vec![0x01, 0, 0x5e, 1, 2, 3, 2, 0, 10, 77, 0, 1];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(udp_length.to_be_bytes());
            frame.extend([17, 8]);
            frame.extend((0..32_u8).map(|byte| byte.wrapping_mul(37)));
        } else {
            frame.extend([0x08, 0, 0x45, 0]);
            frame.extend((udp_length + 20).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 8, 17, 0, 0, 10, 77, 0, 1, 239, 1, 2, 3]);
        }
        frame.extend([0x1e, 0x15, 0x1e, 0x15]);
        frame.extend(udp_length.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend((0..length).map(|at| u8::try_from(at % 251).unwrap()));
        frame
    }

    #[test]
    fn arp_tcp_and_rubbish_are_not_udp() {
        let mut arp = udp_frame(false, 10);
        arp[13] = 6;
        assert_eq!(udp(&arp), None);
        let mut tcp = udp_frame(true, 10);
        tcp[20] = TCP;
        assert_eq!(udp(&tcp), None);
        assert_eq!(udp(&[]), None);
    }

    #[test]
    fn a_fragment_is_udp_but_is_never_changed() {
        let mut frame = udp_frame(false, 100);
        frame[21] = 1;
        let before = frame.clone();
        assert!(!udp(&frame).unwrap().corrupt(&mut frame, 5));
        assert_eq!(frame, before);
    }

    proptest! {
        #[test]
        fn corruption_flips_one_payload_bit_and_keeps_the_checksum_right(
            v6: bool, length in 1_usize..1472, random: u64,
        ) {
            let mut frame = udp_frame(v6, length);
            finish_checksum(&mut frame);
            prop_assert!(checksum_holds(&frame));
            let before = frame.clone();
            prop_assert!(udp(&frame).unwrap().corrupt(&mut frame, random));
            prop_assert!(checksum_holds(&frame));
            let payload = frame.len() - length;
            prop_assert_eq!(udp(&frame).unwrap().payload(&frame), Some(&frame[payload..]));
            let flipped: u32 = frame[payload..].iter().zip(&before[payload..]).map(|(a, b)| (a ^ b).count_ones()).sum();
            prop_assert_eq!(flipped, 1);
        }

        #[test]
        fn nothing_makes_the_parser_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100), v6: bool, cut in 0_usize..120,
        ) {
            finish_checksum(&mut bytes);
            let mut frame = udp_frame(v6, 40);
            let overlay = bytes.len().min(frame.len() - 14);
            frame[14..14 + overlay].copy_from_slice(&bytes[..overlay]);
            frame.truncate(cut);
            if let Some(found) = udp(&frame) {
                found.corrupt(&mut frame, 7);
            }
            finish_checksum(&mut frame);
        }
    }
}
