//! Every message comes back as it went, and none that was damaged is taken for a message.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::redundant_clone, reason = "a test may fail")]

use std::time::Duration;

use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, RunId, SessionId, StartNumber};
use nackcast_common::keys::{EpochSecret, SigningKey};
use nackcast_common::ranges::RangeSet;
use nackcast_common::seal::TAG_LEN;
use nackcast_proto::ticket::{Ticket, TicketError};
use nackcast_proto::wire::header::LEN;
use nackcast_proto::wire::limits::BODY_LEN_MAX;
use nackcast_proto::wire::{
    Advertisement, DigestBody, FinishedPass, ManifestRef, Nack, NackAnswer, NackStatus, NextEpoch, Probe, ProbeKind,
    Promise, PromiseList, Role, SenderCertificate, SenderState, ShortObject, Standing,
};
use proptest::prelude::*;

const CHANNEL: ChannelId = ChannelId([7; 16]);

fn publisher() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn sender() -> SigningKey {
    SigningKey::from_seed([2; 32])
}

fn advertisement() -> Advertisement {
    Advertisement {
        channel: CHANNEL,
        session: SessionId(3),
        epoch: Epoch(1),
        sequence: 9,
        start_number: StartNumber(1_700_000_000_000),
        time: 123_456,
        interval: Duration::from_millis(250),
        generation: Generation(4),
        manifest: Some(ManifestRef { hash: Digest::of(b"root"), length: 700, geometry: Geometry::default() }),
        certificate: SenderCertificate::issue(&publisher(), CHANNEL, sender().verifying_key()),
        role: Role::Primary,
        state: SenderState::Active,
        data_group: "[ff15::7]:7601".parse().unwrap(),
        nack_port: 7701,
        quic_port: 7702,
        grtt: Duration::from_millis(3),
        nack_window: Duration::from_millis(20),
        group_size: 8,
        max_passes: 16,
        rate_bps: 20_000_000,
        first_pass_cursor: 17,
        first_pass_since: Generation(4),
        finished: (0..24).map(|i| FinishedPass { object: ObjectId(i), serial: i }).collect(),
        data_packets: 1000,
        manifest_sent: true,
        list: u64::MAX,
        rank: 0,
        wall_ms: 1_700_000_000_000,
        next_epoch: Some(NextEpoch { epoch: Epoch(2), within: Duration::from_secs(30) }),
        reading_every: Duration::from_millis(25),
    }
}

#[test]
fn an_advertisement_is_taken_only_from_a_certified_sender() {
    let body = advertisement().encode(&sender());
    assert!(body.len() <= BODY_LEN_MAX, "{} bytes", body.len());
    let key = publisher().verifying_key();
    assert_eq!(Advertisement::decode(&body, &key, CHANNEL), Ok(advertisement()));
    assert!(Advertisement::decode(&body, &sender().verifying_key(), CHANNEL).is_err(), "another publisher");
    assert!(Advertisement::decode(&body, &key, ChannelId([8; 16])).is_err(), "another channel");
    let stranger = advertisement().encode(&SigningKey::from_seed([9; 32]));
    assert!(Advertisement::decode(&stranger, &key, CHANNEL).is_err(), "signed by a key without certificate");
    for at in 0..body.len() {
        let mut damaged = body.clone();
        damaged[at] ^= 0x20;
        assert!(Advertisement::decode(&damaged, &key, CHANNEL).is_err(), "byte {at}");
    }
}

fn probe(nonce: u64, numbers: [u64; 3], flags: [bool; 2], rank: u32) -> Probe {
    let states =
        [SenderState::Starting, SenderState::Active, SenderState::Standby, SenderState::Paused, SenderState::Draining];
    let standing = Standing {
        channel: CHANNEL,
        session: SessionId(numbers[0]),
        start_number: StartNumber(numbers[1]),
        certificate: SenderCertificate::issue(&publisher(), CHANNEL, sender().verifying_key()),
        role: if flags[0] { Role::Primary } else { Role::Backup },
        rank,
        state: states[usize::try_from(nonce % 5).unwrap()],
        can_read: flags[1],
        can_send: !flags[1],
        sequence: numbers[2],
        time: numbers[2] / 2,
    };
    Probe { nonce, standing }
}

