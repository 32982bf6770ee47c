//! Strangers on HTTP and gRPC: noise, frames at random, recordings that were changed, and connections that stay.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::site::{Site, program};
use crate::{ADMIN_PORT, Dice, HTTP_PORT};

/// Connections that a stranger keeps open.
const KEPT: usize = 400;
/// Of HTTP/2, without the frame of settings that follows.
const PREFACE_LEN: usize = 24;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What our own client says, as it goes over the wire: it looks at everything, and steers.
pub(crate) fn recorded_requests(site: &Site, node: &str) -> Vec<Vec<u8>> {
    let asked: [&[&str]; 6] = [
        &["status", "--receivers"],
        &["objects"],
        &["alerts"],
        &["rate", "20mbit"],
        &["resume"],
        &["resend", "no/such"],
    ];
    asked.into_iter().map(|arguments| recorded_request(site, node, arguments)).collect()
}

fn recorded_request(site: &Site, node: &str, arguments: &[&str]) -> Vec<u8> {
    let host = site.network.host(node);
    let listener = host.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let mut status = host.command(program());
    let (verb, rest) = arguments.split_first().unwrap();
    let asked = status.args([verb, "--node", &here]).args(rest);
    let mut client = asked.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut near, _) = listener.accept().unwrap();
    let mut far = host.run(|| TcpStream::connect(("127.0.0.1", ADMIN_PORT)).unwrap()).unwrap();
    let (mut back, mut to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
    let answers = std::thread::spawn(move || drop(std::io::copy(&mut back, &mut to)));
    let (mut recorded, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = near.read(&mut buffer) {
        recorded.extend(&buffer[..length]);
        far.write_all(&buffer[..length]).unwrap();
    }
    drop(far.shutdown(std::net::Shutdown::Both));
    answers.join().unwrap();
    // What does not exist, or is not for this node, is refused, and the request was made.
    let is_question = ["status", "objects", "alerts"].contains(verb);
    assert!(client.wait().unwrap().success() || !is_question, "{arguments:?}");
    assert!(recorded.starts_with(b"PRI"), "{recorded:?}");
    recorded
}

/// Says this and reads what comes at once, or nothing.
fn say(mut stream: impl Read + Write, bytes: &[u8], is_patient: bool) {
    // The other side may end it at any time.
    drop(stream.write_all(bytes));
    if is_patient {
        drop(stream.read(&mut [0; 4096]));
    }
}

fn brief(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    stream
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok().map(brief)
}

/// HTTP until `ends`; how often something was said.
pub(crate) fn http(site: &Site, node: &str, ends: &AtomicBool) -> u64 {
    let (mut dice, mut said, mut kept) = (Dice::new(20), 0, Vec::new());
    let address = SocketAddr::from((site.network.host(node).addr_v4(), HTTP_PORT));
    while !ends.load(Ordering::Relaxed) {
        let Some(stream) = connect(address) else {
            // All places are taken, and the queue is full: others come.
            kept.truncate(KEPT / 2);
            continue;
        };
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        let content = b"GET /content/site/file-0 HTTP/1.1\r\nHost: x\r\nRange: bytes=7-70000\r\n\r\n";
        let bytes = match dice.below(8) {
            0 => dice.noise(4000),
            1 => dice.mutate(request),
            6 => dice.mutate(content),
            7 => content.to_vec(),
            2 => request.repeat(100),
            3 => [b"GET /content/site/../../x HTTP/1.1\r\nX: ", &b"y".repeat(100_000)[..]].concat(),
            4 => PREFACE.to_vec(),
            _ => request[..dice.below(request.len())].to_vec(),
        };
        said += 1;
        if kept.len() < KEPT {
            drop((&stream).write_all(&bytes));
            kept.push(stream);
        } else {
            let is_patient = dice.below(2) == 0;
            say(stream, &bytes, is_patient);
        }
    }
    said
}

/// gRPC on TCP and on the Unix socket until `ends`; how often something was said.
pub(crate) fn grpc(site: &Site, node: &str, recordings: &[Vec<u8>], ends: &AtomicBool) -> u64 {
    let (mut dice, mut said, mut kept) = (Dice::new(30), 0, Vec::new());
    let address = SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT));
    let socket = site.state(node).join("admin.sock");
    while !ends.load(Ordering::Relaxed) {
        let recorded = &recordings[dice.below(recordings.len())];
        let bytes = match dice.below(7) {
            0 => dice.noise(4000),
            5 => replayed(recorded, &mut dice),
            6 => [&recorded[..], &recorded[PREFACE_LEN..]].concat(),
            1 => [PREFACE, &frames(&mut dice)].concat(),
            2 => PREFACE[..dice.below(PREFACE.len())].to_vec(),
            3 => recorded.clone(),
            _ => dice.mutate(recorded),
        };
        said += 1;
        let is_patient = dice.below(2) == 0;
        if dice.below(2) == 0 {
            let Ok(stream) = UnixStream::connect(&socket) else { continue };
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            say(stream, &bytes, is_patient);
        } else if let Some(stream) = connect(address) {
            if kept.len() < 40 {
                kept.push(stream);
            } else {
                say(stream, &bytes, is_patient);
            }
        }
    }
    said
}

/// A recording whose frames stay whole, while what is in them is changed; some come twice, others never.
fn replayed(recorded: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (preface, mut rest) = recorded.split_at(PREFACE_LEN);
    let mut bytes = preface.to_vec();
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (payload, next) = after.split_at(length.min(after.len()));
        rest = next;
        let payload = if dice.below(3) == 0 { dice.mutate(payload) } else { payload.to_vec() };
        for _ in 0..[0, 1, 1, 1, 1, 2][dice.below(6)] {
            bytes.extend(&payload.len().to_be_bytes()[5..]);
            bytes.extend(&head[3..]);
            bytes.extend(&payload);
        }
    }
    bytes
}

/// HTTP/2 frames of any type, length and stream.
fn frames(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..dice.below(50) {
        let payload = dice.noise(200);
        // Now and then the length is a lie.
        let length = if dice.below(10) == 0 { dice.below(1 << 24) } else { payload.len() };
        let stream = u32::try_from(dice.below(20)).unwrap();
        bytes.extend(&length.to_be_bytes()[5..]);
        bytes.extend([dice.below(12).to_le_bytes()[0], dice.below(256).to_le_bytes()[0]]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
    }
    bytes
}
