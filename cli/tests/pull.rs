//! Unicast pull with real processes in a network of namespaces: the last resort works, and comes last.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/site.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod site;
#[path = "common/tree.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod tree;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nackcast_common::clock::Clock;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::ObjectId;
use nackcast_common::keys::{Side, SigningKey};
use nackcast_common::net::quic::{Client, Connection};
use nackcast_proto::manifest::decode_root;
use nackcast_proto::pull::{Block, Member, Offer, Request};
use nackcast_proto::ticket::Ticket;
use nackcast_proto::wire::DatagramType;
use nackcast_testbed::fabric::{Direction, Link};
use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::Process;

use crate::site::{PATIENCE, Site, alone, assert_ends, program, progress, summary, until, until_idle};
use crate::tree::{Tree, noise};

fn write(site: &Site, name: &str, seed: u64, length: usize) {
    std::fs::write(site.source().join(name), noise(seed, length)).unwrap();
}

fn number(process: &Process, field: &str) -> u64 {
    summary(process)[field].as_u64().unwrap()
}

/// Loss at one receiver, of the group's datagrams only: what is pulled is not slowed.
fn lose_of_the_group(site: &Site, receiver: &str, of_ten: u32) {
    let rule = format!(
        "add table ip loss; add chain ip loss input {{ type filter hook input priority 0; }}; add rule ip loss input ip \
         daddr 239.192.7.7 numgen random mod 10 < {of_ten} drop"
    );
    let made = site.network.host(receiver).command("nft").arg(rule).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn the_one_that_had_all_its_passes_pulls_and_the_others_see_nothing_of_it() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(3, 0.0);
        // A pass takes demands for a while. At 60 % loss each of them brings about half of what lacks: of so many objects
        // some still lack something in the end.
        for file in 0..30 {
            write(&site, &file.to_string(), file, 500_000);
        }
        let tree = Tree::read(&site.source());
        lose_of_the_group(&site, "receiver-3", 6);
        let others: Vec<_> = (1..=2).map(|receiver| site.receive_on(receiver, &[])).collect();
        let mut late = site.receive(3, &[]);
        let mut sender = site.send(&["--max-passes", "1", "--unicast-rate", "8mbit"]);
        late.wait_for_stderr("had all their passes", PATIENCE).unwrap();
        // The passes are over when all that lacks waits for unicast, and what was sent last is through the fabric.
        let mut loss = 0;
        until("nothing but unicast is left", || {
            let row = progress(&late);
            let number = |field: &str| row[field].as_u64();
            loss = number("loss_ppm").unwrap_or(0).max(loss);
            number("objects").is_some_and(|all| {
                all > 0
                    && Some(all)
                        == number("objects_done").zip(number("unicast_wanted")).map(|(done, wanted)| done + wanted)
            })
        });
        until_idle(&mut sender);
        let symbols = || site.sent().datagrams.of(DatagramType::Symbol);
        let mut before = symbols();
        until("the fabric has carried all of it", || {
            #[expect(clippy::disallowed_methods, reason = "that nothing comes is no event")]
            std::thread::sleep(Duration::from_millis(200));
            std::mem::replace(&mut before, symbols()) == before
        });
        eprintln!("what was pulled by then: {}", progress(&late)["pulled_bytes"]);
        let alerts = Command::new(program()).args(["alerts", "--json", "--node"]).arg(site.state("sender")).output();
        assert_ends(&mut late, 0);
        for receiver in 1..=3 {
            tree.assert_at(&site.target(receiver));
        }
        let pulled = number(&late, "pulled_bytes");
        eprintln!("pulled {pulled} bytes behind a loss of {loss} millionths");
        assert!(pulled > 0 && (500_000..700_000).contains(&loss), "{}", summary(&late));
        assert_eq!(symbols(), before, "nothing was multicast for one receiver that pulls");
        for receiver in &others {
            let row = progress(receiver);
            assert_eq!((&row["pulled_bytes"], &row["unicast_wanted"]), (&0.into(), &0.into()), "{row}");
            assert!(!receiver.stderr().contains("had all their passes"), "{}", receiver.tail());
        }
        let alerts = String::from_utf8_lossy(&alerts.unwrap().stdout).into_owned();
        assert!(alerts.contains("passes-exhausted"), "{alerts}");
        until("the sender tells what it gave", || progress(&sender)["unicast_bytes"].as_u64() >= Some(pulled));
        sender.kill9().unwrap();
        let passes = site.pass_counts();
        assert!(passes.len() > 30 && passes.values().all(|count| *count == 1), "{passes:?}");
    });
}

