//! What NACKs for everything and their Digests cost the sender. Run by hand:
//! `cargo test --release -p nackcast-sender --test load -- --ignored --nocapture`

#![expect(clippy::unwrap_used, reason = "a measurement")]

use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectIndex, RunId, SessionId, StartNumber};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{Chaining, Content, Entry, EntryKind, Head, Manifest, Mtime, ObjectKind, ObjectRecord};
use nackcast_common::path::DatasetPath;
use nackcast_common::ranges::RangeSet;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::manifest::encode;
use nackcast_proto::wire::{Nack, Role, SenderCertificate};
use nackcast_sender::ScheduleConfig;
use nackcast_sender::engine::{Command, EngineConfig, Publication, SenderEngine, Transmit};

const CHANNEL: ChannelId = ChannelId([7; 16]);
const OBJECTS: u32 = 100_000;

fn manifest() -> Manifest {
    let geometry = Geometry::default();
    let size = 200_000_u64;
    let (mut objects, mut entries) = (Vec::new(), Vec::new());
    for at in 0..OBJECTS {
        let digest = Digest::of(&at.to_be_bytes());
        objects.push(ObjectRecord {
            id: geometry.object_id(&digest, size),
            digest,
            layout: geometry.object(size).unwrap(),
            kind: ObjectKind::File,
            since: Generation(1),
            chaining: Chaining::Digest,
        });
        entries.push(Entry {
            path: DatasetPath::new(format!("{at:08}").as_bytes()).unwrap(),
            kind: EntryKind::File { size, digest, content: Content::Object(ObjectIndex(at)) },
            mode: 0o644,
            mtime: Mtime::default(),
        });
    }
    let head = Head { channel: CHANNEL, generation: Generation(1), parent: None, epoch: Epoch(1), geometry };
    Manifest::new(head, objects, entries).unwrap()
}

#[test]
#[ignore = "a measurement"]
fn what_a_nack_for_everything_costs() {
    let publisher = SigningKey::from_seed([1; 32]);
    let manifest = Arc::new(manifest());
    let encoded = encode(&manifest, &publisher).unwrap();
    let (hash, session) = (encoded.reference.hash, SessionId(1));
    let mut engine = SenderEngine::new(EngineConfig {
        channel: CHANNEL,
        session,
        start_number: StartNumber(1),
        epoch: Epoch(1),
        role: Role::Primary,
        certificate: SenderCertificate::issue(&publisher, CHANNEL, publisher.verifying_key()),
        data_group: "239.1.1.1:7602".parse().unwrap(),
        nack_port: 7701,
        quic_port: 0,
        rate: RateLimit::Fixed(BitRate(1_000_000_000)),
        auto: nackcast_sender::RateBounds::default(),
        schedule: ScheduleConfig::default(),
        once: None,
    });
    let publication =
        Publication { reference: encoded.reference, manifest, parts: Vec::new(), fresh: false, passes: Vec::new() };
    let mut now = Time(1_000_000);
    engine.handle_command(now, Command::Publish(Box::new(publication)));
    let clock = Clock::start();
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let begun = clock.now();
        work();
        println!("{what}: {:?}", clock.now().since(begun));
    };
    for run in 1..=3 {
        let nack = Nack {
            channel: CHANNEL,
            session,
            time: now.0,
            manifest: hash.prefix(),
            missing: RangeSet::full(OBJECTS),
            ..Nack::default()
        };
        let from = "192.0.2.1:4000".parse().unwrap();
        timed(&format!("NACK {run} for everything"), &mut || engine.handle_nack(now, from, RunId(run), 1, &nack));
    }
    timed("20 Digests and whatever else is due", &mut || {
        let mut digests = 0;
        while digests < 20 {
            now += Duration::from_millis(1);
            while let Some(transmit) = engine.poll_control(now) {
                digests += u32::from(matches!(transmit, Transmit::Digest(_)));
            }
        }
    });
}
