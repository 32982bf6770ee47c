//! The admin interface on TCP: off loopback with certificates on both sides only.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nackcast_testbed::netns::with_namespaces;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::stage::{Stage, code_of, end, until, with_others};

/// A CA, and what it signed: NAME.pem with NAME.key.
fn certificates(stage: &Stage, ca: &str, names: &[&str]) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    write(&stage.path(&format!("{ca}.pem")), &issuer.pem());
    for name in names {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![stage.address("sender").to_string()]).unwrap();
        let signed = params.signed_by(&key, &issuer).unwrap();
        write(&stage.path(&format!("{name}.pem")), &signed.pem());
        write(&stage.path(&format!("{name}.key")), &key.serialize_pem());
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// As many as may be connected at once.
const PLACES: usize = 64;
/// Between two bytes: far less than any idle connection is given.
const DRIP: Duration = Duration::from_millis(100);

/// Takes all places, and says a byte of an endless handshake now and then; how many were shown out.
fn drip(stage: &Stage, ends: &AtomicBool, full: &AtomicBool) -> usize {
    let mut streams: Vec<_> = (0..PLACES).map(|_| stage.connect("sender", 7800)).collect();
    streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    full.store(true, Ordering::Relaxed);
    // A handshake record with a long hello, of which the rest never comes.
    let hello = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];
    for byte in hello.into_iter().chain(std::iter::repeat(7)) {
        streams.retain_mut(|stream| {
            let is_open = match stream.read(&mut [0; 512]) {
                Ok(length) => length > 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            is_open && stream.write_all(&[byte]).is_ok()
        });
        if ends.load(Ordering::Relaxed) {
            break;
        }
        std::thread::park_timeout(DRIP);
    }
    PLACES - streams.len()
}

#[test]
fn handshakes_that_never_end_do_not_keep_others_out() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        certificates(&stage, "ca", &["node", "friend"]);
        let path = |name: &str| stage.path(name).display().to_string();
        let (cert, key, ca) = (path("node.pem"), path("node.key"), path("ca.pem"));
        let tls = ["--admin", "0.0.0.0:7800", "--admin-cert", &cert, "--admin-key", &key, "--admin-ca", &ca];
        let mut sender = stage.send(&tls);
        stage.until_channel("sender", "it serves", |channel| channel["state"] == "idle");
        let (ends, full) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let dripping = scope.spawn(|| drip(&stage, &ends, &full));
            until("all places are taken", || full.load(Ordering::Relaxed).then_some(()));
            let node = format!("https://{}:7800", stage.address("sender"));
            let (cert, key) = (path("friend.pem"), path("friend.key"));
            let asked = ["status", "--json", "--node", &node, "--ca", &ca, "--cert", &cert, "--key", &key];
            until("a friend is answered", || stage.ask_over_network(&asked).status.success().then_some(()));
            ends.store(true, Ordering::Relaxed);
            let shown_out = dripping.join().unwrap();
            assert!(shown_out > 0, "they did not take all places");
        });
        end(&mut sender);
    });
}

#[test]
fn off_loopback_both_sides_need_certificates() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        certificates(&stage, "ca", &["node", "friend"]);
        certificates(&stage, "other-ca", &["stranger"]);
        let mut refused = stage.send(&["--admin", "0.0.0.0:7800"]);
        assert_eq!(code_of(&mut refused), Some(2));
        assert!(refused.stderr().contains("--admin-ca"), "{}", refused.stderr());

        let path = |name: &str| stage.path(name).display().to_string();
        let (cert, key, ca) = (path("node.pem"), path("node.key"), path("ca.pem"));
        let tls = ["--admin", "0.0.0.0:7800", "--admin-cert", &cert, "--admin-key", &key, "--admin-ca", &ca];
        let mut sender = stage.send(&tls);
        stage.until_channel("sender", "it serves", |channel| channel["state"] == "idle");
        let node = format!("https://{}:7800", stage.address("sender"));
        let ask = |name: &str| {
            let (cert, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
            stage.ask_over_network(&["status", "--json", "--node", &node, "--ca", &ca, "--cert", &cert, "--key", &key])
        };
        let output = until("a friend is answered", || Some(ask("friend")).filter(|output| output.status.success()));
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"role\":\"sender\""));
        assert_eq!(ask("stranger").status.code(), Some(1), "signed by somebody else");
        let nameless = stage.ask_over_network(&["status", "--node", &node, "--ca", &ca]);
        assert_eq!(nameless.status.code(), Some(1), "{nameless:?}");
        let plain = stage.ask_over_network(&["status", "--node", &node.replace("https", "http")]);
        assert_eq!(plain.status.code(), Some(1), "{plain:?}");
        end(&mut sender);
    });
}