#[test]
fn receivers_finish_from_each_other_when_no_sender_is_left() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(3, 0.0);
        for file in 0..40 {
            write(&site, &format!("small-{file}"), file, 30_000);
        }
        // Three blocks, and so many that their hashes are an object of their own, of one file that comes and of one that
        // the first receiver has already.
        write(&site, "middle", 100, 700_000);
        write(&site, "large", 101, 3_000_000);
        write(&site, "adopted", 102, 6 << 20);
        std::fs::create_dir(site.target(1)).unwrap();
        std::fs::copy(site.source().join("adopted"), site.target(1).join("adopted")).unwrap();
        let tree = Tree::read(&site.source());
        let size = tree.bytes();
        let from_first = site.peer(1);
        let first = site.receive_on(1, &["--serve-peers", "--unicast-rate", "200mbit"]);
        let mut second = site.receive(2, &["--source", &from_first]);
        let mut sender = site.send(&["--rate", "20mbit"]);
        // The second loses the way to everybody in the middle of the transfer.
        until("the second receiver has a part", || progress(&second)["bytes_done"].as_u64().unwrap_or(0) > size / 5);
        site.set_link(2, Link::lossy(1.0));
        until("the first receiver is complete", || progress(&first)["state"] == "complete");
        sender.kill9().unwrap();
        site.set_link(2, Link::default());
        assert_ends(&mut second, 0);
        tree.assert_at(&site.target(2));
        // And one that comes when all is over: not even the manifest is sent any more.
        let mut third = site.receive(3, &["--source", &from_first]);
        assert_ends(&mut third, 0);
        tree.assert_at(&site.target(3));
        let (second, third) = (number(&second, "pulled_bytes"), number(&third, "pulled_bytes"));
        eprintln!("of {size} bytes the second receiver pulled {second}, the third {third}");
        assert!(second > 0 && second < size, "what was multicast before is not pulled: {second} of {size}");
        assert!(third >= size, "{third} of {size}");
    });
}

#[test]
fn sources_that_are_not_there_are_told_and_the_one_that_is_serves() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(2, 0.0);
        write(&site, "large", 1, 6_000_000);
        let tree = Tree::read(&site.source());
        let first = site.receive_on(1, &["--serve-peers", "--unicast-rate", "20mbit"]);
        let mut sender = site.send(&[]);
        until("the first receiver is complete", || progress(&first)["state"] == "complete");
        sender.kill9().unwrap();
        let there = site.peer(1);
        // The port of QUIC, in place of that before it; and a machine that does not exist.
        let (host, port) = there.rsplit_once(':').unwrap();
        let wrong = format!("{host}:{}", port.parse::<u16>().unwrap() + 1);
        let more = ["--source", &wrong, "--source", "10.77.0.200:7701", "--source", &there];
        let mut second = site.receive_on(2, &more);
        second.wait_for_stderr(&format!("the source {wrong} never answered"), PATIENCE).unwrap();
        until("the second receiver is complete", || progress(&second)["state"] == "complete");
        tree.assert_at(&site.target(2));
        let mut ask = Command::new(program());
        ask.args(["alerts", "--json", "--node"]).arg(site.state("receiver-2"));
        until("both are alerts", || {
            let said = String::from_utf8_lossy(&ask.output().unwrap().stdout).into_owned();
            said.matches("\"source-silent\"").count() >= 2 && said.contains(&wrong) && said.contains("10.77.0.200")
        });
        assert_eq!(second.stderr().matches(&format!("the source {wrong} never answered")).count(), 1, "said once");
        // Nothing was multicast, and yet it was told how fast things came.
        let lines = second.stdout();
        let rates = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let most = rates.filter_map(|line| line["channels"][0]["rate_bps"].as_u64()).max();
        assert!(most > Some(1_000_000), "{most:?}");
    });
}

#[test]
fn no_byte_is_pulled_while_multicast_passes_remain() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(3, 0.2);
        for file in 0..10 {
            write(&site, &format!("{file}"), file, 500_000);
        }
        let tree = Tree::read(&site.source());
        let mut receivers: Vec<_> = (1..=2).map(|receiver| site.receive(receiver, &[])).collect();
        let mut sender = site.send(&["--rate", "50mbit"]);
        for receiver in &mut receivers {
            assert_ends(receiver, 0);
        }
        until_idle(&mut sender);
        // One that comes late asks for everything: the object's passes are not used up.
        receivers.push(site.receive(3, &[]));
        assert_ends(&mut receivers[2], 0);
        for receiver in 1..=3 {
            tree.assert_at(&site.target(receiver));
            assert!(site.given(receiver).dropped_by_fault > 0, "nothing was lost on the way to receiver {receiver}");
        }
        for receiver in &receivers {
            assert_eq!((number(receiver, "pulled_bytes"), number(receiver, "unicast_wanted")), (0, 0));
        }
        assert_eq!(progress(&sender)["unicast_bytes"], 0);
    });
}

