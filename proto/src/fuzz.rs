//! Entry points of the fuzz targets (`testbed/fuzz`), one function per parser of this crate, and their seeds.
//!
//! - Whatever is signed is signed here with a fixed key, so that mutated bytes reach the parser behind the check.
//! - What a parser accepts must come back the same from its own encoder: a panic says that it does not.

mod pull;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{
    ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex, RunId, SessionId, StartNumber,
};
use nackcast_common::keys::{EpochSecret, Flow, SigningKey};
use nackcast_common::manifest::{Chaining, Content, Entry, EntryKind, Head, Manifest, Mtime, ObjectKind, ObjectRecord};
use nackcast_common::path::DatasetPath;
use nackcast_common::ranges::RangeSet;
use prost::Message;

use crate::manifest::{Root, decode_root, encode};
use crate::pb;
use crate::ticket::Ticket;
use crate::wire::limits::{BODY_LEN_MAX, TAG_LEN};
use crate::wire::symbol::{PREFIX_LEN, SymbolId};
use crate::wire::{
    Advertisement, DatagramType, DigestBody, FinishedPass, Header, ManifestRef, Nack, NackAnswer, NackStatus,
    NextEpoch, Probe, ProbeKind, Promise, Role, SenderCertificate, SenderState, ShortObject, Standing, counts,
    digest as signing, header as head_of, index_set,
};

pub use self::pull::pull;