#[test]
fn a_probe_is_taken_only_from_a_certified_sender_and_only_as_what_it_was_signed() {
    let probe = probe(77, [1, 2, 3], [true, true], 1);
    let key = publisher().verifying_key();
    for (kind, other) in [(ProbeKind::Question, ProbeKind::Answer), (ProbeKind::Answer, ProbeKind::Question)] {
        let body = probe.encode(kind, &sender());
        assert!(body.len() <= BODY_LEN_MAX);
        assert_eq!(Probe::decode(&body, kind, &key, CHANNEL), Ok(probe));
        assert!(Probe::decode(&body, other, &key, CHANNEL).is_err(), "a question is no answer");
        assert!(Probe::decode(&body, kind, &sender().verifying_key(), CHANNEL).is_err(), "another publisher");
        assert!(Probe::decode(&body, kind, &key, ChannelId([8; 16])).is_err(), "another channel");
        let stranger = probe.encode(kind, &SigningKey::from_seed([9; 32]));
        assert!(Probe::decode(&stranger, kind, &key, CHANNEL).is_err(), "signed by a key without certificate");
        for at in 0..body.len() {
            let mut damaged = body.clone();
            damaged[at] ^= 0x20;
            assert!(Probe::decode(&damaged, kind, &key, CHANNEL).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_digest_fills_datagrams_and_loses_no_promise() {
    let mut pending: std::collections::VecDeque<Promise> = (0..300)
        .map(|i| match i % 3 {
            0 => Promise::Whole(ObjectId(i)),
            _ => Promise::Blocks(ObjectId(i), (0..40).map(|b| (b * 3, u16::try_from(b).unwrap() + 1)).collect()),
        })
        .collect();
    let wanted: Vec<Promise> = pending.iter().cloned().collect();
    let mut got: Vec<Promise> = Vec::new();
    while !pending.is_empty() {
        let mut list = PromiseList::default();
        while let Some(promise) = pending.pop_front() {
            if let Some(rest) = list.add(promise) {
                pending.push_front(rest);
                break;
            }
        }
        let most = list.datagram_len();
        let digest = DigestBody {
            channel: CHANNEL,
            session: SessionId(3),
            epoch: Epoch(1),
            sequence: 1,
            time: 2,
            lapse: Duration::from_millis(300),
            promises: list.into_vec(),
        };
        let body = digest.encode(&sender());
        assert!(body.len() <= BODY_LEN_MAX, "{} bytes", body.len());
        assert!(LEN + body.len() + TAG_LEN <= most, "{} bytes, {most} expected", body.len());
        let decoded = DigestBody::decode(&body, &sender().verifying_key(), CHANNEL).unwrap();
        assert_eq!(decoded, digest);
        assert!(DigestBody::decode(&body, &publisher().verifying_key(), CHANNEL).is_err());
        for promise in decoded.promises {
            match (got.last_mut(), promise) {
                (Some(Promise::Blocks(last, blocks)), Promise::Blocks(object, more)) if *last == object => {
                    blocks.extend(more);
                }
                (_, promise) => got.push(promise),
            }
        }
    }
    assert_eq!(got, wanted);
}

fn arbitrary_nack() -> impl Strategy<Value = Nack> {
    let short =
        prop::collection::vec((any::<u64>(), prop::collection::btree_map(0_u32..5000, 1_u16..200, 1..300)), 0..12);
    let missing = prop::collection::vec((0_u32..1_000_000, 1_u32..3000), 0..40);
    (any::<[u64; 6]>(), 0_u32..1_000_000, prop::collection::vec(any::<u64>(), 0..300), short, missing, any::<bool>())
        .prop_map(|(n, loss_ppm, ids, short, missing, complete)| Nack {
            channel: CHANNEL,
            session: SessionId(n[0]),
            sequence: n[1],
            time: n[2],
            hold: Duration::from_micros(n[3] >> 20),
            manifest: n[4],
            generation: Generation(n[5]),
            loss_ppm,
            primary_age: u32::MAX,
            nonce: n[0],
            heard: n[1],
            missing: missing.into_iter().map(|(start, length)| start..start + length).collect(),
            missing_ids: ids.into_iter().map(ObjectId).collect(),
            short: short
                .into_iter()
                .map(|(object, blocks)| ShortObject { object: ObjectId(object), blocks: blocks.into_iter().collect() })
                .collect(),
            objects_missing: n[2],
            bytes_missing: n[3],
            complete,
            reading: complete.then(|| nackcast_proto::wire::Reading {
                window: loss_ppm,
                up_to: n[2],
                received: n[0],
                count: n[1],
                arrival: n[1],
                number: n[2],
            }),
            leaves: !complete,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nacks_split_over_datagrams_and_lose_no_demand(nack in arbitrary_nack()) {
        // One with a reading has no demands.
        let nack = Nack { reading: None, ..nack };
        let empty = Nack {
            missing: RangeSet::new(), missing_ids: Vec::new(), short: Vec::new(), ..nack.clone()
        };
        let (mut ids, mut short, mut missing) = (nack.missing_ids.clone(), nack.short.clone(), nack.missing.clone());
        let mut sum = empty.clone();
        let mut datagrams = 0;
        while !(ids.is_empty() && short.is_empty() && missing.is_empty()) {
            let part = empty.clone().fill(&mut ids, &mut short, &mut missing);
            prop_assert!(!part.is_report(), "every datagram carries something");
            let body = part.encode();
            prop_assert!(body.len() <= BODY_LEN_MAX, "{} bytes", body.len());
            let decoded = Nack::decode(&body).unwrap();
            prop_assert_eq!(&decoded, &part);
            sum.missing.union(&decoded.missing);
            sum.missing_ids.extend(decoded.missing_ids);
            for object in decoded.short {
                match sum.short.last_mut() {
                    Some(last) if last.object == object.object => last.blocks.extend(object.blocks),
                    _ => sum.short.push(object),
                }
            }
            datagrams += 1;
            prop_assert!(datagrams < 1000);
        }
        prop_assert_eq!(sum, nack);
    }

    #[test]
    fn damaged_nacks_never_panic(nack in arbitrary_nack(), at in any::<prop::sample::Index>(), value: u8) {
        let mut body = nack.encode();
        let at = at.index(body.len());
        body[at] = value;
        drop(Nack::decode(&body));
        drop(Nack::decode(&body[..at]));
        drop(NackAnswer::decode(&body, None));
    }

    #[test]
    fn answers_come_back(status in 0_usize..7, unicast in 0_u32..1000, unknown in 0_u32..1000, ids in prop::collection::vec(any::<u64>(), 0..20)) {
        let statuses = [
            NackStatus::Queued, NackStatus::Sending, NackStatus::Unicast, NackStatus::Unknown,
            NackStatus::OtherGeneration, NackStatus::PrimaryAlive, NackStatus::Noted,
        ];
        let answer = NackAnswer {
            channel: CHANNEL, session: SessionId(1), run: RunId(78), nack: 5, nonce: 6, status: statuses[status],
            wait: Duration::from_millis(40), unicast: RangeSet::full(unicast), unknown: RangeSet::full(unknown),
            unicast_ids: ids.iter().copied().map(ObjectId).collect(), unknown_ids: Vec::new(),
            wall_ms: u64::from(unknown) << 40,
        };
        prop_assert_eq!(NackAnswer::decode(&answer.encode(None), None), Ok(answer.clone()));
        let signed = answer.encode(Some(&sender()));
        prop_assert!(signed.len() <= BODY_LEN_MAX);
        prop_assert_eq!(NackAnswer::decode(&signed, Some(&sender().verifying_key())), Ok(answer.clone()));
        prop_assert!(NackAnswer::decode(&answer.encode(None), Some(&sender().verifying_key())).is_err());
    }

    #[test]
    fn probes_come_back(nonce in 1_u64.., numbers: [u64; 3], flags: [bool; 2], rank: u32) {
        let probe = probe(nonce, numbers, flags, rank);
        for kind in [ProbeKind::Question, ProbeKind::Answer] {
            let body = probe.encode(kind, &sender());
            prop_assert_eq!(Probe::decode(&body, kind, &publisher().verifying_key(), CHANNEL), Ok(probe));
        }
    }

    #[test]
    fn nothing_panics_on_noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let key = publisher().verifying_key();
        drop(Advertisement::decode(&bytes, &key, CHANNEL));
        drop(DigestBody::decode(&bytes, &key, CHANNEL));
        drop(Nack::decode(&bytes));
        drop(NackAnswer::decode(&bytes, None));
        drop(Probe::decode(&bytes, ProbeKind::Answer, &key, CHANNEL));
        drop(nackcast_proto::manifest::decode_root(&bytes, &key, CHANNEL));
        drop(String::from_utf8_lossy(&bytes).parse::<Ticket>());
    }
}

#[test]
fn a_ticket_cut_anywhere_is_noticed() {
    let ticket = Ticket {
        channel: CHANNEL,
        name: "news".into(),
        publisher: publisher().verifying_key(),
        advertise: "239.192.1.1:7600".parse().unwrap(),
        senders: vec!["sender.example:7701".into()],
        epoch: Epoch(1),
        secret: Some(EpochSecret([5; 32])),
    };
    let text = ticket.to_string();
    let back: Ticket = format!(" {text}\n").parse().unwrap();
    assert_eq!(back.to_string(), text);
    for end in 0..text.len() {
        let error = text[..end].parse::<Ticket>().unwrap_err();
        assert!(matches!(error, TicketError::Prefix | TicketError::Damaged), "{end}");
    }
    assert!(!format!("{ticket:?}").contains("5, 5"), "a secret is never shown");
    let listed = Ticket { secret: None, ..ticket };
    let back: Ticket = listed.to_string().parse().unwrap();
    assert_eq!((back.secret, back.epoch), (None, Epoch(1)), "of a channel with a list of receivers");
}