/// Connects with the site's ticket.
async fn connect(site: &Site, client: &Client) -> Option<Connection> {
    let ticket: Ticket = std::fs::read_to_string(site.path("site.ticket")).unwrap().parse().unwrap();
    let Ticket { channel, epoch, publisher, secret, .. } = ticket;
    let member = Member { channel, epoch, secret: secret.unwrap(), publisher, sender: None };
    let connection = client.connect(site.quic().into()).await.ok()?;
    connection.greet(&member.hello(Side::Client, connection.binding())).await.ok()?;
    Some(connection)
}

async fn ask(connection: &Connection, request: Request) -> Vec<bytes::Bytes> {
    let mut replies = Vec::new();
    if let Ok(mut incoming) = connection.ask(&request.encode()).await {
        while let Ok(Some(reply)) = incoming.next(1 << 20).await {
            replies.push(reply);
        }
    }
    replies
}

/// The largest object of the manifest that the sender serves.
async fn largest(site: &Site, connection: &Connection) -> (ObjectId, u32) {
    let ticket: Ticket = std::fs::read_to_string(site.path("site.ticket")).unwrap().parse().unwrap();
    let offer = Offer::decode(ask(connection, Request::Manifest).await.remove(0)).unwrap().unwrap();
    let root = decode_root(&offer.root, &ticket.publisher, ticket.channel).unwrap();
    let mut parts = std::collections::BTreeMap::new();
    for (digest, length) in root.parts() {
        let object = Geometry::default().object_id(&digest, length.into());
        let reply = ask(connection, Request::Blocks { object, blocks: 0..1 }).await.remove(0);
        parts.insert(digest, Block::decode(reply).unwrap().data);
    }
    let manifest = root.assemble(|digest| parts.get(digest).cloned()).unwrap();
    let object = manifest.objects().iter().max_by_key(|object| object.layout.size()).unwrap();
    (object.id, object.layout.block_count())
}

/// Asks for everything, over and over, on as many connections as one address gets.
fn flood(site: &Site, ends: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(&SigningKey::generate()).unwrap();
        let one = async || {
            while !ends.load(Ordering::Relaxed) {
                let Some(connection) = connect(site, &client).await else { continue };
                let (object, count) = largest(site, &connection).await;
                let requests = (0..8).map(|_| ask(&connection, Request::Blocks { object, blocks: 0..count }));
                futures_util::future::join_all(requests).await;
            }
        };
        tokio::join!(one(), one(), one(), one());
    });
}

/// A flood of pulls must not slow the multicast by more than a tenth, on a link that has hardly room for more.
#[test]
#[ignore = "a measurement: it needs an idle machine"]
fn a_flood_of_pulls_hardly_slows_the_multicast() {
    let _alone = alone();
    with_namespaces(|| {
        let measure = |flooding: usize| {
            let hosts = ["sender", "flood-1", "flood-2", "flood-3", "flood-4"];
            let site = Site::with_hosts(&hosts, 1, 0.0);
            write(&site, "large", 1, 60_000_000);
            let tree = Tree::read(&site.source());
            let link = Link { rate_bps: Some(110_000_000), queue_bytes: 256 << 10, ..Link::default() };
            site.network.fabric().set_link("sender", Direction::FromHost, link).unwrap();
            let ends = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let mut sender = site.send(&["--rate", "100mbit"]);
                until("the manifest is served", || progress(&sender)["generation"].as_u64().unwrap_or(0) > 0);
                let flood = |host| {
                    let (site, ends) = (&site, &ends);
                    scope.spawn(move || site.network.host(host).run(|| flood(site, ends)).unwrap())
                };
                let pulls: Vec<_> = hosts[1..=flooding].iter().map(|host| flood(host)).collect();
                let mut receiver = site.receive(1, &["--pull", "never"]);
                site.until_sent(5_000_000);
                let clock = Clock::start();
                let began = clock.now();
                assert_ends(&mut receiver, 0);
                let took = clock.now().since(began);
                ends.store(true, Ordering::Relaxed);
                tree.assert_at(&site.target(1));
                let given = progress(&sender)["unicast_bytes"].as_u64().unwrap();
                // What was asked for would take minutes.
                sender.kill9().unwrap();
                pulls.into_iter().for_each(|pulls| pulls.join().unwrap());
                (took, given)
            })
        };
        let (alone, _) = measure(0);
        for addresses in [1, 4] {
            let (flooded, given) = measure(addresses);
            let slower = flooded.as_secs_f64() / alone.as_secs_f64();
            eprintln!(
                "55 MB by multicast, from {addresses} addresses flooded: {alone:?} alone, {flooded:?} while {given} \
                 bytes were pulled: {slower:.3} times"
            );
            assert!(given > 1_000_000 && slower < 1.1, "{slower:.3} times as long, {given} bytes pulled");
        }
    });
}