/// The name of a target and bytes to begin with.
pub type Seeds = (&'static str, Vec<Vec<u8>>);

const CHANNEL: ChannelId = ChannelId([7; 16]);
/// Up to here, what decoded fits one datagram again however well its first encoder chose.
const ROUND_TRIP_LEN_MAX: usize = 256;

fn publisher() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn sender() -> SigningKey {
    SigningKey::from_seed([2; 32])
}

fn certificate() -> SenderCertificate {
    SenderCertificate::issue(&publisher(), CHANNEL, sender().verifying_key())
}

/// A datagram's header.
pub fn header(input: &[u8]) {
    if let Ok(header) = Header::read(input) {
        let mut bytes = [0; head_of::LEN];
        header.write(&mut bytes);
        assert_eq!(bytes, input[..head_of::LEN], "a header comes back as it was");
    }
}

/// A symbol's body.
pub fn symbol(input: &[u8]) {
    if let Ok((id, symbol)) = SymbolId::read(input) {
        let mut prefix = [0; PREFIX_LEN];
        id.write(&mut prefix);
        assert_eq!([&prefix[..], symbol].concat(), input, "a symbol comes back as it was");
    }
}

/// A NACK's body.
pub fn nack(input: &[u8]) {
    let Ok(nack) = Nack::decode(input) else { return };
    let again = nack.encode();
    if input.len() <= ROUND_TRIP_LEN_MAX {
        assert_eq!(Nack::decode(&again), Ok(nack), "a NACK comes back as it was");
    }
}

/// An answer's body, as it came, and with the input as its signed payload.
pub fn nack_answer(input: &[u8]) {
    let unsigned = NackAnswer::decode(input, None);
    assert!(unsigned.is_err() || NackAnswer::decode(input, Some(&publisher().verifying_key())).is_err());
    let signed = signing::sign("nack answer", &sender(), input.to_vec());
    if let Ok(answer) = NackAnswer::decode(&signed, Some(&sender().verifying_key())) {
        let again = answer.encode(Some(&sender()));
        let again = NackAnswer::decode(&again, Some(&sender().verifying_key()));
        if input.len() <= ROUND_TRIP_LEN_MAX {
            assert_eq!(again, Ok(answer), "an answer comes back as it was");
        }
    }
}

/// An advertisement: the input is the body, and then its payload under a sound certificate and signature.
pub fn advertisement(input: &[u8]) {
    let key = publisher().verifying_key();
    let _unsigned = Advertisement::decode(input, &key, CHANNEL).is_ok();
    let payload = match pb::Advertisement::decode(input) {
        Ok(mut message) => {
            message.channel = CHANNEL.0.to_vec().into();
            message.certificate = Some(pb::SenderCertificate {
                channel: CHANNEL.0.to_vec().into(),
                sender_key: certificate().sender_key.0.to_vec().into(),
                signature: certificate().signature.0.to_vec().into(),
            });
            message.encode_to_vec()
        }
        Err(_) => input.to_vec(),
    };
    let body = signing::sign("advertisement", &sender(), payload);
    if let Ok(advertisement) = Advertisement::decode(&body, &key, CHANNEL) {
        let again = advertisement.encode(&sender());
        assert_eq!(Advertisement::decode(&again, &key, CHANNEL), Ok(advertisement), "it comes back as it was");
    }
}

/// A Digest: the input is the body, and then its signed payload.
pub fn digest(input: &[u8]) {
    let key = sender().verifying_key();
    let _unsigned = DigestBody::decode(input, &key, CHANNEL).is_ok();
    let payload = match pb::DigestBody::decode(input) {
        Ok(mut message) => {
            message.channel = CHANNEL.0.to_vec().into();
            message.encode_to_vec()
        }
        Err(_) => input.to_vec(),
    };
    let body = signing::sign("digest", &sender(), payload);
    if let Ok(digest) = DigestBody::decode(&body, &key, CHANNEL) {
        let again = digest.encode(&sender());
        if input.len() <= ROUND_TRIP_LEN_MAX {
            assert_eq!(DigestBody::decode(&again, &key, CHANNEL), Ok(digest), "it comes back as it was");
        }
    }
}

/// A set of indices: base, encoding, count, then the bits.
pub fn index_set(input: &[u8]) {
    let Some((head, bits)) = input.split_first_chunk::<9>() else { return };
    let base = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let count = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let set = pb::IndexSet { base, encoding: head[4].into(), count, bits: bits.to_vec().into() };
    let Ok(set) = index_set::decode(&[set]) else { return };
    let mut rest = set.clone();
    let mut sum = RangeSet::new();
    while let (Some(piece), next) = index_set::encode(&rest, 600) {
        match index_set::decode(&[piece]) {
            Ok(piece) => sum.union(&piece),
            Err(error) => panic!("own encoding refused: {error}"),
        }
        let Some(next) = next else { break };
        assert!(rest.first().is_some_and(|first| first < next), "every piece takes something");
        rest.remove(0..next);
    }
    assert_eq!(sum, set, "a set comes back from its pieces");
}

/// Blocks with counts.
pub fn block_counts(input: &[u8]) {
    let Ok(blocks) = counts::decode(input) else { return };
    let (bytes, number) = counts::encode(&blocks, BODY_LEN_MAX);
    assert!(bytes.len() <= BODY_LEN_MAX);
    assert_eq!(counts::decode(&bytes).as_deref(), Ok(&blocks[..number]), "counts come back as they were");
}

/// A probe or its answer: the input is its signed payload.
pub fn probe(input: &[u8]) {
    let key = publisher().verifying_key();
    for (kind, domain) in [(ProbeKind::Question, "probe"), (ProbeKind::Answer, "probe answer")] {
        assert!(Probe::decode(input, kind, &key, CHANNEL).is_err() || input.len() > 64, "nothing unsigned is taken");
        let signed = signing::sign(domain, &sender(), input.to_vec());
        if let Ok(probe) = Probe::decode(&signed, kind, &key, CHANNEL) {
            let again = probe.encode(kind, &sender());
            assert_eq!(Probe::decode(&again, kind, &key, CHANNEL), Ok(probe), "a probe comes back as it was");
        }
    }
}

/// A manifest root: the input is its signed payload.
pub fn manifest_root(input: &[u8]) {
    let key = publisher().verifying_key();
    let _unsigned = decode_root(input, &key, CHANNEL).is_ok();
    let signed = signing::sign("manifest root", &publisher(), input.to_vec());
    if let Ok(root) = decode_root(&signed, &key, CHANNEL) {
        let block = root.head.geometry.block_size();
        assert!(root.parts().all(|(_, length)| (1..=block).contains(&length)), "parts have at most one block");
    }
}

/// The parts of a manifest: a length, so many bytes of the object table, the rest is entries.
pub fn manifest_parts(input: &[u8]) {
    let Some((length, bytes)) = input.split_first_chunk::<2>() else { return };
    let (objects, entries) = bytes.split_at(usize::from(u16::from_be_bytes(*length)).min(bytes.len()));
    let part = |bytes: &[u8]| (Digest::of(bytes), u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let (of_objects, of_entries) = (part(objects), part(entries));
    let root = Root { head: head(), objects: vec![of_objects], entries: vec![of_entries], file_bytes: 0 };
    let bytes = |digest: &Digest| Some(Bytes::copy_from_slice(if *digest == of_objects.0 { objects } else { entries }));
    let Ok(manifest) = root.assemble(bytes) else { return };
    let encoded = encode(&manifest, &publisher()).expect("a manifest that was assembled can be encoded");
    let root = decode_root(&encoded.root.bytes, &publisher().verifying_key(), CHANNEL).expect("own root decodes");
    let find = |digest: &Digest| encoded.parts.iter().find(|p| p.digest == *digest).map(|p| p.bytes.clone());
    assert_eq!(root.assemble(find).as_ref(), Ok(&manifest), "a manifest comes back as it was");
}

/// A ticket: the input as text, and as the message inside text whose checksum is right.
pub fn ticket(input: &[u8]) {
    let _as_text = String::from_utf8_lossy(input).parse::<Ticket>().is_ok();
    let checksum = Digest::of(input).0;
    let text = format!("nackcast1{}", data_encoding::BASE64URL_NOPAD.encode(&[input, &checksum[..4]].concat()));
    if let Ok(ticket) = text.parse::<Ticket>() {
        let shown = ticket.to_string();
        let again = shown.parse::<Ticket>().expect("own ticket parses");
        assert_eq!(again.to_string(), shown, "a ticket comes back as it was");
    }
}

/// Small valid inputs of every target.
#[must_use]
pub fn seeds() -> Vec<Seeds> {
    vec![
        ("header", headers()),
        ("symbol", symbols()),
        ("nack", nacks()),
        ("nack_answer", answers()),
        ("advertisement", advertisements()),
        ("digest", digests()),
        ("index_set", index_sets()),
        ("block_counts", block_lists().iter().map(|blocks| counts::encode(blocks, BODY_LEN_MAX).0).collect()),
        ("manifest_root", vec![payload(&encode(&manifest(), &publisher()).expect("a sound manifest").root.bytes)]),
        ("manifest_parts", vec![parts(&manifest())]),
        ("probe", probes()),
        ("ticket", tickets()),
        ("pull", pull::seeds()),
    ]
}

/// What was signed.
fn payload(signed: &[u8]) -> Vec<u8> {
    pb::Signed::decode(signed).expect("own message").payload.to_vec()
}

fn headers() -> Vec<Vec<u8>> {
    let of = |datagram_type: DatagramType| {
        let header = Header {
            datagram_type,
            flow: datagram_type.flow(),
            epoch_low: 1,
            session: 0x0123_4567_89ab_cdef,
            packet_number: 77,
        };
        let mut bytes = [0; head_of::LEN];
        header.write(&mut bytes);
        [&bytes[..], &[0; TAG_LEN]].concat()
    };
    assert_eq!(DatagramType::Symbol.flow(), Flow::Data);
    [DatagramType::Advertisement, DatagramType::Symbol, DatagramType::Nack, DatagramType::NackAnswer].map(of).into()
}

fn symbols() -> Vec<Vec<u8>> {
    let mut prefix = [0; PREFIX_LEN];
    SymbolId { object: ObjectId(3), block: 1, esi: 200 }.write(&mut prefix);
    vec![[&prefix[..], &[9; 20]].concat(), prefix.to_vec()]
}

fn block_lists() -> Vec<Vec<(u32, u16)>> {
    vec![vec![(0, 1)], vec![(3, 7), (4, 1), (900, 188)], (0..100).map(|b| (b * 6, 1)).collect()]
}

fn sets() -> Vec<RangeSet> {
    let sparse = (0..60).map(|i| i * 97 + i * i % 31).collect();
    let mut runs = RangeSet::full(1_000_000);
    runs.remove(5000..5100);
    vec![RangeSet::full(1), sparse, runs]
}

fn index_sets() -> Vec<Vec<u8>> {
    let of = |set: &RangeSet| {
        let (Some(set), _) = index_set::encode(set, 600) else { return Vec::new() };
        let encoding = u8::try_from(set.encoding).unwrap_or_default();
        [&set.base.to_be_bytes()[..], &[encoding], &set.count.to_be_bytes(), &set.bits].concat()
    };
    sets().iter().map(of).collect()
}

fn nacks() -> Vec<Vec<u8>> {
    let report = Nack {
        channel: CHANNEL,
        session: SessionId(3),
        sequence: 9,
        time: 123_456,
        hold: Duration::from_millis(7),
        manifest: 5,
        generation: Generation(4),
        loss_ppm: 20_000,
        primary_age: u32::MAX,
        nonce: 1,
        heard: 1000,
        complete: true,
        ..Nack::default()
    };
    let demands = sets().into_iter().map(|missing| Nack { missing, complete: false, ..report.clone() });
    let blocks = block_lists().into_iter().zip(1..);
    let short = blocks.map(|(blocks, id)| ShortObject { object: ObjectId(id), blocks }).collect();
    let blocks = Nack { short, missing_ids: vec![ObjectId(1), ObjectId(u64::MAX)], ..report.clone() };
    demands.chain([blocks, report.clone()]).map(|nack| nack.encode()).collect()
}

fn answers() -> Vec<Vec<u8>> {
    let plain = NackAnswer {
        channel: CHANNEL,
        session: SessionId(3),
        run: RunId(5),
        nack: 8,
        nonce: 1,
        status: NackStatus::Queued,
        wait: Duration::from_millis(300),
        ..NackAnswer::default()
    };
    let ids = vec![ObjectId(7)];
    let lists = NackAnswer { unicast: sets().remove(1), unknown_ids: ids.clone(), unicast_ids: ids, ..plain.clone() };
    vec![payload(&plain.encode(None)), payload(&lists.encode(None)), plain.encode(Some(&sender()))]
}

fn advertisements() -> Vec<Vec<u8>> {
    let of = |data_group: SocketAddr, finished: u64, manifest| Advertisement {
        channel: CHANNEL,
        session: SessionId(3),
        epoch: Epoch(1),
        sequence: 9,
        start_number: StartNumber(1_700_000_000_000),
        time: 123_456,
        interval: Duration::from_millis(250),
        generation: Generation(4),
        manifest,
        certificate: certificate(),
        role: Role::Primary,
        state: SenderState::Active,
        data_group,
        nack_port: 7701,
        quic_port: 7702,
        grtt: Duration::from_millis(3),
        nack_window: Duration::from_millis(20),
        group_size: 8,
        max_passes: 16,
        rate_bps: 20_000_000,
        first_pass_cursor: 17,
        first_pass_since: Generation(4),
        finished: (0..finished).map(|i| FinishedPass { object: ObjectId(i), serial: i }).collect(),
        data_packets: 1000,
        manifest_sent: true,
        list: u64::MAX,
        rank: 0,
        wall_ms: 1_700_000_000_000,
        next_epoch: (finished > 0).then_some(NextEpoch { epoch: Epoch(2), within: Duration::from_secs(30) }),
    };
    let manifest = ManifestRef { hash: Digest::of(b"root"), length: 700, geometry: Geometry::default() };
    let v4 = of(SocketAddr::from(([239, 195, 7, 7], 7601)), 24, Some(manifest));
    let v6 = of(SocketAddr::from(([0xff15, 0, 0, 0, 0, 0, 0, 7], 7601)), 0, None);
    vec![payload(&v4.encode(&sender())), payload(&v6.encode(&sender())), v6.encode(&sender())]
}

fn probes() -> Vec<Vec<u8>> {
    let of = |role, state, nonce| {
        let standing = Standing {
            channel: CHANNEL,
            session: SessionId(3),
            start_number: StartNumber(1_700_000_000_000),
            certificate: certificate(),
            role,
            rank: 1,
            state,
            can_read: true,
            can_send: nonce > 1,
            sequence: 9,
            time: 123_456,
        };
        let probe = Probe { nonce, standing };
        [payload(&probe.encode(ProbeKind::Question, &sender())), probe.encode(ProbeKind::Answer, &sender())]
    };
    [of(Role::Primary, SenderState::Active, 1), of(Role::Backup, SenderState::Standby, u64::MAX)].concat()
}

fn digests() -> Vec<Vec<u8>> {
    let blocks = block_lists().into_iter().zip(1..);
    let promises = blocks.map(|(blocks, id)| Promise::Blocks(ObjectId(id), blocks));
    let digest = DigestBody {
        channel: CHANNEL,
        session: SessionId(3),
        epoch: Epoch(1),
        sequence: 1,
        time: 2,
        lapse: Duration::from_millis(300),
        promises: promises.chain([Promise::Whole(ObjectId(9))]).collect(),
    };
    vec![payload(&digest.encode(&sender())), digest.encode(&sender())]
}

fn head() -> Head {
    let parent = Some(Digest::of(b"parent"));
    Head { channel: CHANNEL, generation: Generation(2), parent, epoch: Epoch(1), geometry: Geometry::default() }
}

fn manifest() -> Manifest {
    let geometry = Geometry::default();
    let object = |bytes: &[u8], kind| {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        let layout = geometry.object(size).expect("small");
        let id = geometry.object_id(&digest, size);
        ObjectRecord { id, digest, layout, kind, since: Generation(1), chaining: Chaining::Digest }
    };
    let (big, pack) = ([3; 5000], [1; 2000]);
    let entry = |path: &[u8], kind| Entry {
        path: DatasetPath::new(path).expect("a sound path"),
        kind,
        mode: 0o644,
        mtime: Mtime { seconds: -5, nanos: 999_999_999 },
    };
    let file = |path: &[u8], bytes: &[u8], content| {
        entry(path, EntryKind::File { size: bytes.len() as u64, digest: Digest::of(bytes), content })
    };
    let entries = vec![
        entry(b"dir", EntryKind::Directory),
        file(b"dir/big\xff\n", &big, Content::Object(ObjectIndex(0))),
        file(b"dir/empty", b"", Content::Empty),
        entry(b"link", EntryKind::Symlink { target: b"dir/../\xfe".to_vec().into() }),
        file(b"small/0", &pack[..1000], Content::Slice { pack: ObjectIndex(1), offset: 0 }),
        file(b"small/1", &pack[1000..], Content::Slice { pack: ObjectIndex(1), offset: 1000 }),
    ];
    let objects = vec![object(&big, ObjectKind::File), object(&pack, ObjectKind::Pack)];
    Manifest::new(head(), objects, entries).expect("a sound manifest")
}

fn parts(manifest: &Manifest) -> Vec<u8> {
    let parts = encode(manifest, &publisher()).expect("a sound manifest").parts;
    let objects = parts.first().map_or(0, |p| p.bytes.len());
    let length = u16::try_from(objects).unwrap_or(u16::MAX).to_be_bytes();
    parts.iter().fold(length.to_vec(), |all, part| [&all[..], &part.bytes].concat())
}

fn tickets() -> Vec<Vec<u8>> {
    let ticket = Ticket {
        channel: CHANNEL,
        name: "news".to_owned(),
        publisher: publisher().verifying_key(),
        advertise: SocketAddr::from(([239, 195, 7, 7], 7600)),
        senders: vec!["cdn1:7701".to_owned(), "[2001:db8::1]:7701".to_owned()],
        epoch: Epoch(1),
        secret: Some(EpochSecret([5; 32])),
    };
    let text = ticket.to_string();
    let encoded = text.trim_start_matches("nackcast1").as_bytes();
    let message = data_encoding::BASE64URL_NOPAD.decode(encoded).expect("own ticket");
    vec![message[..message.len() - 4].to_vec(), text.into_bytes()]
}
